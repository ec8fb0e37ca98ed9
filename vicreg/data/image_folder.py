"""Folders of images sorted into class folders, as ImageNet is: listing, validation split, and loading."""

import argparse
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from vicreg.common.logger import log
from vicreg.data.broken_files import find_broken
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_io import is_image_name
from vicreg.data.image_paths import image_paths, inode, is_visible
from vicreg.data.subsets import held_out_images
from vicreg.distributed.process_group import assert_equal_across_ranks, is_main

# Validation images of a folder without val/: fixed, so that pretraining and evaluation hold out the same ones.
VAL_FRACTION, VAL_SEED = 0.1, 0
MAX_LISTED = 5  # broken files in the message


class Listing(NamedTuple):
    """Image files of one split.

    Attributes:
        paths: Paths of n files in a fixed order.
        labels: Class indices, int64 array (n,).
        classes: Class names.
    """

    paths: list[str]
    labels: np.ndarray
    classes: list[str]

    def take(self, selection: np.ndarray) -> "Listing":
        """Return the files that a bool mask or an array of indices selects."""
        indices = np.arange(len(self.paths))[selection]
        return Listing([self.paths[index] for index in indices], self.labels[indices], self.classes)

    def without(self, indices: Iterable[int], subset: np.ndarray | None = None) -> tuple["Listing", np.ndarray | None]:
        """Remove files.

        Args:
            indices: Indices of the files to remove.
            subset: Sorted indices of a subset of the files, or None.

        Returns:
            The remaining files, and the indices of the remaining part of the subset among them.

        Raises:
            ValueError: A class loses its last file, or nothing remains of the subset.
        """
        kept = np.ones(len(self.paths), bool)
        kept[list(indices)] = False
        if lost := sorted(set(range(len(self.classes))) - set(self.labels[kept].tolist())):
            raise ValueError(f"no readable image of {_some([self.classes[label] for label in lost])}")
        if subset is not None:
            subset = (np.cumsum(kept) - 1)[subset[kept[subset]]]
            if not len(subset):
                raise ValueError("none of the chosen files can be read")
        return self.take(kept), subset


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


def list_images(folder: str | Path) -> Listing:
    """List the images in the class folders of a folder, sorted by class and path.

    Hidden files and folders and files without an image suffix are skipped.

    Raises:
        ValueError: There are no class folders, or empty ones.
    """
    folder = Path(folder)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if is_visible(entry.name)]
    classes = sorted(entry.name for entry in visible if entry.is_dir())
    if not classes:
        loose = sum(is_image_name(entry.name) for entry in visible)
        raise ValueError(f"no class folders in {folder} ({loose} loose images); <class>/<image> is expected")
    class_inodes = {inode(folder / name) for name in classes}
    paths_of_classes = [image_paths(folder / name, class_inodes) for name in classes]
    if empty := [folder / name for name, paths in zip(classes, paths_of_classes, strict=True) if not paths]:
        raise ValueError(f"no image in {_some(empty)}; remove empty class folders")
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in paths_of_classes])
    return Listing([path for paths in paths_of_classes for path in paths], labels, classes)


def _check_same_classes(train: list[str], train_folder: Path, val: list[str], val_folder: Path) -> None:
    if train == val:
        return
    train_only, val_only = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    differences = [f"{_some(train_only)} only in {train_folder}"] if train_only else []
    differences += [f"{_some(val_only)} only in {val_folder}"] if val_only else []
    raise ValueError(f"class folders differ: {'; '.join(differences)}; both need the same ones")


def _some(names: list[Any], max_items: int = 3) -> str:
    more = f" and {len(names) - max_items} more" if len(names) > max_items else ""
    return ", ".join(str(name) for name in names[:max_items]) + more


def choose_files(
    listing: Listing, names_file: str | Path, flag: str = "--train-files", any_suffix: bool = False
) -> np.ndarray:
    """Return the indices of the images in a list of file names, such as SimCLR's 1 % and 10 % lists of ImageNet.

    Args:
        listing: Image files.
        names_file: Text file with one name per line, with or without the class folder before it.
        flag: Option that named the file, for messages.
        any_suffix: Ignore suffixes: ``River_1.tif`` also selects ``River_1.jpg``.

    Returns:
        Sorted int64 array.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A name is not among the images or fits several of them.
    """
    names_file = Path(names_file)
    if not names_file.is_file():
        raise FileNotFoundError(f"no list of files at {names_file}; {flag} takes one image name per line")
    names = [line.strip() for line in names_file.read_text().splitlines() if line.strip()]
    trim: Callable[[str], str] = (lambda name: os.path.splitext(name)[0]) if any_suffix else str
    index_of: dict[str, list[int]] = {}
    for index, path in enumerate(listing.paths):
        for name in (os.path.basename(path), "/".join(Path(path).parts[-2:])):
            index_of.setdefault(trim(name), []).append(index)
    keys = [trim("/".join(name.split("/")[-2:])) for name in names]
    if not names:
        raise ValueError(f"{names_file}: no names in it")
    if missing := [name for name, key in zip(names, keys, strict=True) if key not in index_of]:
        count = f"{len(missing)} of {len(names)} names"
        raise ValueError(f"{names_file}: {count} are not among the training images: {_some(missing)}")
    if ambiguous := [name for name, key in zip(names, keys, strict=True) if len(index_of[key]) > 1]:
        raise ValueError(f"{names_file}: {_some(ambiguous)} in several class folders; write <class>/<name>")
    return np.unique([index_of[key][0] for key in keys])


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
