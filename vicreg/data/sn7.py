"""SpaceNet-7 on disk: mosaic names, the patch grid, patch lists (CSV), the packed patch store, and the dataset.

Everything that reads these formats goes through this module; ``make_sn7_csv.py`` is their writer. torch and rasterio
are imported where they are used: neither side should pay for the other's import.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from vicreg.data.base import BaseDataset
from vicreg.data.pairs import SpatialNeighborPairs, build_pairs, month_number

COLUMNS = ["row", "image_id", "patch", "aoi", "year", "month", "city", "state", "country", "label", "split"]
FIRST_VERSION_COLUMNS = ["image_id", "city", "state", "label"]  # "patch!mosaic", no header
CHANNELS = 3
# of the 1,423 training mosaics, for lists that come without a meta.json
WHOLE_SET_MEAN = [121.8 / 255, 106.5 / 255, 78.4 / 255]
WHOLE_SET_STD = [56.7 / 255, 44.5 / 255, 40.5 / 255]

_AOI = r"L15-\d{4}[EW]-\d{4}[NS]_(?P<x>\d+)_(?P<y>\d+)_(?P<z>\d+)"
_NAME = rf"global_monthly_(?P<year>\d{{4}})_(?P<month>0[1-9]|1[0-2])_mosaic_(?P<aoi>{_AOI})(?i:\.tiff?)?"


class MosaicName(NamedTuple):
    """What the file name of a mosaic says. ``x, y, z`` is the web-mercator XYZ tile it covers."""

    aoi: str
    year: int
    month: int
    x: int
    y: int
    z: int


def parse_mosaic_name(name):
    """Take a mosaic's file name apart.

    Args:
        name: such as ``global_monthly_2018_12_mosaic_L15-1025E-1366N_4102_2726_13.tif``; suffix optional.

    Raises:
        ValueError: the name does not follow SpaceNet-7's pattern.
    """
    found = re.fullmatch(_NAME, name)
    if not found:
        raise ValueError(f"{name}: not a SpaceNet-7 mosaic name (global_monthly_YYYY_MM_mosaic_L15-…_<x>_<y>_<z>.tif)")
    return MosaicName(found["aoi"], *(int(found[key]) for key in ("year", "month", "x", "y", "z")))


def parse_aoi_name(name):
    """The web-mercator XYZ tile (x, y, z) that an AOI covers, from its name such as ``L15-1025E-1366N_4102_2726_13``.

    Raises:
        ValueError: the name does not follow SpaceNet-7's pattern.
    """
    found = re.fullmatch(_AOI, name)
    if not found:
        raise ValueError(f"{name}: not the name of a SpaceNet-7 AOI (L15-…_<x>_<y>_<z>)")
    return tuple(int(found[key]) for key in "xyz")


def read_mosaic(path):
    """Read a mosaic's RGB channels.

    Returns:
        uint8 array (3, height, width); an alpha channel is left behind.

    Raises:
        ValueError: the file is not a readable RGB(A) uint8 raster (corrupt, truncated, other type).
    """
    import rasterio

    try:
        with rasterio.open(path) as raster:
            if raster.count < CHANNELS or raster.dtypes[0] != "uint8":
                raise ValueError(f"{path}: {raster.count} channels of {raster.dtypes[0]}; RGB(A) uint8 expected")
            return raster.read(list(range(1, CHANNELS + 1)))
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path}: cannot be read as a TIFF, corrupt or truncated ({error})") from error


def patch_side(width, grid=4):
    """Side of a patch in pixels: ceil(width / grid), whatever the height."""
    return -(-width // grid)


def cut_patches(mosaic, grid=4):
    """Cut a mosaic into grid x grid patches.

    Args:
        mosaic: array (channels, height, width); height at most the width. Missing rows and columns are zero.
        grid: patches per side; patch k is row k // grid, column k % grid.

    Returns:
        array (grid * grid, channels, P, P), P = ceil(width / grid), in the mosaic's dtype.
    """
    (channels, height, width), side = mosaic.shape, patch_side(mosaic.shape[2], grid)
    if height > side * grid:
        raise ValueError(f"mosaic of {width} x {height} pixels is taller than wide; no {grid} x {grid} grid")
    whole = np.pad(mosaic, ((0, 0), (0, side * grid - height), (0, side * grid - width)))
    blocks = whole.reshape(channels, grid, side, grid, side)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(grid * grid, channels, side, side)


def read_patch_list(path):
    """Read a patch list: today's CSV, or one of the project's first version.

    The first version had no header and rows such as ``0!global_monthly_2018_12_mosaic_L15-….tif,Dartford,England,17``
    (patch!mosaic, city, state, label); country and pack row are not in it and come out as "" and -1.

    Returns:
        DataFrame with ``COLUMNS``.

    Raises:
        FileNotFoundError: no such file; says which script writes it.
        ValueError: neither format, or a row that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no patch list at {path}; write one with preprocessing/make_sn7_csv.py")
    with path.open() as file:
        first_line = file.readline().strip()
    if first_line.split(",")[:2] == COLUMNS[:2]:
        table = pd.read_csv(path, keep_default_na=False)
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise ValueError(f"{path}: columns missing: {', '.join(missing)}; write it again with make_sn7_csv.py")
        return table[COLUMNS]
    if "!" not in first_line:
        raise ValueError(f"{path}: not a patch list; its first line is neither a header nor 'patch!mosaic,…'")
    table = pd.read_csv(path, header=None, names=FIRST_VERSION_COLUMNS, keep_default_na=False)
    try:
        patch, mosaic = zip(*(entry.split("!", 1) for entry in table.image_id), strict=True)
        names = [parse_mosaic_name(name) for name in mosaic]
        table = table.assign(row=-1, patch=[int(k) for k in patch], image_id=mosaic, country="", split=path.stem)
        table["label"] = table.label.astype(int)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    table[["aoi", "year", "month"]] = [name[:3] for name in names]
    return table[COLUMNS]


def read_meta(csv_dir):
    """Read ``meta.json`` of a prepared folder.

    Raises:
        FileNotFoundError: the folder is not (completely) written.
    """
    path = Path(csv_dir) / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; prepare the folder with preprocessing/make_sn7_csv.py --out-dir {csv_dir}")
    return json.loads(path.read_text())


class SN7Patches(BaseDataset):
    """The patches of one patch list, single or as pairs for VICReg, fetched a batch at a time.

    ``dataset.__getitems__(keys)`` takes a list of ``(index, draw)``: ``index`` counts rows of the list, ``draw`` is
    the sample's own random 63-bit number, so that a pair depends on nothing but its key. It returns two uint8
    tensors (n, 3, P, P): for ``positives="same"`` one and the same, for ``"temporal"`` the second is the same patch
    position of the same AOI in another month (the same month only where no other exists).

    Args:
        csv_path: ``train.csv``, ``val.csv`` or ``all.csv``; pixels come from ``patches.npy`` beside it.
        positives: ``"same"``, ``"temporal"`` or ``"neighbor"`` (a patch beside it in the same mosaic).
        data_dir: the SN7 tree, for folders without a pack; default: the ``source`` in ``meta.json``.
        max_months_apart: of temporal pairs; None is any.

    Attributes:
        table: the patch list. labels: int64 tensor (n,). places: (n,) numbers of (AOI, patch position).
        classes: names. mean, std: per channel, of pixels in [0, 1]. at_hand: whether fetching decodes nothing.
    """

    def __init__(self, csv_path, positives="same", data_dir=None, max_months_apart=None):
        import torch

        csv_path = Path(csv_path)
        self.table = read_patch_list(csv_path)
        if self.table.empty:
            raise ValueError(f"{csv_path}: no rows")
        has_meta = (csv_path.parent / "meta.json").is_file()  # a first-version list may lack it, today's half-written
        meta = read_meta(csv_path.parent) if has_meta or (self.table.row >= 0).all() else {}
        self.labels = torch.from_numpy(self.table.label.to_numpy(np.int64).copy())
        self.classes = meta.get("classes") or [str(label) for label in range(int(self.labels.max()) + 1)]
        self.mean, self.std = meta.get("mean", WHOLE_SET_MEAN), meta.get("std", WHOLE_SET_STD)
        self._grid, self._source = meta.get("grid", 4), data_dir or meta.get("source")
        self._rows = self.table.row.to_numpy()
        self._path, self._on_device = csv_path.parent / "patches.npy", None
        self._store = self._open_store(self._path)
        self.in_memory = self._store is not None
        self.location_ids = self.table.groupby(["aoi", "patch"], sort=False).ngroup().to_numpy()
        months = month_number(self.table.year, self.table.month).to_numpy()
        if positives == "neighbor" and max_months_apart is None:
            mosaics = self.table.groupby(["aoi", "year", "month"], sort=False).ngroup()
            self._pairs = SpatialNeighborPairs(mosaics, self.table.patch, self._grid)
        else:
            self._pairs = build_pairs(positives, self.location_ids, months, max_months_apart)

    def _open_store(self, path):
        if not path.is_file() or (self._rows < 0).any():
            if not self._source:
                raise FileNotFoundError(f"no {path} and no SN7 tree named; pass --data-dir or run make_sn7_csv.py")
            return None
        store = np.asarray(np.load(path, mmap_mode="r"))  # indexing a plain array is twice as fast as a memmap
        if (last := self._rows.max()) >= len(store):
            raise ValueError(f"{path} has {len(store)} rows, the list asks for row {last}; write both again")
        return store

    def __getstate__(self):
        return {**self.__dict__, "_store": None}  # a loader process opens the pack itself: no copy of it travels

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._store = self._open_store(self._path)

    def __len__(self):
        return len(self.table)

    def to_device(self, device):
        """Keep this list's patches in the device's memory (n x 3 x P x P bytes); fetching then costs no transfer."""
        self._on_device = self.images(range(len(self))).to(device)

    def images(self, indices):
        """Fetch patches: list of indices -> uint8 tensor (n, 3, P, P)."""
        import torch

        if self._on_device is not None:
            return self._on_device[torch.as_tensor(indices, device=self._on_device.device)]
        if self._store is not None:
            return torch.from_numpy(self._store[self._rows[indices]])
        return torch.from_numpy(np.stack([self._cut_from_tree(index) for index in indices]))

    def _cut_from_tree(self, index):
        row = self.table.iloc[index]
        name = row.image_id if Path(row.image_id).suffix else f"{row.image_id}.tif"
        return cut_patches(read_mosaic(Path(self._source) / row.aoi / "images" / name), self._grid)[row.patch]

    def location_keys(self):
        """Return (AOI, patch position) of each patch."""
        return list(zip(self.table.aoi, self.table.patch, strict=True))

    def positive_index(self, index, sample_seed):
        """Return the index of the second image of a pair in O(1), chosen by ``sample_seed``."""
        return index if self._pairs is None else self._pairs.positive_index(index, sample_seed)
