"""Split rules for folders of images: by location, from file names, and by longitude, from georeferences."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from vicreg.data.georeference import check_proj, georeference, one_line, to_degrees
from vicreg.data.image_listing import format_names
from vicreg.data.rasters import open_raster, quiet_georeference

RULES = ("image", "location", "block")


def check_names(paths: Sequence[str]) -> None:
    """Raise ValueError if names cannot be written to lists: those with line breaks or bytes that are not UTF-8."""
    bad = [path for path in paths if {"\n", "\r"} & set(path) or path.encode(errors="replace").decode() != path]
    if bad:
        raise ValueError(
            f"{format_names(bad)}: a line break or bytes that are not UTF-8 in the name; rename it, since lists hold "
            "one name per line"
        )


def parse_locations(paths: Sequence[str], pattern: str | None) -> list[str]:
    """Return the location of each path: the groups of a pattern, joined by "/", or the whole match without groups.

    Raises:
        ValueError: There is no pattern, it is malformed, or it or one of its groups does not match a path.
    """
    if not pattern:
        raise ValueError("--split location needs --location-pattern, such as '_(\\d+)_\\d+\\.' for Forest_12_3.jpg")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--location-pattern {pattern!r} is not a regular expression: {error}") from error
    groups = [match and (match.groups() or (match.group(),)) for match in map(compiled.search, paths)]
    if unmatched := [path for path, values in zip(paths, groups, strict=True) if not values]:
        raise ValueError(f"--location-pattern {pattern!r} matches {len(paths) - len(unmatched)} of {len(paths)} paths; "
                         f"not {unmatched[0]}")  # fmt: skip
    if partial := [path for path, values in zip(paths, groups, strict=True) if None in values]:
        raise ValueError(f"--location-pattern {pattern!r}: an optional group matches nothing in {len(partial)} of "
                         f"{len(paths)} paths, such as {partial[0]}; every group must match in every path")  # fmt: skip
    return ["/".join(values) for values in groups]


def read_longitudes(data_dir: str | Path, paths: Sequence[str]) -> np.ndarray:
    """Return the longitude of each image's center in degrees.

    Raises:
        ValueError: An image cannot be read, or has no usable georeference.
    """
    check_proj()
    longitudes = []
    with quiet_georeference():
        for path in tqdm(paths, "reading positions", disable=None):
            file = Path(data_dir) / path
            try:
                with open_raster(file) as raster:
                    if (reference := georeference(raster)) is None:
                        raise ValueError("no georeference")
                    crs, (a, b, c, d, e, f) = reference
                    column, row = raster.width / 2, raster.height / 2
                    x, y = a * column + b * row + c, d * column + e * row + f
                    longitudes.append(to_degrees(crs, [x], [y])[0][0])
            except ValueError as error:
                raise ValueError(f"{file}: {one_line(error)}; --split block needs the position of every image, use "
                                 "--split location or image") from error  # fmt: skip
    return np.array(longitudes)


def eastern_part(longitudes: np.ndarray, fraction: float) -> np.ndarray:
    """Return which images lie in the eastern part, a fraction 0..1 of them that is held out: bool (n,).

    Longitudes (n,), in degrees, are counted eastward from the largest gap between the images, so that a region across
    180 degrees is not divided there.

    Raises:
        ValueError: All images have the same longitude.
    """
    ordered = np.sort(longitudes % 360)
    gaps = np.diff(ordered, append=ordered[0] + 360)
    west = ordered[(np.argmax(gaps) + 1) % len(ordered)]
    distance = (longitudes % 360 - west) % 360
    held_out = distance > np.quantile(distance, 1 - fraction)
    if not held_out.any():
        raise ValueError("--split block: all images have the same longitude; use --split location or image")
    return held_out


def summary(parts: dict[str, pd.DataFrame], classes: Sequence[str], rule: str) -> str:
    """Format the sizes of the training and validation parts, shared locations, and classes without training images."""
    train, val = parts["train"], parts["val"]
    total = len(train) + len(val)
    lines = [f"{total} images of {len(classes)} classes; split {rule}: {len(train)} for training, {len(val)} for "
             f"validation ({len(val) / total:.3f})"]  # fmt: skip
    if rule == "location":
        locations = [set(part.location) for part in (train, val)]
        shared = len(locations[0] & locations[1])
        lines.append(f"{len(locations[0] | locations[1])} locations, {shared} in both parts")
    if missing := [name for name in classes if name not in set(train["class"])]:
        lines.append(f"classes without a training image: {', '.join(missing)}")
    return "\n".join(lines)
