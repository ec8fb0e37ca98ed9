"""Cut rasters and images of any band count into packed patches on fixed grids."""
