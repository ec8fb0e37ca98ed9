"""Inference on large rasters."""
