"""Positions of AOIs from their tile, their rasters and their footprints."""

import math
from pathlib import Path

import numpy as np

from preprocessing.vector_files import read_vector
from vicreg.data.georeference import one_line, to_degrees
from vicreg.data.sn7_format import parse_aoi_name

TILE_MARGIN = 0.1  # in tile sides: how far outside of its tile an AOI's position may lie
MAX_OUTSIDE = 0.05  # fraction of its points

_MERCATOR_HALF = math.pi * 6378137  # half the side of the EPSG:3857 world, in meters
_GRID = 9  # points per side if there are no footprints


def xyz_tile_bounds(x: int, y: int, z: int) -> tuple[float, float, float, float]:
    """Compute the bounds of a web-mercator XYZ tile (row 0 in the north).

    Returns:
        (left, bottom, right, top) in meters, EPSG:3857.

    Raises:
        ValueError: Zoom level z has no such tile.
    """
    if not (0 <= x < 2**z and 0 <= y < 2**z):
        raise ValueError(f"no tile {x}/{y} at zoom {z}: columns and rows run from 0 to {2**z - 1}")
    side = 2 * _MERCATOR_HALF / 2**z
    left, top = x * side - _MERCATOR_HALF, _MERCATOR_HALF - y * side
    return left, top - side, left + side, top


def tile_points(aoi: str) -> np.ndarray:
    """Return a grid of points over the tile in an AOI's name: (n, 2) latitude, longitude in degrees."""
    left, bottom, right, top = xyz_tile_bounds(*parse_aoi_name(aoi))
    east, north = np.meshgrid(_midpoints(left, right), _midpoints(bottom, top))
    longitude, latitude = mercator_to_degrees(east.ravel(), north.ravel())
    return np.stack([latitude, longitude], axis=1)


def mercator_to_degrees(east: np.ndarray | float, north: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude of EPSG:3857 coordinates in meters."""
    return np.degrees(east / 6378137), np.degrees(np.arctan(np.sinh(north / 6378137)))


def raster_points(crs: object, transform: tuple, width: int, height: int) -> np.ndarray:
    """Return a grid of points over a raster of width x height pixels: (n, 2) latitude, longitude in degrees.

    Raises:
        ValueError: The coordinates cannot be transformed to degrees.
    """
    column, row = np.meshgrid(_midpoints(0, width), _midpoints(0, height))
    a, b, c, d, e, f = transform[:6]
    x, y = a * column + b * row + c, d * column + e * row + f
    longitude, latitude = to_degrees(crs, x.ravel(), y.ravel())
    return np.stack([latitude, longitude], axis=1)


def footprint_points(path: str | Path) -> np.ndarray:
    """Return the centroids of the building footprints in a label file: (n, 2) latitude, longitude in degrees.

    Raises:
        ValueError: The file is broken, has no footprints, or its coordinates are not on the globe.
    """
    import shapely

    table = read_vector(path, columns=[])
    try:
        shapes = table.geometry.to_crs("EPSG:4326") if table.crs else table.geometry
    except Exception as error:  # errors of PROJ have no public base class
        raise ValueError(f"{path}: cannot be transformed to degrees ({one_line(error)})") from error
    centers = shapely.get_coordinates(shapely.centroid(shapes.array[~shapes.isna()]))[:, ::-1]
    if not len(centers):
        raise ValueError(f"{path}: no building footprints")
    if not (np.abs(centers) <= (90, 180)).all():
        raise ValueError(f"{path}: coordinates are not longitude and latitude")
    return centers


def check_position(aoi: str, points: np.ndarray, source: str) -> str:
    """Return "" if positions (n, 2) of a source fit the tile in an AOI's name, else a message.

    All but ``MAX_OUTSIDE`` of the points have to lie in the tile or within ``TILE_MARGIN`` of it. The message has the
    median of the others, and the position of the tile.
    """
    x, y, z = parse_aoi_name(aoi)
    tile = np.median(tile_points(aoi), axis=0)
    longitude = tile[1] + (points[:, 1] - tile[1] + 180) % 360 - 180  # near the tile, also across 180 degrees
    column = (longitude + 180) / 360 * 2**z
    row = (0.5 - np.arcsinh(np.tan(np.radians(np.clip(points[:, 0], -89.9, 89.9)))) / (2 * np.pi)) * 2**z
    outside = np.maximum(abs(column - x - 0.5), abs(row - y - 0.5)) > 0.5 + TILE_MARGIN
    if outside.mean() <= MAX_OUTSIDE:
        return ""
    share = "" if outside.all() else f"{outside.mean():.0%} of "
    position = format_position(np.median(points[outside, 0]), np.median(longitude[outside]))
    return (f"{share}{source} lie at {position}, the tile number in the AOI's name at {format_position(*tile)}; "
            "correct or remove the file")  # fmt: skip


def format_position(latitude: float, longitude: float) -> str:
    """Format a position, such as ``51.4403 N, 0.2856 E``."""
    longitude = (longitude + 180) % 360 - 180
    return f"{abs(latitude):.4f} {'S' if latitude < 0 else 'N'}, {abs(longitude):.4f} {'W' if longitude < 0 else 'E'}"


def _midpoints(low: float, high: float) -> np.ndarray:
    """Return the midpoints of equal parts of an interval."""
    return low + (high - low) * (np.arange(_GRID) + 0.5) / _GRID
