"""Where an AOI is: position -> city, state, country and ISO code, offline, by a vote over many points.

The nearest place of the GeoNames list that `reverse_geocode` ships answers for each point. One point is easily wrong
near a border, so an AOI's points vote: on the country, then on the state within it, then on the city within that.
"""

import csv
import math
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg.data.sn7_format import parse_aoi_name

SHIPPED_PLACES = Path(__file__).with_name("places.csv")  # where the nearest place lies across a border
PLACE_COLUMNS = ["aoi", "city", "state", "country"]
LABELS = ("country", "state", "city")

_MERCATOR_HALF = math.pi * 6378137  # half the side of the EPSG:3857 world, in meters
_GRID = 9  # points per side where there are no footprints to vote
# GeoNames' country list carries formal and outdated names; class names should be the ones people say.
_COMMON_NAMES = {
    "BN": "Brunei", "CD": "Democratic Republic of the Congo", "CG": "Republic of the Congo", "CI": "Ivory Coast",
    "FM": "Micronesia", "IR": "Iran", "KP": "North Korea", "KR": "South Korea", "LA": "Laos", "LY": "Libya",
    "MD": "Moldova", "MK": "North Macedonia", "PS": "Palestine", "RU": "Russia", "SY": "Syria", "SZ": "Eswatini",
    "TZ": "Tanzania", "VA": "Vatican City",
}  # fmt: skip


class Place(NamedTuple):
    """English names and the ISO 3166 alpha-2 code of the country; "" where unknown."""

    city: str
    state: str
    country: str
    iso: str

    def class_name(self, label):
        """Name of the class this place falls into; qualified, since states and cities of one name are many."""
        parts = {"country": [], "state": [self.state], "city": [self.city, self.state]}[label]
        return ", ".join([part for part in parts if part] + [self.country])


def xyz_tile_bounds(x, y, z):
    """Bounds of a web-mercator XYZ tile (row 0 in the north).

    Returns:
        (left, bottom, right, top) in meters, EPSG:3857.

    Raises:
        ValueError: zoom level z has no such tile.
    """
    tiles = 2**z
    if not (0 <= x < tiles and 0 <= y < tiles):
        raise ValueError(f"no tile {x}/{y} at zoom {z}: columns and rows run from 0 to {tiles - 1}")
    side = 2 * _MERCATOR_HALF / tiles
    left, top = x * side - _MERCATOR_HALF, _MERCATOR_HALF - y * side
    return left, top - side, left + side, top


def tile_points(aoi):
    """Grid of points over the tile in an AOI's name -> (n, 2) latitude, longitude in degrees."""
    left, bottom, right, top = xyz_tile_bounds(*parse_aoi_name(aoi))
    east, north = np.meshgrid(_spread(left, right), _spread(bottom, top))
    longitude = np.degrees(east / 6378137)
    latitude = np.degrees(np.arctan(np.sinh(north / 6378137)))
    return np.stack([latitude.ravel(), longitude.ravel()], axis=1)


def raster_points(crs, transform, width, height):
    """Grid of points over a raster's own footprint -> (n, 2) latitude, longitude in degrees.

    Args:
        crs: rasterio CRS. transform: affine, pixel -> crs. width, height: in pixels.
    """
    from rasterio.warp import transform as warp

    column, row = np.meshgrid(_spread(0, width), _spread(0, height))
    a, b, c, d, e, f = transform[:6]
    x, y = a * column + b * row + c, d * column + e * row + f
    longitude, latitude = warp(crs, "EPSG:4326", x.ravel(), y.ravel())
    return np.stack([latitude, longitude], axis=1)


def footprint_points(path):
    """Centroids of the building footprints in a label file -> (n, 2) latitude, longitude in degrees.

    Raises:
        ValueError: broken file, or one without a footprint, or without positions on the globe; says which file.
    """
    import geopandas
    import shapely

    if not Path(path).stat().st_size:
        raise ValueError(f"{path}: empty file (zero bytes); no building footprints")
    try:
        table = geopandas.read_file(path, engine="pyogrio", columns=[])
        shapes = table.geometry.to_crs("EPSG:4326") if table.crs else table.geometry
    except Exception as error:  # GDAL, pyogrio, pyproj and shapely each have their own
        raise ValueError(f"{path}: cannot be read as GeoJSON ({error})") from error
    centers = shapely.get_coordinates(shapely.centroid(shapes.array[~shapes.isna()]))[:, ::-1]
    if not len(centers):
        raise ValueError(f"{path}: no building footprints in it")
    if (np.abs(centers) > (90, 180)).any():
        raise ValueError(f"{path}: coordinates that are not longitude and latitude")
    return centers


def locate(points):
    """Vote over points.

    Args:
        points: (n, 2) latitude, longitude in degrees, n > 0.

    Returns:
        Place: the most frequent country, within it the most frequent state, within that the most frequent city; the
        first by alphabet where votes are equal.
    """
    import reverse_geocode

    found = reverse_geocode.search(points)
    votes = [(each["country_code"], each.get("state") or "", each["city"]) for each in found]
    for level in range(3):
        counts = Counter(vote[level] for vote in votes)
        winner = min(counts, key=lambda name: (-counts[name], name))
        votes = [vote for vote in votes if vote[level] == winner]
    iso, state, city = votes[0]
    return Place(city, state, country_names()[iso], iso)


def country_names():
    """ISO alpha-2 code -> English name of the country."""
    with (resources.files("reverse_geocode") / "countries.csv").open(encoding="utf-8") as file:
        return {code: _COMMON_NAMES.get(code, name) for code, name in csv.reader(file)}


def read_places(path, aois=None):
    """Read a table of places that replace the vote.

    Args:
        path: CSV with the header ``aoi,city,state,country``.
        aois: the AOIs there are; None accepts any.

    Returns:
        dict AOI -> Place.

    Raises:
        FileNotFoundError, ValueError: no such file; wrong header, an AOI that is not there, or no country.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table of places at {path}")
    codes = {name: code for code, name in country_names().items()}
    places = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or sorted(reader.fieldnames) != sorted(PLACE_COLUMNS):
            raise ValueError(f"{path}: columns are {reader.fieldnames}; {','.join(PLACE_COLUMNS)} expected")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values() or not row["country"].strip():
                raise ValueError(f"{where}: four fields expected, and a country")
            aoi, city, state, country = (row[column].strip() for column in PLACE_COLUMNS)
            if aois is not None and aoi not in aois:
                raise ValueError(f"{where}: no AOI {aoi} in the tree")
            places[aoi] = Place(city, state, country, codes.get(country, ""))
    return places


def _spread(low, high):
    """Middles of equal parts of an interval."""
    return low + (high - low) * (np.arange(_GRID) + 0.5) / _GRID
