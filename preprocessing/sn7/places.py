"""Places of AOIs, their class names, and countries by ISO 3166."""

import csv
import difflib
from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from preprocessing.text_files import delimiter
from vicreg.common.files import read_text

PLACE_COLUMNS = ["aoi", "city", "state", "country"]
LABELS = ("country", "state", "city")

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
    town_km: float | None = None  # distance to the nearest town, which gave city and state; None if a table gave them

    def class_name(self, label: str) -> str:
        """Return the class name of this place; it contains the country, because states and cities share names."""
        parts = {"country": [], "state": [self.state], "city": [self.city, self.state]}[label]
        return ", ".join([part for part in parts if part] + [self.country])


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
    """Read a CSV of places that replace the vote: AOI -> Place, with the country's English name.

    Args:
        path: CSV with the columns aoi, city, state and country. The country is a name or an ISO 3166 code.
        aois: AOIs of the tree; None accepts any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The header is wrong, an AOI is not in the tree, or a country is missing or unknown.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table of places at {path}")
    text = read_text(path)
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter(text))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:  # such as a null character
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if reader.fieldnames is None or sorted(reader.fieldnames) != sorted(PLACE_COLUMNS):
        raise ValueError(f"{path}: columns are {reader.fieldnames}; {','.join(PLACE_COLUMNS)} expected")
    places = {}
    for number, row in rows:
        line = f"{path}, line {number}"
        if None in row or None in row.values() or not row["country"].strip():
            raise ValueError(f"{line}: four fields expected, and a country")
        aoi, city, state, country = (row[column].strip() for column in PLACE_COLUMNS)
        if aois is not None and aoi not in aois:
            raise ValueError(f"{line}: no AOI {aoi} in the tree")
        try:
            iso = resolve_country(country)
        except ValueError as error:
            raise ValueError(f"{line}: {error}") from error
        place = Place(city, state, country_names().get(iso, country), iso)
        if places.setdefault(aoi, place) != place:
            raise ValueError(f"{line}: another place than above for {aoi}")
    return places
