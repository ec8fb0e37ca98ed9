"""Folders of images sorted into class folders, as ImageNet is: validation split and loading."""

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vicreg.common.logger import log
from vicreg.data.broken_files import find_broken, log_left_out
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_listing import Listing, find_split, format_names, list_images, split_folders
from vicreg.data.images import add_levels_argument, check_levels
from vicreg.data.name_lists import choose_files
from vicreg.data.raster_bands import Levels
from vicreg.data.subsets import held_out_images
from vicreg.distributed.process_group import is_main

# Validation images of a folder without val/: fixed, so that pretraining and evaluation hold out the same ones.
VAL_FRACTION, VAL_SEED = 0.1, 0


def split_image_folder(data_dir: str | Path, val_fraction: float = VAL_FRACTION) -> tuple[Listing, Listing, str]:
    """List the training and validation images of a folder.

    Args:
        data_dir: Folder with split folders ``train`` and ``val`` (or ``valid``, ``validation``, in any case), a folder
            whose name begins with "train" beside a validation folder, or a folder of class folders.
        val_fraction: Fraction of each class to hold out if there is no ``val``; the same images each time.

    Returns:
        Training files, validation files, and a line about the validation set.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Class folders are missing, empty, or differ between training and validation, or it is ambiguous
            which folders are classes.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder {data_dir}; --data-dir is the folder that holds train/, or train/ itself")
    splits = split_folders(data_dir)
    if splits and "train" not in splits:
        names = format_names([path.name for path in splits.values()])
        raise ValueError(f"{data_dir} holds the split folders {names}, and no train")
    folder = splits.get("train", data_dir)
    val_folder = splits.get("val")
    if not splits and folder.absolute().name.lower().startswith("train"):  # beside a link, not beside its target
        val_folder = find_split(folder.absolute().parent, "val")
    train = list_images(folder)
    if val_folder is not None:
        val = list_images(val_folder)
        _check_same_classes(train.classes, folder, val.classes, val_folder)
        return train, val, f"validation: {len(val.paths)} images in {val_folder}"
    if max(np.bincount(train.labels)) < 2:
        raise ValueError(f"no val/ next to {folder}, and only one image per class: none can be held out")
    held_out = held_out_images(train.labels, val_fraction, VAL_SEED)
    line = f"{held_out.sum()} of {len(held_out)} images of {folder} held out, stratified by class (no val/ next to it)"
    return train.take(~held_out), train.take(held_out), f"validation: {line}"


def _check_same_classes(train: list[str], train_folder: Path, val: list[str], val_folder: Path) -> None:
    differences = [
        f"{format_names(only)} only in {folder}"
        for classes, others, folder in ((train, val, train_folder), (val, train, val_folder))
        if (only := sorted(set(classes) - set(others)))
    ]
    if differences:
        raise ValueError(f"class folders differ: {'; '.join(differences)}; both need the same ones")


def add_arguments(parser: argparse.ArgumentParser, levels: str = "default: such files are refused") -> Any:
    """Add the options of an image folder, and return their group; ``levels`` is the default of --levels in words."""
    group = parser.add_argument_group("images")
    group.add_argument("--data-dir", type=Path, required=True, help="folder with train/ and val/, or its train/")
    group.add_argument(
        "--no-check", action="store_true",
        help="do not search for broken files before the run; each one met later is replaced by another of its class",
    )  # fmt: skip
    group.add_argument("--bands", type=int, nargs=3, metavar="BAND", help="red, green, blue of TIFFs, counted from 1")
    add_levels_argument(group, levels)
    return group


def load_folder(
    data_dir: str | Path,
    image_size: int | None = None,
    check: bool = True,
    train_files: str | Path | None = None,
    val_fraction: float = VAL_FRACTION,
    bands: Sequence[int] | None = None,
    levels: Levels = None,
) -> tuple[ImageDataset, ImageDataset, np.ndarray | None]:
    """Return the training and the validation data set of a folder of images.

    Args:
        data_dir: Folder; see ``split_image_folder``.
        image_size: Side of the views in pixels; default 224.
        check: Search for broken files and remove them.
        train_files: List of file names; see ``choose_files``.
        val_fraction: Fraction of each class to hold out if there is no ``val``.
        bands: Red, green and blue band of TIFFs, counted from 1.
        levels: Values (low, high) of black and white of files deeper than 8 bits.

    Returns:
        Training set, validation set, and the indices of ``train_files`` in the training set (None without them).

    Raises:
        FileNotFoundError: No such folder or list.
        ValueError: The folder or the list cannot be used, or another process sees other images.
    """
    check_levels(levels)
    if bands and min(bands) < 1:
        raise ValueError(f"--bands {' '.join(map(str, bands))}: bands are counted from 1")
    train, val, line = split_image_folder(data_dir, val_fraction)
    chosen = None if train_files is None else choose_files(train, train_files)
    log(line)
    if check:
        train, chosen = without_broken(train, chosen, bands, levels)
        val, _ = without_broken(val, None, bands, levels)
    side = decode_size(image_size)
    options: dict[str, Any] = {"side": side, "bands": bands, "levels": levels}
    train_set, val_set = (ImageDataset(part.paths, part.labels, part.classes, **options) for part in (train, val))
    return train_set, val_set, chosen


def without_broken(
    listing: Listing, subset: np.ndarray | None = None, bands: Sequence[int] | None = None, levels: Levels = None
) -> tuple[Listing, np.ndarray | None]:
    """Remove the files that ``find_broken`` finds, and log them; see ``Listing.without``."""
    bar = functools.partial(tqdm, desc="checking files", leave=False, disable=None if is_main() else True)
    broken = find_broken(listing.paths, min(16, 4 * (os.cpu_count() or 1)), bar, bands, levels)
    log_left_out([(listing.paths[index], reason) for index, reason in broken.items()], len(listing.paths))
    return listing.without(broken, subset)
