"""SpaceNet-7 on disk: mosaic names, the patch grid, and patch lists (CSV).

``preprocessing/make_sn7_csv.py`` writes these formats. rasterio is imported where a mosaic is read: a packed folder
does not need it.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from vicreg.common.files import read_text
from vicreg.data.images import open_reader
from vicreg.data.pixel_arrays import map_pixels
from vicreg.data.tables import check_ranges, read_table

COLUMNS = ["row", "image_id", "patch", "aoi", "year", "month", "city", "state", "country", "label", "split"]
INTEGERS = ["row", "patch", "year", "month", "label"]
LIMITS = {"row": (-1, 2**40), "patch": (0, 2**20), "year": (0, 9999), "month": (1, 12), "label": (0, 2**20)}
FIRST_VERSION_COLUMNS = ["image_id", "city", "state", "label"]  # "patch!mosaic", no header
CHANNELS = 3

_AOI = r"L15-\d{4}[EW]-\d{4}[NS]_(?P<x>\d+)_(?P<y>\d+)_(?P<z>\d+)"
_NAME = rf"global_monthly_(?P<year>\d{{4}})_(?P<month>0[1-9]|1[0-2])_mosaic_(?P<aoi>{_AOI})(?i:\.tiff?)?"


class MosaicName(NamedTuple):
    """Parts of the file name of a mosaic; ``x, y, z`` is the web-mercator XYZ tile that it covers."""

    aoi: str
    year: int
    month: int
    x: int
    y: int
    z: int


def parse_mosaic_name(name: str) -> MosaicName:
    """Parse a mosaic's name, such as ``global_monthly_2018_12_mosaic_L15-1025E-1366N_4102_2726_13``, perhaps ``.tif``.

    Raises:
        ValueError: The name does not follow SpaceNet-7's pattern.
    """
    match = re.fullmatch(_NAME, name)
    if not match:
        raise ValueError(f"{name}: not a SpaceNet-7 mosaic name (global_monthly_YYYY_MM_mosaic_L15-…_<x>_<y>_<z>.tif)")
    return MosaicName(match["aoi"], *(int(match[key]) for key in ("year", "month", "x", "y", "z")))


def parse_aoi_name(name: str) -> tuple[int, int, int]:
    """Return the web-mercator XYZ tile (x, y, z) of an AOI from its name, such as ``L15-1025E-1366N_4102_2726_13``.

    Raises:
        ValueError: The name does not follow SpaceNet-7's pattern.
    """
    match = re.fullmatch(_AOI, name)
    if not match:
        raise ValueError(f"{name}: not the name of a SpaceNet-7 AOI (L15-…_<x>_<y>_<z>)")
    return int(match["x"]), int(match["y"]), int(match["z"])


def tile_center(aoi: str) -> tuple[float, float] | tuple[None, None]:
    """Return longitude and latitude in degrees of the center of an AOI's tile; None if its name is of another kind."""
    if not re.fullmatch(_AOI, aoi):
        return None, None
    x, y, z = parse_aoi_name(aoi)
    mercator = math.pi * (1 - (2 * y + 1) / 2**z)
    return 360 * (x + 0.5) / 2**z - 180, math.degrees(math.atan(math.sinh(mercator)))


def read_mosaic(path: str | Path) -> np.ndarray:
    """Read the RGB channels of a mosaic.

    Returns:
        uint8 array (3, height, width); pixels without data (alpha 0 or the nodata value) are black.

    Raises:
        ValueError: The file is not a readable RGB(A) uint8 raster; see ``vicreg.data.images.open_reader``.
    """
    with open_reader(path) as reader:
        pixels, valid = reader.read(0, 0, reader.height, reader.width)
    return pixels * valid


def patch_side(width: int, grid: int = 4) -> int:
    """Return the side of a patch in pixels: ceil(width / grid), whatever the height."""
    return -(-width // grid)


def cut_patches(mosaic: np.ndarray, grid: int = 4) -> np.ndarray:
    """Cut a mosaic into grid x grid patches.

    Args:
        mosaic: Array (channels, height, width), not taller than wide. Missing rows and columns become zero.
        grid: Patches per side; patch k is row k // grid, column k % grid.

    Returns:
        Array (grid * grid, channels, P, P) of the mosaic's dtype, P = ceil(width / grid).

    Raises:
        ValueError: The mosaic is taller than wide.
    """
    (channels, height, width), side = mosaic.shape, patch_side(mosaic.shape[2], grid)
    if height > side * grid:
        raise ValueError(f"mosaic of {width} x {height} pixels is taller than wide; no {grid} x {grid} grid")
    padded = np.pad(mosaic, ((0, 0), (0, side * grid - height), (0, side * grid - width)))
    blocks = padded.reshape(channels, grid, side, grid, side)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(grid * grid, channels, side, side)


def read_patch_list(path: str | Path) -> pd.DataFrame:
    """Read a patch list: a CSV with a header, or one of the first version of the project.

    The first version had no header and rows such as ``0!global_monthly_2018_12_mosaic_L15-….tif,Dartford,England,17``
    (patch!mosaic, city, state, label). It lacks country and pack row, which become "" and -1.

    Returns:
        DataFrame with ``COLUMNS``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file has neither format, or a row that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no patch list at {path}; write one with preprocessing/make_sn7_csv.py")
    first_line = read_text(path).partition("\n")[0].strip()
    if first_line.split(",")[:2] == COLUMNS[:2]:
        table = read_table(path, INTEGERS)
        if missing := [column for column in COLUMNS if column not in table]:
            imagery = "it is a list of make_imagery_csv.py, for the imagery scripts"
            advice = imagery if "site" in table else "write it again with make_sn7_csv.py"
            raise ValueError(f"{path}: columns missing: {', '.join(missing)}; {advice}")
        check_ranges(path, table, **LIMITS)
        return table[COLUMNS]
    if "!" not in first_line:
        raise ValueError(f"{path}: not a patch list; its first line is neither a header nor 'patch!mosaic,…'")
    table = read_table(path, ["label"], header=None, names=FIRST_VERSION_COLUMNS)
    try:
        patch, mosaic = zip(*(entry.split("!", 1) for entry in table.image_id), strict=True)
        names = pd.DataFrame(map(parse_mosaic_name, mosaic))
        table = table.assign(row=-1, patch=[int(k) for k in patch], image_id=mosaic, country="", split=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    table[["aoi", "year", "month"]] = names[["aoi", "year", "month"]]
    check_ranges(path, table, **LIMITS)
    return table[COLUMNS]


def open_pack(path: str | Path, rows: np.ndarray) -> np.ndarray:
    """Map ``patches.npy`` of a prepared folder into memory; ``rows`` are those that a patch list names.

    Returns:
        uint8 (rows, channels, P, P), read-only.

    Raises:
        ValueError: The file is damaged or has too few rows.
    """
    store = map_pixels(Path(path), "write it again with make_sn7_csv.py")
    if rows.max() >= len(store):
        raise ValueError(f"{path} has {len(store)} rows, the list needs row {rows.max()}; write both again")
    return store
