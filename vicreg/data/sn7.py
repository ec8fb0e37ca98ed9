"""SpaceNet-7 patches as a data set."""

import functools
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicreg.data.base import BaseDataset
from vicreg.data.pairs import SpatialNeighborPairs, build_pairs, month_number
from vicreg.data.pixel_arrays import select_images
from vicreg.data.sn7_format import CHANNELS, cut_patches, open_pack, read_mosaic, read_patch_list, tile_center
from vicreg.data.tables import check_ranges, check_rows, read_meta

# Of the 1,423 training mosaics, for lists without a meta.json.
TRAIN_MEAN = [121.8 / 255, 106.5 / 255, 78.4 / 255]
TRAIN_STD = [56.7 / 255, 44.5 / 255, 40.5 / 255]


class SN7Patches(BaseDataset):
    """The patches of one patch list, labeled, and as pairs for pretraining.

    Pixels come from ``patches.npy`` next to the list, memory-mapped, or else from the mosaics.

    Args:
        csv_path: ``train.csv``, ``val.csv`` or ``all.csv`` of a prepared folder.
        positives: Second image of a pair: "same", "temporal" (the same patch position of the same AOI in another month,
            if there is one) or "neighbor" (an adjacent patch of the same mosaic).
        data_dir: SN7 tree, for folders without ``patches.npy``; default: ``source`` in ``meta.json``.
        max_months_apart: Maximum distance of temporal pairs in months; None for any.

    Attributes:
        table: The patch list, a DataFrame with ``sn7_format.COLUMNS``.
        labels: int64 tensor (n,).
        location_ids: Number of the (AOI, patch position) of each patch (n,).

    Raises:
        FileNotFoundError: The list, ``meta.json`` or the pixels are missing.
        ValueError: The list is empty or does not fit ``patches.npy``, or the options do not fit.
    """

    name = "SN7"

    def __init__(
        self,
        csv_path: str | Path,
        positives: str = "same",
        data_dir: str | Path | None = None,
        max_months_apart: int | None = None,
    ):
        csv_path = Path(csv_path)
        self.table = read_patch_list(csv_path)
        if self.table.empty:
            raise ValueError(f"{csv_path}: no rows")
        has_meta = (csv_path.parent / "meta.json").is_file()  # optional for first-version lists only
        meta = read_meta(csv_path.parent) if has_meta or (self.table.row >= 0).all() else {}
        self.labels = torch.from_numpy(self.table.label.to_numpy(np.int64).copy())
        self.classes = meta.get("classes") or [str(label) for label in range(int(self.labels.max()) + 1)]
        self.mean, self.std = meta.get("mean", TRAIN_MEAN), meta.get("std", TRAIN_STD)
        self._grid, self._source = meta.get("grid", 4), data_dir or meta.get("source")
        self._rows = self.table.row.to_numpy()
        check_rows(csv_path, len(self.table), meta)
        check_ranges(csv_path, self.table, label=(0, len(self.classes) - 1))
        self._path, self._meta = csv_path.parent / "patches.npy", meta
        self._pack_digest: str | None = meta.get("sha256", {}).get(self._path.name)
        self._on_device: torch.Tensor | None = None
        self.in_memory = self._store is not None
        self.location_ids = self.table.groupby(["aoi", "patch"], sort=False).ngroup().to_numpy()
        if positives == "neighbor" and max_months_apart is None:
            mosaics = self.table.groupby(["aoi", "year", "month"], sort=False).ngroup()
            self._pairs = SpatialNeighborPairs(mosaics.to_numpy(), self.table.patch.to_numpy(), self._grid)
        else:
            months = month_number(self.table.year, self.table.month).to_numpy()
            self._pairs = build_pairs(positives, self.location_ids, months, max_months_apart)

    @functools.cached_property
    def _store(self) -> Any:
        """Array (rows, C, P, P) in the file beside the list; None without one, if there are mosaics."""
        if not self._path.is_file() or (self._rows < 0).any():
            if not self._source:
                raise FileNotFoundError(f"no {self._path} and no SN7 tree; pass --data-dir or run make_sn7_csv.py")
            return None
        store = open_pack(self._path, self._rows)
        side = self._meta.get("patch_size", store.shape[-1])
        if store.shape != (expected := (self._meta.get("rows", len(store)), CHANNELS, side, side)):
            raise ValueError(f"{self._path} is {store.shape}, meta.json says {expected}; write the folder again")
        return store

    def __getstate__(self) -> dict[str, Any]:  # loader processes map the file themselves instead of copying it
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    def __len__(self) -> int:
        return len(self.table)

    def to_device(self, device: torch.device) -> None:
        """Copy all patches to a device (n x 3 x P x P bytes); ``images`` then returns them from there."""
        self._on_device = self.images(range(len(self))).to(device)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Load patches: uint8 tensor (n, 3, P, P)."""
        if self._on_device is not None:
            return select_images(self._on_device, indices)
        if self._store is not None:
            return torch.from_numpy(self._store[self._rows[indices]])
        return torch.from_numpy(np.stack([self._cut_from_mosaic(index) for index in indices]))

    def _cut_from_mosaic(self, index: int) -> np.ndarray:
        row = self.table.iloc[index]
        name = row.image_id if Path(row.image_id).suffix else f"{row.image_id}.tif"
        return _cut(Path(str(self._source)) / row.aoi / "images" / name, self._grid)[row.patch]

    def names(self) -> list[str]:
        """Return mosaic and patch position of each patch."""
        pairs = zip(self.table.patch, self.table.image_id, strict=True)
        return [f"{patch}!{Path(image_id).stem}" for patch, image_id in pairs]

    def digests(self) -> dict[str, str]:
        """Return the digests of the list and of ``patches.npy``, if ``meta.json`` records it."""
        return super().digests() | ({"images": self._pack_digest} if self._pack_digest else {})

    def location_keys(self) -> list[Hashable]:
        """Return (AOI, patch position) of each patch."""
        return list(zip(self.table.aoi, self.table.patch, strict=True))

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return AOI, month and position of patches."""
        rows = self.table.iloc[indices]
        centers = {aoi: tile_center(aoi) for aoi in rows.aoi.unique()}
        dates = [f"{year:04d}-{month:02d}" for year, month in zip(rows.year, rows.month, strict=True)]
        longitude, latitude = zip(*map(centers.__getitem__, rows.aoi), strict=True)
        return {"location": list(rows.aoi), "date": dates, "longitude": longitude, "latitude": latitude}


@functools.lru_cache(16)  # consecutive rows are patches of one mosaic
def _cut(mosaic: Path, grid: int) -> np.ndarray:
    return cut_patches(read_mosaic(mosaic), grid)
