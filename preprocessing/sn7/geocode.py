"""Locate AOIs offline: position -> city, state, country and ISO 3166 code, by a vote over many points.

Each point takes the nearest place of the GeoNames list that `reverse_geocode` contains. A single point is easily wrong
near a border, so all points of an AOI vote: on the country, then on the state in it, then on the city in that state.
"""

import csv
import difflib
import math
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocessing.georeference import one_line, to_degrees
from preprocessing.text_files import delimiter, read_text
from vicreg.data.sn7 import parse_aoi_name

SHIPPED_PLACES = Path(__file__).with_name("places.csv")  # AOIs whose nearest place lies across a border
PLACE_COLUMNS = ["aoi", "city", "state", "country"]
LABELS = ("country", "state", "city")
TILE_MARGIN = 0.1  # in tile sides: how far outside of its tile an AOI's position may lie

_MERCATOR_HALF = math.pi * 6378137  # half the side of the EPSG:3857 world, in meters
_GRID = 9  # points per side if there are no footprints
# GeoNames' country list has formal and outdated names; class names are the common ones.
_COMMON_NAMES = {
    "BN": "Brunei", "CD": "Democratic Republic of the Congo", "CG": "Republic of the Congo", "CI": "Ivory Coast",
    "FM": "Micronesia", "IR": "Iran", "KP": "North Korea", "KR": "South Korea", "LA": "Laos", "LY": "Libya",
    "MD": "Moldova", "MK": "North Macedonia", "PS": "Palestine", "RU": "Russia", "SY": "Syria", "SZ": "Eswatini",
    "TZ": "Tanzania", "VA": "Vatican City",
}  # fmt: skip
_ALIASES = {"uk": "GB"}  # common names that ISO 3166 does not have


class Place(NamedTuple):
    """English names and the ISO 3166 alpha-2 code of the country; city and state may be ""."""

    city: str
    state: str
    country: str
    iso: str

    def class_name(self, label: str) -> str:
        """Return the class name of this place; it contains the country, because states and cities share names."""
        parts = {"country": [], "state": [self.state], "city": [self.city, self.state]}[label]
        return ", ".join([part for part in parts if part] + [self.country])


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


@lru_cache(1)
def country_names() -> dict[str, str]:
    """Return ISO 3166 alpha-2 code -> English name of the country."""
    with (resources.files("reverse_geocode") / "countries.csv").open(encoding="utf-8") as file:
        return {code: _COMMON_NAMES.get(code, name) for code, name in csv.reader(file)}


def resolve_country(country: str) -> str:
    """Return the ISO 3166 alpha-2 code of a country, given by a name or an alpha-2 or alpha-3 code.

    Raises:
        ValueError: The country is unknown; the message lists similar names.
    """
    import pycountry

    codes = {name.casefold(): code for code, name in country_names().items()} | _ALIASES
    if country.casefold() in codes:
        return codes[country.casefold()]
    try:
        return pycountry.countries.lookup(country).alpha_2
    except LookupError as error:
        known = [name for each in pycountry.countries for name in (each.name, getattr(each, "common_name", each.name))]
        similar = difflib.get_close_matches(country, sorted({*country_names().values(), *known}), 3)
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise ValueError(f"no country {country} in ISO 3166{hint}") from error


def read_places(path: str | Path, aois: Collection[str] | None = None) -> dict[str, Place]:
    """Read a table of places that replace the vote.

    Args:
        path: CSV with the columns aoi, city, state and country. The country is a name or an ISO 3166 code.
        aois: AOIs of the tree; None accepts any.

    Returns:
        dict AOI -> Place, with the country's English name whatever form the table has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The header is wrong, an AOI is not in the tree, or a country is missing or unknown.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table of places at {path}")
    text = read_text(path)
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter(text))
    if reader.fieldnames is None or sorted(reader.fieldnames) != sorted(PLACE_COLUMNS):
        raise ValueError(f"{path}: columns are {reader.fieldnames}; {','.join(PLACE_COLUMNS)} expected")
    places = {}
    for row in reader:
        line = f"{path}, line {reader.line_num}"
        if None in row or None in row.values() or not row["country"].strip():
            raise ValueError(f"{line}: four fields expected, and a country")
        aoi, city, state, country = (row[column].strip() for column in PLACE_COLUMNS)
        if aois is not None and aoi not in aois:
            raise ValueError(f"{line}: no AOI {aoi} in the tree")
        try:
            iso = resolve_country(country)
        except ValueError as error:
            raise ValueError(f"{line}: {error}") from error
        places[aoi] = Place(city, state, country_names().get(iso, country), iso)
    return places


def _midpoints(low: float, high: float) -> np.ndarray:
    """Return the midpoints of equal parts of an interval."""
    return low + (high - low) * (np.arange(_GRID) + 0.5) / _GRID
