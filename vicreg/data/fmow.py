"""Functional Map of the World (fMoW-rgb) on disk: file names, the JSON beside them, image lists (CSV), the data set.

``make_fmow_csv.py`` writes the lists. Pixels stay in the tree, as JPEGs of many sizes.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vicreg.data.image_dataset import ImageDataset
from vicreg.data.pairs import month_number

COLUMNS = ["path", "class", "location", "k", "year", "month", "label", "split"]
UNKNOWN = 0  # year and month of an image without a timestamp
_NAME = r"(?P<kind>.+)_(?P<location>\d+)_(?P<k>\d+)_rgb\.jpe?g"


class ImageName(NamedTuple):
    """What the file name of an image says: its class, the place (named by class and number), and its number there."""

    kind: str
    location: str
    k: int


def parse_image_name(name):
    """Take an image's file name apart.

    Args:
        name: such as ``single-unit_residential_12_3_rgb.jpg``: class, place, number of the image there.

    Raises:
        ValueError: the name does not follow fMoW's pattern.
    """
    found = re.fullmatch(_NAME, name, re.IGNORECASE)
    if not found:
        raise ValueError(f"{name}: not an fMoW image name (<class>_<place>_<k>_rgb.jpg)")
    return ImageName(found["kind"], f"{found['kind']}_{int(found['location'])}", int(found["k"]))


def read_timestamp(path):
    """Year, month and position in the JSON file of an image.

    Returns:
        (year, month, position): the position is the middle of ``raw_location``, (longitude, latitude) in degrees, None
        where there is none. (UNKNOWN, UNKNOWN, None) without a file.

    Raises:
        ValueError: the file is no JSON object, or has no readable ``timestamp``; says which file.
    """
    path = Path(path)
    if not path.is_file():
        return UNKNOWN, UNKNOWN, None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        year, month = re.match(r"(\d{4})-(0[1-9]|1[0-2])-\d\d", content["timestamp"]).groups()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no JSON with a timestamp such as 2016-02-13T09:30:00Z") from error
    numbers = re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", str(content.get("raw_location", "")))
    corners = [float(number) for number in numbers]
    longitudes, latitudes = corners[::2], corners[1::2]
    known = len(corners) > 1 and len(longitudes) == len(latitudes)
    middle = [(min(values) + max(values)) / 2 for values in (longitudes, latitudes)] if known else None
    return int(year), int(month), middle


def read_image_list(path):
    """Read ``train.csv`` or ``val.csv`` of a prepared folder, and its ``meta.json``.

    Returns:
        DataFrame with ``COLUMNS``, dict.

    Raises:
        FileNotFoundError, ValueError: no such list, not (completely) written, or another format.
    """
    path = Path(path)
    for file in (path, path.with_name("meta.json")):
        if not file.is_file():
            raise FileNotFoundError(
                f"no {file}; write it with preprocessing/make_fmow_csv.py --data-dir FMOW --out-dir {path.parent}"
            )
    table = pd.read_csv(path, keep_default_na=False)
    missing = [column for column in COLUMNS if column not in table]
    if missing or table.empty:
        what = f"columns missing: {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"{path}: {what}; write it again with preprocessing/make_fmow_csv.py")
    meta = json.loads(path.with_name("meta.json").read_text(encoding="utf-8"))
    if not {"classes", "mean", "std", "source"} <= meta.keys():
        raise ValueError(f"{path.with_name('meta.json')} is not of make_fmow_csv.py; write the folder again with it")
    if strange := set(table.split) - set(meta.get("splits", table.split)):
        raise ValueError(
            f"{path} is older than its meta.json, which has no split {', '.join(strange)}; write both again"
        )
    return table[COLUMNS], meta


def fmow_images(csv_path, positives="same", data_dir=None, max_months_apart=None, **options):
    """The images of one list as a data set.

    Args:
        csv_path: ``train.csv`` or ``val.csv``. positives: "same" or "temporal". data_dir: the tree, where it has moved.
        max_months_apart: of temporal pairs; None is any. options: further ones of ``ImageDataset``.

    Raises:
        FileNotFoundError, ValueError: the list, the tree or the months are not there.
    """
    table, meta = read_image_list(csv_path)
    source = Path(data_dir or meta["source"])
    if not (source / table.path[0]).is_file():
        raise FileNotFoundError(
            f"no {source / table.path[0]}; --data-dir is the fMoW tree that {csv_path} was made from"
        )
    if max_months_apart is not None and (unknown := table[table.year == UNKNOWN]).size:
        raise ValueError(
            f"--max-months-apart needs the month of every image, and {len(unknown)} of {len(table)} in {csv_path} have "
            f"no timestamp in a JSON beside them, {unknown.path.iloc[0]} for one; leave it out"
        )
    paths = [source / path for path in table.path]
    months = month_number(table.year, table.month).to_numpy()
    return ImageDataset(paths, table.label, meta["classes"], meta["mean"], meta["std"], positives, table.location,
    months,
                      max_months_apart, **options)  # fmt: skip
