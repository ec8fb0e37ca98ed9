"""Transform positions between coordinate reference systems, with errors that say what to do."""

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAX_COORDINATE = 1e12  # GDAL does not return from larger ones in EPSG:3857


def to_degrees(
    crs: object, x: Sequence[float], y: Sequence[float], strict: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Transform n positions in any system that rasterio takes to longitude and latitude (EPSG:4326).

    Positions outside of the domain of the system are refused, or NaN if not ``strict``.

    Returns:
        Longitude (n,) and latitude (n,) in degrees.

    Raises:
        ValueError: PROJ cannot transform this system, or the positions lie outside its domain.
    """
    from rasterio.warp import transform

    limited = np.where(np.abs(x) < _MAX_COORDINATE, x, np.inf)
    try:
        longitude, latitude = (np.array(values) for values in transform(crs, "EPSG:4326", limited, y))
    except Exception as error:  # errors of GDAL and PROJ have no public base class
        raise ValueError(f"its coordinate reference system cannot be transformed ({one_line(error)})") from error
    inside = np.isfinite(longitude) & np.isfinite(latitude)
    if strict and not inside.all():
        raise ValueError("its coordinates lie outside of its coordinate reference system")
    return np.where(inside, longitude, np.nan), np.where(inside, latitude, np.nan)


def georeference(raster: Any) -> tuple[Any, Sequence[float]] | None:
    """Return where an open raster lies, from its transform or, without one, its ground control points.

    Returns:
        CRS and affine transform, pixel -> CRS (the nearest one to the control points); None without a georeference.

    Raises:
        ValueError: The control points lie in a line.
    """
    from rasterio.transform import from_gcps

    if not raster.transform.is_identity:  # the identity is what a raster without a transform reports
        return (raster.crs, raster.transform[:6]) if raster.crs else None
    points, crs = raster.gcps
    if not points or not crs:
        return None
    try:
        return crs, from_gcps(points)[:6]
    except Exception as error:  # errors of GDAL have no public base class
        raise ValueError(f"its ground control points give no position ({one_line(error)})") from error


def check_proj() -> None:
    """Check that PROJ finds its database.

    Without it, GDAL writes files with an unknown coordinate system (LOCAL_CS) and reports success.

    Raises:
        ValueError: PROJ cannot look up EPSG:3857.
    """
    from rasterio.crs import CRS

    try:
        CRS.from_epsg(3857)
    except Exception as error:  # errors of GDAL and PROJ have no public base class
        paths = [f"{name}={os.environ[name]}" for name in ("PROJ_DATA", "PROJ_LIB") if name in os.environ]
        hint = f"unset {' and '.join(paths)} of another installation" if paths else "reinstall rasterio"
        raise ValueError(f"PROJ cannot look up EPSG:3857 ({one_line(error)}); {hint}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 160 characters, or its type if it has no message."""
    return textwrap.shorten(str(error), 160, placeholder=" …") or type(error).__name__
