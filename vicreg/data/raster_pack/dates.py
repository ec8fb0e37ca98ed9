"""Acquisition dates of scenes, from tags, patterns of the user and common file names."""

import datetime
import re
from collections.abc import Callable
from pathlib import PurePosixPath

# Name, pattern with year, month and perhaps day; the first that matches the name or a folder above it counts.
_DAY = r"(?P<year>(?:19|20)\d\d){0}(?P<month>0[1-9]|1[0-2]){0}(?P<day>0[1-9]|[12]\d|3[01])"
_COMMON = [
    ("Sentinel-2 name", re.compile(r"(?<!\d)" + _DAY.format("") + r"T\d{6}")),
    ("Landsat name", re.compile(r"L[COTEM]0\d_L\w{3}_\d{6}_" + _DAY.format("") + "_")),
    ("SpaceNet-7 name", re.compile(r"global_monthly_(?P<year>\d{4})_(?P<month>0[1-9]|1[0-2])_")),
    ("Planet name", re.compile(r"(?<!\d)" + _DAY.format("") + r"_\d{6}_")),
    ("ISO date in the name", re.compile(r"(?<!\d)" + _DAY.format("[-_.]") + r"(?!\d)")),
    ("date in the name", re.compile(r"(?<!\d)" + _DAY.format("") + r"(?!\d)")),
    (
        "ISO month in the name",
        re.compile(r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<mark>[-_])(?P<month>0[1-9]|1[0-2])(?!(?P=mark)?\d)"),
    ),
]
_STRPTIME = {
    "Y": r"(?P<year>\d{4})", "y": r"(?P<short_year>\d\d)", "m": r"(?P<month>\d{1,2})", "d": r"(?P<day>\d{1,2})",
    "j": r"(?P<day_of_year>\d{3})", "b": r"(?P<month_name>[A-Za-z]{3})", "H": r"\d\d", "M": r"\d\d", "S": r"\d\d",
    "%": "%",
}  # fmt: skip


def date_finder(pattern: str | None) -> Callable[[str, dict[str, str], str], tuple[str, str]]:
    """Return the function that finds the date of a scene.

    Args:
        pattern: ``--date-pattern``: a strptime format such as ``%Y_%m``, or a regular expression with the groups
            ``year``, ``month`` and ``day``, or up to three groups in this order. It is searched in the path.

    Returns:
        Function (name, tags of the file, date of a catalog or "") -> (YYYY-MM-DD or "", where it comes from). A catalog
        comes first, then the pattern, the TIFF tag DATETIME, and common patterns of file names. A month is dated to
        its first day.

    Raises:
        ValueError: The pattern is malformed.
    """
    compiled = _compile(pattern) if pattern else None

    def find(name: str, tags: dict[str, str], catalog_date: str) -> tuple[str, str]:
        if catalog_date:
            return catalog_date[:10], "STAC"
        if compiled and (date := _date(compiled.search(name))):
            return date, "--date-pattern"
        if date := _date(re.match(_DAY.format(":"), tags.get("TIFFTAG_DATETIME", ""))):
            return date, "TIFF tag DATETIME"
        path = PurePosixPath(name)
        for part in (path.name, *(folder.name for folder in path.parents)):
            for source, common in _COMMON:
                if date := _date(common.search(part)):
                    return date, source
        return "", ""

    return find


def _compile(pattern: str) -> re.Pattern[str]:
    if "%" in pattern and "(" not in pattern:
        if unknown := set(re.findall(r"(?s)%(.?)", pattern)) - set(_STRPTIME):
            raise ValueError(f"--date-pattern {pattern!r}: unknown directive %{sorted(unknown)[0]}; known are "
                             f"{' '.join(f'%{key}' for key in _STRPTIME)}")  # fmt: skip
        parts = re.split(r"(?s)(%.)", pattern)
        pattern = "".join(_STRPTIME[part[1]] if part.startswith("%") else re.escape(part) for part in parts)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--date-pattern {pattern!r} is neither a strptime format nor a regular expression: "
                         f"{error}") from error  # fmt: skip
    if not compiled.groups:
        raise ValueError(f"--date-pattern {pattern!r} has no groups; such as (\\d{{4}})-(\\d\\d) or %Y-%m")
    return compiled


def _date(match: re.Match[str] | None) -> str:
    """Return the date of a match as YYYY-MM-DD; "" if it is none."""
    if match is None:
        return ""
    groups = match.groupdict()
    if not groups:
        values = [value for value in match.groups() if value]
        if len(values) == 1 and len(values[0]) in (6, 8):  # YYYYMM or YYYYMMDD
            values = [values[0][:4], *re.findall("..", values[0][4:])]
        groups = dict(zip(("year", "month", "day"), values, strict=False))
    try:
        year = int(groups.get("year") or datetime.datetime.strptime(groups["short_year"], "%y").year)
        if groups.get("day_of_year"):
            date = datetime.date(year, 1, 1) + datetime.timedelta(int(groups["day_of_year"]) - 1)
            return date.isoformat() if date.year == year else ""
        name = groups.get("month_name")
        month = datetime.datetime.strptime(name, "%b").month if name else int(groups.get("month") or 1)
        return datetime.date(year, month, int(groups.get("day") or 1)).isoformat()
    except (KeyError, ValueError):
        return ""
