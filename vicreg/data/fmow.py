"""Functional Map of the World (fMoW-rgb): file names, metadata in JSON files, image lists (CSV), and the data set.

``preprocessing/make_fmow_csv.py`` writes the lists. Pixels stay in the tree, as JPEGs of many sizes.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vicreg.common.json_files import read_json
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.pairs import month_number
from vicreg.data.tables import check_ranges, check_rows, read_meta_file, read_table

INTEGERS = ["k", "year", "month", "label"]
COLUMNS = ["path", "class", "location", "k", "year", "month", "label", "split"]
UNKNOWN = 0  # year and month of an image without a timestamp
_NAME = r"(?P<class_name>.+)_(?P<location>\d+)_(?P<k>\d+)_rgb\.jpe?g"


class ImageName(NamedTuple):
    """Parts of the file name of an image: its class, its location (class and number), and its number there."""

    class_name: str
    location: str
    k: int


def parse_image_name(name: str) -> ImageName:
    """Parse the file name of an image, such as ``single-unit_residential_12_3_rgb.jpg``: class, location, number there.

    Raises:
        ValueError: The name does not follow fMoW's pattern.
    """
    match = re.fullmatch(_NAME, name, re.IGNORECASE)
    if not match:
        raise ValueError(f"{name}: not an fMoW image name (<class>_<location>_<k>_rgb.jpg)")
    class_name = match["class_name"]
    return ImageName(class_name, f"{class_name}_{int(match['location'])}", int(match["k"]))


def read_timestamp(path: str | Path) -> tuple[int, int, list[float] | None]:
    """Read year, month and position from the JSON file of an image.

    Returns:
        (year, month, position): the position is the center of ``raw_location``, [longitude, latitude] in degrees, or
        None if there is none. (UNKNOWN, UNKNOWN, None) without a file.

    Raises:
        ValueError: The file is not a JSON object, or has no readable ``timestamp``.
    """
    path = Path(path)
    if not path.is_file():
        return UNKNOWN, UNKNOWN, None
    try:
        content = read_json(path)
        match = re.match(r"(\d{4})-(0[1-9]|1[0-2])-\d\d", content["timestamp"])
        if not match:
            raise ValueError("no date")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no JSON with a timestamp such as 2016-02-13T09:30:00Z") from error
    numbers = re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", str(content.get("raw_location", "")))
    corners = [float(number) for number in numbers]
    longitudes, latitudes = corners[::2], corners[1::2]
    if not corners or len(longitudes) != len(latitudes):
        return int(match[1]), int(match[2]), None
    # near the first one, also across 180 degrees
    longitudes = [longitudes[0] + (value - longitudes[0] + 180) % 360 - 180 for value in longitudes]
    center = [(min(values) + max(values)) / 2 for values in (longitudes, latitudes)]
    return int(match[1]), int(match[2]), center


def read_image_list(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read ``train.csv`` or ``val.csv`` of a prepared folder, and its ``meta.json``.

    Returns:
        DataFrame with ``COLUMNS``, and the content of ``meta.json``.

    Raises:
        FileNotFoundError: The list or ``meta.json`` is missing.
        ValueError: The list has another format or number of rows, or is older than ``meta.json``.
    """
    path = Path(path)
    for file in (path, path.with_name("meta.json")):
        if not file.is_file():
            raise FileNotFoundError(
                f"no {file}; write it with preprocessing/make_fmow_csv.py --data-dir FMOW --out-dir {path.parent}"
            )
    table = read_table(path, INTEGERS)
    if (missing := [column for column in COLUMNS if column not in table]) or table.empty:
        reason = f"columns missing: {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"{path}: {reason}; write it again with preprocessing/make_fmow_csv.py")
    check_ranges(path, table, k=(0, 2**31), year=(0, 9999), month=(0, 12))
    meta = read_meta_file(path.with_name("meta.json"))
    if not {"classes", "mean", "std", "source"} <= meta.keys():
        raise ValueError(
            f"{path.with_name('meta.json')} was not written by make_fmow_csv.py; write the folder again with it"
        )
    if unknown := set(table.split) - set(meta.get("splits", table.split)):
        raise ValueError(
            f"{path} is older than its meta.json, which has no split {', '.join(unknown)}; write both again"
        )
    check_rows(path, len(table), meta)
    check_ranges(path, table, label=(0, len(meta["classes"]) - 1))
    return table[COLUMNS], meta


def fmow_images(
    csv_path: str | Path,
    positives: str = "same",
    data_dir: str | Path | None = None,
    max_months_apart: int | None = None,
    side: int = decode_size(),
) -> ImageDataset:
    """Return the images of one list as a data set.

    Args:
        csv_path: ``train.csv`` or ``val.csv`` of a prepared folder.
        positives: "same" or "temporal"; see ``ImageDataset``.
        data_dir: fMoW tree, if it is not where ``meta.json`` says.
        max_months_apart: Maximum distance of temporal pairs in months; None for any.
        side: Side of whole images in pixels.

    Raises:
        FileNotFoundError: The list or the tree is missing.
        ValueError: The list cannot be read, or the month of an image is unknown and needed.
    """
    table, meta = read_image_list(csv_path)
    source = Path(data_dir or meta["source"])
    if not (source / table.path[0]).is_file():
        raise FileNotFoundError(
            f"no {source / table.path[0]}; --data-dir is the fMoW tree that {csv_path} was made from"
        )
    undated = table[table.year == UNKNOWN]
    if max_months_apart is not None and len(undated):
        raise ValueError(
            f"--max-months-apart needs the month of every image, and {len(undated)} of {len(table)} in {csv_path} have "
            f"no timestamp in a JSON file, such as {undated.path.iloc[0]}; leave the option out"
        )
    return ImageDataset(
        [source / path for path in table.path],
        table.label.to_numpy(),
        meta["classes"],
        meta["mean"],
        meta["std"],
        positives=positives,
        location_ids=table.location.to_numpy(),
        months=month_number(table.year, table.month).to_numpy(),
        max_months_apart=max_months_apart,
        side=side,
        name="fMoW",
    )
