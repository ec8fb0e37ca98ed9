"""Look up the countries of positions in a table of borders; see README.md in this folder for its source."""

import lzma
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shapely import STRtree

TABLE = Path(__file__).with_name("countries.geojson.xz")
MAX_OFFSHORE_KM = 20.0  # coastlines are simplified, and islets are missing
_KM_PER_DEGREE = 111.195


@lru_cache(1)
def read_table(path: Path = TABLE) -> tuple[np.ndarray, "STRtree"]:
    """Read the borders: ISO 3166 alpha-2 codes (n,) and the index of their n geometries."""
    import shapely

    text = lzma.decompress(path.read_bytes()).decode()
    shapes = shapely.get_parts(shapely.from_geojson(text))  # a tenth of the time of json and shapely.geometry.shape
    return np.array(re.findall(r'"iso":"(..)"', text)), shapely.STRtree(shapes)


def country_codes(points: np.ndarray) -> np.ndarray:
    """Return the ISO 3166 alpha-2 codes (n,) of the countries of positions (n, 2), latitude, longitude in degrees.

    A position outside of all borders takes the nearest country within ``MAX_OFFSHORE_KM``, else it has the code "".
    """
    import shapely

    codes, tree = read_table()
    points = np.asarray(points, float)
    places = shapely.points(points[:, ::-1])
    result = np.full(len(points), "", codes.dtype)
    inside, country = tree.query(places, predicate="intersects")
    result[inside] = codes[country]
    if len(outside := np.flatnonzero(result == "")):
        reach = MAX_OFFSHORE_KM / _KM_PER_DEGREE / np.cos(np.radians(np.clip(points[outside, 0], -85, 85)))
        row, country = tree.query(places[outside], predicate="dwithin", distance=reach)
        lines = shapely.shortest_line(places[outside[row]], tree.geometries[country])
        ends = shapely.get_coordinates(lines).reshape(-1, 2, 2)[..., ::-1]
        km = distance_km(ends[:, 0], ends[:, 1])
        for index in np.argsort(-km):  # the nearest one last
            if km[index] <= MAX_OFFSHORE_KM:
                result[outside[row[index]]] = codes[country[index]]
    return result


def distance_km(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the great-circle distances of positions (n, 2), latitude and longitude in degrees, in km: (n,)."""
    (lat1, lon1), (lat2, lon2) = np.radians(a).T, np.radians(b).T
    haversine = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * np.degrees(np.arcsin(np.sqrt(haversine))) * _KM_PER_DEGREE
