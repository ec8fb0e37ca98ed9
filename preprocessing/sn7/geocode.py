"""Locate AOIs offline: position -> city, state, country and ISO 3166 code, by a vote over many points.

Each point takes the nearest place of the GeoNames list that `reverse_geocode` contains. A single point is easily wrong
near a border, so all points of an AOI vote: on the country, then on the state in it, then on the city in that state.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from preprocessing.georeference import one_line, to_degrees
from preprocessing.sn7.places import Place, country_names
from vicreg.data.sn7_format import parse_aoi_name

TILE_MARGIN = 0.1  # in tile sides: how far outside of its tile an AOI's position may lie

_MERCATOR_HALF = math.pi * 6378137  # half the side of the EPSG:3857 world, in meters
_GRID = 9  # points per side if there are no footprints


def xyz_tile_bounds(x: int, y: int, z: int) -> tuple[float, float, float, float]:
    """Compute the bounds of a web-mercator XYZ tile (row 0 in the north).

    Returns:
        (left, bottom, right, top) in meters, EPSG:3857.

    Raises:
        ValueError: Zoom level z has no such tile.
    """
    tiles = 2**z
    if not (0 <= x < tiles and 0 <= y < tiles):
        raise ValueError(f"no tile {x}/{y} at zoom {z}: columns and rows run from 0 to {tiles - 1}")
    side = 2 * _MERCATOR_HALF / tiles
    left, top = x * side - _MERCATOR_HALF, _MERCATOR_HALF - y * side
    return left, top - side, left + side, top


def tile_points(aoi: str) -> np.ndarray:
    """Return a grid of points over the tile in an AOI's name: (n, 2) latitude, longitude in degrees."""
    left, bottom, right, top = xyz_tile_bounds(*parse_aoi_name(aoi))
    east, north = np.meshgrid(_midpoints(left, right), _midpoints(bottom, top))
    longitude = np.degrees(east / 6378137)
    latitude = np.degrees(np.arctan(np.sinh(north / 6378137)))
    return np.stack([latitude.ravel(), longitude.ravel()], axis=1)


def raster_points(crs: object, transform: tuple, width: int, height: int) -> np.ndarray:
    """Return a grid of points over a raster: (n, 2) latitude, longitude in degrees.

    Args:
        crs: rasterio CRS.
        transform: Affine transform, pixel -> crs.
        width: In pixels.
        height: In pixels.

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
    import geopandas
    import shapely

    if not Path(path).stat().st_size:
        raise ValueError(f"{path}: empty file (zero bytes); no building footprints")
    with open(path, "rb") as file:
        if not file.read(2**12).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):  # such as a VRT of that name
            raise ValueError(f"{path}: cannot be read as GeoJSON (not a JSON object)")
    try:
        table = geopandas.read_file(path, engine="pyogrio", columns=[])
        shapes = table.geometry.to_crs("EPSG:4326") if table.crs else table.geometry
    except Exception as error:  # GDAL, pyogrio, pyproj and shapely each raise their own
        raise ValueError(f"{path}: cannot be read as GeoJSON ({one_line(error)})") from error
    centers = shapely.get_coordinates(shapely.centroid(shapes.array[~shapes.isna()]))[:, ::-1]
    if not len(centers):
        raise ValueError(f"{path}: no building footprints")
    if not (np.abs(centers) <= (90, 180)).all():
        raise ValueError(f"{path}: coordinates are not longitude and latitude")
    return centers


def check_position(aoi: str, points: np.ndarray, source: str) -> str:
    """Compare positions with the tile in an AOI's name.

    Args:
        aoi: Name of the AOI.
        points: (n, 2) latitude, longitude in degrees; their median counts.
        source: What the positions come from, for the message.

    Returns:
        "" if the median lies in the tile or within ``TILE_MARGIN`` of it, else a message with both positions.
    """
    x, y, z = parse_aoi_name(aoi)
    latitude, longitude = np.median(points, axis=0)
    column = (longitude + 180) / 360 * 2**z
    row = (0.5 - np.arcsinh(np.tan(np.radians(np.clip(latitude, -89.9, 89.9)))) / (2 * np.pi)) * 2**z
    if max(abs(column - x - 0.5), abs(row - y - 0.5)) <= 0.5 + TILE_MARGIN:
        return ""
    tile = np.median(tile_points(aoi), axis=0)
    return (f"{source} lie at {format_position(latitude, longitude)}, the tile number in the AOI's name at "
            f"{format_position(*tile)}; correct or remove the file")  # fmt: skip


def format_position(latitude: float, longitude: float) -> str:
    """Format a position, such as ``51.4403 N, 0.2856 E``."""
    return f"{abs(latitude):.4f} {'S' if latitude < 0 else 'N'}, {abs(longitude):.4f} {'W' if longitude < 0 else 'E'}"


def locate(points: np.ndarray) -> Place:
    """Find the place of an AOI by a vote over points.

    Args:
        points: (n, 2) latitude, longitude in degrees, n > 0.

    Returns:
        The most frequent country, in it the most frequent state, in that the most frequent city. Ties are resolved
        alphabetically.
    """
    import reverse_geocode

    nearest = reverse_geocode.search(points)
    votes = [(each["country_code"], each.get("state") or "", each["city"]) for each in nearest]
    for level in range(3):
        counts = Counter(vote[level] for vote in votes)
        winner = min(counts, key=lambda name: (-counts[name], name))
        votes = [vote for vote in votes if vote[level] == winner]
    iso, state, city = votes[0]
    return Place(city, state, country_names()[iso], iso)


def town_distance(points: np.ndarray) -> float:
    """Return the median distance of points to their nearest places of the GeoNames list, in km.

    The country of a nearest place is unreliable far from it: compared with Natural Earth borders, about 1 % of points
    within 10 km are wrong, and a third at 20 to 50 km.

    Args:
        points: (n, 2) latitude, longitude in degrees, n > 0.
    """
    import reverse_geocode

    towns = np.array([(each["latitude"], each["longitude"]) for each in reverse_geocode.search(points)])
    (lat1, lon1), (lat2, lon2) = np.radians(points).T, np.radians(towns).T
    haversine = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return float(np.median(2 * 6371 * np.arcsin(np.sqrt(haversine))))


def _midpoints(low: float, high: float) -> np.ndarray:
    """Return the midpoints of equal parts of an interval."""
    return low + (high - low) * (np.arange(_GRID) + 0.5) / _GRID
