"""Small georeferenced rasters for the tests of imagery."""

import numpy as np

from vicreg.data.rasters import quiet_georeference

ORIGINS = {"EPSG:32633": (500000, 5600000), "EPSG:32634": (420000, 5500000)}


def write_raster(path, pixels, column=0, row=0, crs="EPSG:32633", resolution=10, descriptions=None, **profile):
    """Write (bands, height, width) at a column and row of the lattice of a CRS; crs=None for no georeference."""
    import rasterio

    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype} | profile
    if crs:
        left, top = ORIGINS.get(crs, (0, 0))
        left, top = left + column * resolution, top - row * resolution
        profile |= {"crs": crs, "transform": rasterio.Affine(resolution, 0, left, 0, -resolution, top)}
    if profile["driver"] == "GTiff":
        profile.setdefault("photometric", "MINISBLACK")
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)
        if descriptions:
            raster.descriptions = descriptions
    return path


def ground(bands, height=96, width=96, seed=0, dtype=np.uint16, high=10000):
    """Return random pixels of a piece of ground, never 0."""
    return np.random.default_rng(seed).integers(1, high, (bands, height, width)).astype(dtype)


def prepare(folder, out, *options):
    """Run make_imagery_csv.py in this process and return the patch list, the pixels and meta.json."""
    import json

    import pandas as pd

    from preprocessing import make_imagery_csv

    words = ["--data-dir", str(folder), "--out-dir", str(out), "--workers", "2", *map(str, options)]
    make_imagery_csv.main(make_imagery_csv.get_parser().parse_args(words))
    meta = json.loads((out / "meta.json").read_text())
    pixels = np.concatenate([np.load(out / shard["file"]) for shard in meta["shards"]])
    return pd.read_csv(out / "all.csv", keep_default_na=False), pixels, meta
