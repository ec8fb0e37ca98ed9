"""Positions of patches and images in degrees, and the columns that say where and when they were taken."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vicreg.data.georeference import georeference, to_degrees
from vicreg.data.images import is_raster
from vicreg.data.rasters import open_raster
from vicreg.data.sn7_format import parse_aoi_name

_MERCATOR_HALF = 20037508.342789244  # meters, EPSG:3857


def sn7_columns(table: pd.DataFrame, grid: int) -> pd.DataFrame:
    """Describe the patches of an SN7 patch list.

    Args:
        table: Patch list, see ``sn7_format.read_patch_list``.
        grid: Patches per side of a mosaic.

    Returns:
        DataFrame (n rows): ``path``, ``patch``, ``location``, ``date`` (first day of the month), ``split``, and the
        center of the patch, ``longitude`` and ``latitude``.
    """
    x, y, zoom = np.array([parse_aoi_name(aoi) for aoi in table.aoi]).T
    side = 2 * _MERCATOR_HALF / 2.0**zoom
    east = (x + (table.patch % grid + 0.5) / grid) * side - _MERCATOR_HALF
    north = _MERCATOR_HALF - (y + (table.patch // grid + 0.5) / grid) * side
    longitude, latitude = _degrees("EPSG:3857", east, north).T
    names = [f"{aoi}/images/{Path(image_id).stem}.tif" for aoi, image_id in zip(table.aoi, table.image_id, strict=True)]
    dates = [f"{year:04d}-{month:02d}-01" for year, month in zip(table.year, table.month, strict=True)]
    return pd.DataFrame({
        "path": names, "patch": table.patch, "location": table.aoi + "/" + table.patch.astype(str), "date": dates,
        "split": table.split, "longitude": longitude, "latitude": latitude,
    })  # fmt: skip


def imagery_columns(table: pd.DataFrame, meta: dict[str, Any]) -> pd.DataFrame:
    """Describe the patches of a list of ``make_imagery_csv.py``; see ``sn7_columns``.

    Args:
        table: Patch list.
        meta: Content of ``meta.json``.
    """
    result = table[["image_id", "location", "date", "split"]].rename(columns={"image_id": "path"})
    result["longitude"], result["latitude"] = np.nan, np.nan
    for number, grid in enumerate(meta["grids"]):
        rows = (table.grid == number).to_numpy()
        x = grid["origin"][0] + (table.column[rows] + meta["patch_size"] / 2) * grid["resolution"][0]
        y = grid["origin"][1] - (table.line[rows] + meta["patch_size"] / 2) * grid["resolution"][1]
        result.loc[rows, ["longitude", "latitude"]] = _degrees(grid["crs"], x, y)
    return result


def image_columns(paths: Sequence[str]) -> pd.DataFrame:
    """Describe image files: ``path``, and the center of rasters with a georeference; see ``sn7_columns``."""
    with ThreadPoolExecutor(8) as pool:
        centers = np.array(list(pool.map(_center, paths)), float).reshape(-1, 2)
    return pd.DataFrame({"path": paths, "longitude": centers[:, 0], "latitude": centers[:, 1]})


def _center(path: str) -> Sequence[float]:
    """Return longitude and latitude of the center of a raster; NaN without a georeference."""
    if is_raster(path):
        with contextlib.suppress(ValueError), open_raster(path) as raster:  # named when its pixels are read
            if found := georeference(raster):
                crs, (a, b, left, d, e, top) = found
                column, row = raster.width / 2, raster.height / 2
                return _degrees(crs, [a * column + b * row + left], [d * column + e * row + top])[0]
    return np.nan, np.nan


def _degrees(crs: Any, x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Return longitude and latitude (WGS 84) of n coordinates, (n, 2); NaN where they cannot be transformed."""
    try:
        return np.stack(to_degrees(crs, x, y, strict=False), 1)
    except ValueError:
        return np.full((len(x), 2), np.nan)
