"""Write the files of one AOI of the synthetic SN7 tree: mosaics and building footprints."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocessing.sn7.drawing import draw_mosaic
from preprocessing.sn7.geocode import mercator_to_degrees, xyz_tile_bounds
from preprocessing.sn7.synthetic import build_scene

# The 60 training AOIs of SpaceNet-7 as web-mercator tiles x_y of zoom 13, each with the land cover it is drawn with:
# first 12 countries with 12 covers, then the other 19 countries, then the rest.
_AOIS = """
2732_4164 rainforest, 5156_3514 newtown, 4102_2726 suburb, 3699_3757 coast, 1327_3160 farmland, 6154_3539 paddy,
4196_2710 port, 5753_3655 metro, 3911_3441 desert, 5193_2903 steppe, 2459_4406 hills, 6678_3548 redearth,
4840_4088 redearth, 1831_3648 metro, 2287_3888 rainforest, 2345_3680 farmland, 2528_4620 desert, 4061_3941 rainforest,
4553_3325 newtown, 4688_2967 farmland, 4742_4450 redearth, 4802_4803 suburb, 4815_3378 desert, 4838_3737 steppe,
5105_3761 hills, 5184_3399 newtown, 5342_3524 desert, 5557_3054 steppe, 6838_3742 paddy, 6993_3202 hills,
7394_5018 suburb, 1429_3296 hills, 1433_3310 hills, 1446_2989 farmland, 1474_3210 newtown, 1549_3087 steppe,
1736_3318 desert, 1950_3207 farmland, 2027_3374 suburb, 2176_3279 suburb, 2265_3451 farmland, 2309_3217 suburb,
2383_3079 suburb, 3041_4643 redearth, 4056_2688 suburb, 4816_3380 desert, 4819_3372 newtown, 5759_3655 paddy,
5916_3785 redearth, 5927_3715 paddy, 6460_3370 paddy, 6460_3366 metro, 6468_3360 metro, 6678_3579 coast,
6679_3549 redearth, 6691_3363 port, 6763_3346 paddy, 6764_3347 paddy, 6813_3313 paddy, 6864_3345 port
"""
AOIS = [entry.split() for entry in _AOIS.replace("\n", " ").split(",")]
ZOOM = 13


def aoi_name(tile: str) -> str:
    """Return SpaceNet-7's name of the AOI on a tile: "1327_3160" -> "L15-0331E-1257N_1327_3160_13"."""
    x, y = map(int, tile.split("_"))
    return f"L15-{x // 4:04d}E-{(2**ZOOM - 1 - y) // 4:04d}N_{tile}_{ZOOM}"


def write_aoi(folder: Path, tile: str, cover: str, months: int, size: int, rows: int, seed: int) -> Iterator[int]:
    """Write the mosaics (rows x size pixels) and footprints of one of ``AOIS``; yield the footprints of each month."""
    import rasterio

    name, (x, y) = aoi_name(tile), map(int, tile.split("_"))
    west, _, east, north = xyz_tile_bounds(x, y, ZOOM)
    pixel = (east - west) / size
    scene = build_scene(cover, mercator_to_degrees(0, north)[1], size, rows, (seed, zlib.crc32(name.encode())))
    corners = mercator_to_degrees(west + scene.outlines[..., 0] * pixel, north - scene.outlines[..., 1] * pixel)
    rings = np.round(np.stack(corners, -1), 9).tolist()  # 9 digits: a tenth of a millimeter
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 4, "width": size, "height": rows, "crs": "EPSG:3857"}
    profile |= {"compress": "deflate", "photometric": "RGB", "alpha": "yes"}
    profile["transform"] = rasterio.Affine(pixel, 0, west, 0, -pixel, north)
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "labels").mkdir()
    for month in range(months):
        mosaic = f"global_monthly_{2018 + month // 12}_{month % 12 + 1:02d}_mosaic_{name}"
        with rasterio.open(folder / name / "images" / f"{mosaic}.tif", "w", **profile) as raster:
            raster.write(np.moveaxis(draw_mosaic(scene, month), 2, 0))
        features = [
            {"type": "Feature", "properties": {"Id": k}, "geometry": {"type": "Polygon", "coordinates": [rings[k]]}}
            for k in np.flatnonzero(scene.finished[:-1] <= month).tolist()
        ]
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
        footprints = {"type": "FeatureCollection", "crs": crs, "features": features}
        (folder / name / "labels" / f"{mosaic}_Buildings.geojson").write_text(json.dumps(footprints))
        yield len(features)
