"""Patches of the user's own imagery, prepared by ``make_imagery_csv.py``, or images of a folder, as a data set."""

import argparse
import contextlib
import functools
import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vicreg.common.logger import log
from vicreg.data.base import BaseDataset
from vicreg.data.broken_files import log_left_out
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_folder import without_broken
from vicreg.data.image_io import UnsupportedImage
from vicreg.data.image_listing import Listing
from vicreg.data.pairs import TemporalPairs
from vicreg.data.pixel_arrays import map_pixels
from vicreg.data.raster_pack.headers import PackOptions, list_sources
from vicreg.data.raster_pack.lists import COLUMNS
from vicreg.data.raster_pack.prepare import prepare_folder
from vicreg.data.raster_pack.scenes import PILLOW_SUFFIXES
from vicreg.data.sn7 import SN7Patches
from vicreg.data.tables import add_verify_argument, check_ranges, check_rows, read_meta, read_table
from vicreg.distributed.process_group import is_main

INTEGERS = ["row", "grid", "column", "line", "label"]
HOW_TO_PREPARE = "python preprocessing/make_imagery_csv.py --data-dir SCENES --out-dir"


class PatchShards:
    """The shards ``patches-*.npy`` of a prepared folder as one array (rows, C, P, P), memory-mapped.

    Args:
        folder: The folder.
        shards: File and number of rows of each shard, from ``meta.json``.
        dtype: Type of the pixels.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A shard has another type or shape.
    """

    def __init__(self, folder: Path, shards: Sequence[dict[str, Any]], dtype: str):
        self._arrays: list[np.ndarray] = []
        for shard in shards:
            array = map_pixels(folder / shard["file"], "prepare the folder again", dtypes=[dtype])
            expected = (shard["rows"], *(self._arrays or [array])[0].shape[1:])
            if array.shape != expected:
                raise ValueError(f"{folder / shard['file']} is {array.shape}, not {expected}; prepare the folder again")
            self._arrays.append(array)
        self._stops = np.cumsum([len(array) for array in self._arrays])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if len(self._arrays) == 1:
            return self._arrays[0][rows]
        numbers = np.searchsorted(self._stops, rows, side="right")
        result = np.empty((len(rows), *self._arrays[0].shape[1:]), self._arrays[0].dtype)
        for number in np.unique(numbers):
            inside = numbers == number
            first = self._stops[number] - len(self._arrays[number])
            result[inside] = self._arrays[number][rows[inside] - first]
        return result


class ImageryPatches(SN7Patches):
    """The patches of one list of a prepared folder, of any band count, uint8 or uint16.

    Args:
        csv_path: ``train.csv``, ``val.csv`` or ``all.csv``.
        positives: Second image of a pair: "same", "temporal" (the same location in another scene, if there is one), or
            None for "temporal" where a location has two dates, else "same".
        max_days_apart: Maximum distance of temporal pairs in days; None for any.
        labeled: Leave out patches without a label.

    Attributes:
        table: The patch list.
        labels: int64 tensor (n,); -1 without a label.
        positives: "same" or "temporal".
        levels: Values of the source files that became 0 and the maximum, a pair for each band if they differ; None for
            8 bits.

    Raises:
        FileNotFoundError: The list, ``meta.json`` or a shard is missing.
        ValueError: The list is empty or has no labels, or an option does not fit.
    """

    name = "imagery"

    def __init__(
        self,
        csv_path: str | Path,
        positives: str | None = "same",
        max_days_apart: int | None = None,
        labeled: bool = False,
    ):
        csv_path = Path(csv_path)
        for path in (csv_path, csv_path.with_name("meta.json")):
            if not path.is_file():
                raise FileNotFoundError(f"no {path}; prepare the folder with\n  {HOW_TO_PREPARE} {path.parent}")
        self.table = read_table(csv_path, INTEGERS)
        if missing := [column for column in COLUMNS if column not in self.table]:
            raise ValueError(f"{csv_path}: columns missing: {', '.join(missing)}; write it with make_imagery_csv.py")
        meta = read_meta(csv_path.parent)
        if "shards" not in meta:
            raise ValueError(f"{csv_path.with_name('meta.json')} names no shards; write it with make_imagery_csv.py")
        check_rows(csv_path, len(self.table), meta)
        stored = sum(shard["rows"] for shard in meta["shards"])
        check_ranges(csv_path, self.table, row=(0, stored - 1), label=(-1, len(meta["classes"]) - 1))
        if labeled:
            self.table = self.table[self.table.label >= 0].reset_index(drop=True)
        if self.table.empty:
            advice = " with a label; prepare the folder with --labels" if labeled else ""
            raise ValueError(f"{csv_path}: no rows{advice}")
        self.labels = torch.from_numpy(self.table.label.to_numpy(np.int64).copy())
        self.classes, self.mean, self.std = meta["classes"], meta["mean"], meta["std"]
        scale = [tuple(pair) for pair in meta["scale"] or [(0, 65535)]]
        if meta["dtype"] != "uint8" or meta["scale"]:  # for readers of other files
            self.levels = scale[0] if len(set(scale)) == 1 else tuple(scale)
        self._path, self._shards, self._dtype = csv_path.parent, meta["shards"], meta["dtype"]
        digests = "".join(shard["sha256"] for shard in self._shards)
        self._pack_digest = hashlib.blake2b(digests.encode(), digest_size=16).hexdigest()
        self._rows, self._on_device = self.table.row.to_numpy(), None
        self.in_memory = self._store is not None  # opens the shards
        self.location_ids = self.table.groupby("location", sort=False).ngroup().to_numpy()
        self.positives = positives or self._default_positives()
        if self.positives == "temporal":
            self._pairs = TemporalPairs(self.location_ids, self._days(max_days_apart), max_days_apart)
        elif max_days_apart is not None:
            raise ValueError(f"--max-days-apart {max_days_apart} is for temporal positives: add --positives temporal")

    @functools.cached_property
    def _store(self) -> PatchShards:
        return PatchShards(self._path, self._shards, self._dtype)

    def _default_positives(self) -> str:
        dated = self.table[self.table.date != ""]
        return "temporal" if (dated.groupby("location").date.nunique() > 1).any() else "same"

    def _days(self, max_days_apart: int | None) -> np.ndarray | None:
        """Return the day of each patch, if a limit needs it."""
        if max_days_apart is None:
            return None
        if max_days_apart < 0:
            raise ValueError(f"--max-days-apart {max_days_apart}: 0 days or more are needed")
        if undated := int((self.table.date == "").sum()):
            raise ValueError(f"--max-days-apart needs the date of every patch, and {undated} of {len(self)} have none")
        try:
            if not self.table.date.str.fullmatch(r"\d{4}-\d\d(-\d\d)?").all():
                raise ValueError("YYYY-MM-DD is expected")
            return self.table.date.to_numpy("datetime64[D]").astype(np.int64)
        except ValueError as error:
            raise ValueError(f"a date in the lists of {self._path} cannot be read: {error}") from error

    def names(self) -> list[str]:
        """Return file and location of each patch."""
        return [f"{row.image_id}!{row.location}" for row in self.table.itertuples()]

    def location_keys(self) -> list[Hashable]:
        """Return the location of each patch."""
        return list(self.table.location)

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return file, site and date of patches."""
        rows = self.table.iloc[indices]
        return {"image": list(rows.image_id), "location": list(rows.site), "date": list(rows.date)}


def add_arguments(parser: argparse.ArgumentParser, csv_dir: Path) -> argparse._ArgumentGroup:
    """Add the options of prepared imagery, and return their group."""
    data = parser.add_argument_group("imagery")
    data.add_argument("--csv-dir", type=Path, default=csv_dir, help="folder written by make_imagery_csv.py")
    add_verify_argument(data)
    return data


def labeled_sets(csv_dir: Path) -> tuple[ImageryPatches, ImageryPatches] | None:
    """Return the labeled patches of the training and the validation list; None if one of them has none."""
    meta = read_meta(csv_dir)
    if not meta["classes"] or not (csv_dir / "val.csv").is_file():
        return None
    train, val = (read_table(csv_dir / f"{part}.csv", ["label"], usecols=["label"]).label for part in ("train", "val"))
    if (train < 0).all() or (val < 0).all():
        return None
    return ImageryPatches(csv_dir / "train.csv", labeled=True), ImageryPatches(csv_dir / "val.csv", labeled=True)


def load_data_dir(
    data_dir: Path,
    cache: Path,
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
    positives: str | None = None,
    max_days_apart: int | None = None,
) -> tuple[BaseDataset, str]:
    """Return a folder of images or rasters as a data set to pretrain on, without labels and with all of its files.

    8-bit images are decoded while training. A folder with rasters or deeper images is first cut into patches in
    ``cache``, without a change of their values, by the main process; a second call uses what is there.

    Args:
        data_dir: Folder, searched at any depth.
        cache: Folder for the patches of rasters, in the run folder.
        image_size: Side of the views in pixels, of images.
        patch_size: Side of the patches in pixels, of rasters; default 256, or what all hold if none reaches it.
        positives: See ``ImageryPatches``.
        max_days_apart: See ``ImageryPatches``.

    Returns:
        The data set, and its positives.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds nothing that can be used, or an option is of no use for images.
    """
    sources = list_sources(data_dir)
    if not sources:
        raise ValueError(f"no images or rasters in {data_dir}")
    bar = functools.partial(tqdm, leave=False, disable=None if is_main() else True)
    if all(source.path.lower().endswith(PILLOW_SUFFIXES) for source in sources):
        listing = Listing([source.path for source in sources], np.zeros(len(sources), np.int64), ["image"])
        with contextlib.suppress(UnsupportedImage):  # deeper than 8 bits, as rasters are
            listing, _ = without_broken(listing)
            options = {"--positives": positives, "--patch-size": patch_size, "--max-days-apart": max_days_apart}
            if given := [f"{flag} {value}" for flag, value in options.items() if value not in (None, "same")]:
                raise ValueError(f"{', '.join(given)}: the images in {data_dir} have no locations, dates or patches; "
                                 "prepare them with make_imagery_csv.py --location-pattern")  # fmt: skip
            return ImageDataset(listing.paths, listing.labels, listing.classes, side=decode_size(image_size)), "same"
    meta, problems = prepare_folder(data_dir, sources, cache, PackOptions(patch_size), bar)
    log_left_out([(problem.path, problem.message) for problem in problems], len(sources))
    counts = meta["counts"]
    log(f"{counts['patches']} patches of {counts['locations']} locations from {counts['scenes']} rasters in {cache}, "
        f"side {meta['patch_size']} pixels ({meta.get('patch_size_from', '--patch-size')})")  # fmt: skip
    dataset = ImageryPatches(cache / "train.csv", positives, max_days_apart)
    return dataset, dataset.positives
