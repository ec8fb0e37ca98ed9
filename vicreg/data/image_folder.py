"""Folders of images sorted into class folders, as ImageNet is: validation split and loading."""

import argparse
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vicreg.common.logger import log
from vicreg.data.broken_files import find_broken
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_listing import Listing, choose_files, format_names, list_images
from vicreg.data.subsets import held_out_images
from vicreg.distributed.process_group import assert_equal_across_ranks, is_main

# Validation images of a folder without val/: fixed, so that pretraining and evaluation hold out the same ones.
VAL_FRACTION, VAL_SEED = 0.1, 0
MAX_LISTED = 5  # broken files in the message


def split_image_folder(data_dir: str | Path, val_fraction: float = VAL_FRACTION) -> tuple[Listing, Listing, str]:
    """List the training and validation images of a folder.

    Args:
        data_dir: Folder with ``train/`` (and ``val/``), or the training folder itself. A folder ``val`` next to a
            folder whose name begins with ``train`` is its validation set.
        val_fraction: Fraction of each class to hold out if there is no ``val``; the same images each time.

    Returns:
        Training files, validation files, and a line about the validation set.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Class folders are missing, empty, or differ between training and validation.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder {data_dir}; --data-dir is the folder that holds train/, or train/ itself")
    folder = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    train = list_images(folder)
    val_folder = folder.absolute().with_name("val")  # next to a symbolic link, not next to its target
    if folder.absolute().name.startswith("train") and val_folder.is_dir():
        val = list_images(val_folder)
        _check_same_classes(train.classes, folder, val.classes, val_folder)
        return train, val, f"validation: {len(val.paths)} images in {val_folder}"
    if max(np.bincount(train.labels)) < 2:
        raise ValueError(f"no val/ next to {folder}, and only one image per class: none can be held out")
    held_out = held_out_images(train.labels, val_fraction, VAL_SEED)
    line = f"{held_out.sum()} of {len(held_out)} images of {folder} held out, stratified by class (no val/ next to it)"
    return train.take(~held_out), train.take(held_out), f"validation: {line}"


def _check_same_classes(train: list[str], train_folder: Path, val: list[str], val_folder: Path) -> None:
    if train == val:
        return
    train_only, val_only = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    differences = [f"{format_names(train_only)} only in {train_folder}"] if train_only else []
    differences += [f"{format_names(val_only)} only in {val_folder}"] if val_only else []
    raise ValueError(f"class folders differ: {'; '.join(differences)}; both need the same ones")


def add_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the options of an image folder, and return their group."""
    group = parser.add_argument_group("images")
    group.add_argument("--data-dir", type=Path, required=True, help="folder with train/ and val/, or its train/")
    group.add_argument(
        "--no-check", action="store_true",
        help="do not search for broken files before the run; each one met later is replaced by another of its class",
    )  # fmt: skip
    return group


def load_folder(
    data_dir: str | Path,
    device: torch.device,
    image_size: int | None = None,
    check: bool = True,
    train_files: str | Path | None = None,
    val_fraction: float = VAL_FRACTION,
) -> tuple[ImageDataset, ImageDataset, np.ndarray | None]:
    """Return the training and the validation data set of a folder of images.

    Args:
        data_dir: Folder; see ``split_image_folder``.
        device: Device of this process.
        image_size: Side of the views in pixels; default 224.
        check: Search for broken files and remove them.
        train_files: List of file names; see ``choose_files``.
        val_fraction: Fraction of each class to hold out if there is no ``val``.

    Returns:
        Training set, validation set, and the indices of ``train_files`` in the training set (None without them).

    Raises:
        FileNotFoundError: No such folder or list.
        ValueError: The folder or the list cannot be used, or another process sees other images.
    """
    train, val, line = split_image_folder(data_dir, val_fraction)
    chosen = None if train_files is None else choose_files(train, train_files)
    log(line)
    if check:
        train, chosen = _without_broken(train, chosen)
        val, _ = _without_broken(val)
    assert_equal_across_ranks(len(train.paths) + len(val.paths), "images", device)
    side = decode_size(image_size)
    train_set, val_set = (ImageDataset(part.paths, part.labels, part.classes, side=side) for part in (train, val))
    return train_set, val_set, chosen


def _without_broken(listing: Listing, subset: np.ndarray | None = None) -> tuple[Listing, np.ndarray | None]:
    """Remove broken files and log them; see ``Listing.without``."""
    bar = functools.partial(tqdm, desc="checking files", leave=False, disable=None if is_main() else True)
    broken = find_broken(listing.paths, min(16, 4 * (os.cpu_count() or 1)), bar)
    if not broken:
        return listing, subset
    lines = [f"  {listing.paths[index]}: {reason}" for index, reason in list(broken.items())[:MAX_LISTED]]
    more = [f"  … and {len(broken) - MAX_LISTED} more"] if len(broken) > MAX_LISTED else []
    log("\n".join([f"{len(broken)} of {len(listing.paths)} files are broken and left out:", *lines, *more]))
    return listing.without(broken, subset)
