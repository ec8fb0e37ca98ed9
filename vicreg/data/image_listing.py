"""Lists of image files in class folders."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vicreg.common.files import printable
from vicreg.common.logger import log
from vicreg.data.image_io import is_image_name

# names of split folders, in any case
SPLITS = {
    "train": "train", "training": "train", "trn": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_BAND = re.compile(r"_B(0[1-9]|8A|1[0-2])\.(tiff?|jp2)", re.IGNORECASE)  # one band of a Sentinel-2 patch
_FOLD = re.compile(r"(cv|fold|split|part|set|subset|batch|run|k)?[-_ .]?\d+", re.IGNORECASE)  # not a class
_SYSTEM = ("thumbs.db", "desktop.ini")


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
        """Remove the files of some indices, also from a subset given by sorted indices.

        Returns:
            The remaining files, and the indices of the remaining part of the subset among them.

        Raises:
            ValueError: A class loses its last file, or nothing remains of the subset.
        """
        kept = np.ones(len(self.paths), bool)
        kept[list(indices)] = False
        if lost := np.setdiff1d(self.labels, self.labels[kept]).tolist():
            raise ValueError(f"no readable image of {format_names([self.classes[label] for label in lost])}")
        if subset is not None:
            subset = (np.cumsum(kept) - 1)[subset[kept[subset]]]
            if not len(subset):
                raise ValueError("none of the chosen files can be read")
        return self.take(kept), subset


def list_images(folder: str | Path) -> Listing:
    """List the images in the class folders of a folder, sorted by class and path.

    Hidden files and folders are skipped, and so are files without an image suffix, whose number is logged.

    Raises:
        ValueError: There are no class folders, empty ones, or folders of another level.
    """
    folder = Path(folder)
    if splits := split_folders(folder):
        names = format_names([path.name for path in splits.values()])
        raise ValueError(f"{folder} holds the split folders {names}; name one of them, which holds class folders")
    folders = _subfolders(folder)
    if not folders:
        loose = sum(is_image_name(name) for name in os.listdir(folder))
        raise ValueError(f"no class folders in {folder} ({loose} loose images); <class>/<image> is expected")
    if len(folders) == 1 and not _has_images(folders[0]) and _subfolders(folders[0]):
        raise ValueError(f"{folder} holds one folder of folders; {folders[0]} is perhaps the folder of class folders")
    inside = [{path.name for path in _subfolders(folder)} for folder in folders if not _has_images(folder)]
    if len(folders) == len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        names = format_names(sorted(inside[0]))
        if all(_FOLD.fullmatch(path.name) for path in folders) and not all(map(_FOLD.fullmatch, inside[0])):
            raise ValueError(
                f"{folder}: the folders {names} are in each of its folders, such as {folders[0].name}, which seem to "
                "be parts, not classes; name one of them, or a folder whose folders are the classes"
            )
        log(f"{folder}: its {len(folders)} folders are the classes; {names} in each of them are not told apart")
    inodes, skipped = {_inode(path) for path in folders}, list[str]()
    paths_of_classes = [image_paths(path, inodes, skipped) for path in folders]
    if empty := [path for path, paths in zip(folders, paths_of_classes, strict=True) if not paths]:
        raise ValueError(f"no image in {format_names(empty)}; remove empty class folders")
    if all(_BAND.search(path) for paths in paths_of_classes for path in paths):
        raise ValueError(
            f"{folder} holds one folder per patch with one file per band, as BigEarthNet; <class>/<image> with the "
            "bands of an image in one file is expected"
        )
    log_skipped(folder, skipped)
    labels = np.repeat(np.arange(len(folders)), [len(paths) for paths in paths_of_classes])
    return Listing([path for paths in paths_of_classes for path in paths], labels, [path.name for path in folders])


def split_folders(folder: str | Path) -> dict[str, Path]:
    """Return the folders of ``SPLITS`` in a folder, by split, if they hold class folders; {} if they are classes.

    A class may be called "train": then its folder holds images, and so do the folders beside it.

    Raises:
        ValueError: A split has two folders, the folders hold images without classes, or class folders lie beside them.
    """
    folders = _subfolders(Path(folder))
    named = [path for path in folders if path.name.lower() in SPLITS]
    nested = [path for path in named if not _has_images(path) and _subfolders(path)]
    if not nested:
        if named and len(named) == len(folders):
            raise ValueError(
                f"{format_names(named)}: images without class folders; <class>/<image> is expected in each split"
            )
        return {}
    splits: dict[str, Path] = {}
    for path in named:
        if (other := splits.setdefault(SPLITS[path.name.lower()], path)) != path:
            raise ValueError(f"{other} and {path}: two folders of one split; rename or remove one of them")
    classes = [path for path in folders if path not in named and _has_images(path)]
    if classes and not {"train", "val"} <= splits.keys():
        raise ValueError(
            f"{folder} holds {format_names([path.name for path in nested])}, a folder of class folders, beside folders "
            f"of images such as {classes[0].name}; move them apart, or rename it if it is a class"
        )
    return splits


def find_split(parent: str | Path, split: str) -> Path | None:
    """Return the folder of a split in a folder by the names of ``SPLITS``, in any case; None if there is none.

    Raises:
        ValueError: There are two.
    """
    folders = _subfolders(Path(parent)) if os.path.isdir(parent) else []
    matches = [path for path in folders if SPLITS.get(path.name.lower()) == split]
    if len(matches) > 1:
        raise ValueError(f"{matches[0]} and {matches[1]}: two folders of one split; rename or remove one of them")
    return matches[0] if matches else None


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if _is_visible(entry) and entry.is_dir())


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image_name(entry.name) and entry.is_file() for entry in entries)


def image_paths(
    folder: str | Path,
    skip: Iterable[tuple[int, int]] = (),
    skipped: list[str] | None = None,
    recursive: bool = True,
    accept: Callable[[str], bool] = is_image_name,
) -> list[str]:
    """List the images below a folder, sorted by folder and name. Hidden files and folders are skipped.

    Symbolic links to folders are followed, but no folder is entered twice, and neither the parents of ``folder`` nor
    those in ``skip`` are entered: a link to ``..`` would make images of other classes members of this one.

    Args:
        folder: Folder to search.
        skip: (device, inode) of folders not to enter through links.
        skipped: Receives the paths of files without an image suffix, and of what is not a regular file.
        recursive: Whether to search folders in it.
        accept: Which file names are images.
    """
    top = Path(folder)
    entered = {_inode(path) for path in (top, *top.absolute().parents, *top.resolve().parents)} | set(skip)

    def walk(folder: str) -> Iterator[str]:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if _is_visible(entry)), key=lambda entry: entry.name)
        inside = []
        for entry in visible:
            if entry.is_dir():
                inside.append(entry.path)
            elif accept(entry.name) and entry.is_file():
                yield entry.path
            elif skipped is not None and entry.name.lower() not in _SYSTEM:
                skipped.append(entry.path)
        for path in inside if recursive else ():
            if (inode := _inode(path)) not in entered:
                entered.add(inode)
                yield from walk(path)

    return list(walk(str(top)))


def log_skipped(folder: str | Path, skipped: Sequence[str]) -> None:
    """Log the number of files that ``image_paths`` skipped."""
    if skipped:
        log(f"note: {len(skipped)} files in {folder} are no images by their suffix, skipped: {format_names(skipped)}")


def _is_visible(entry: os.DirEntry) -> bool:
    return not entry.name.startswith(".") and entry.name != "__MACOSX"


def _inode(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def format_names(names: Sequence[Any], max_items: int = 3) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - max_items} more" if len(names) > max_items else ""
    return ", ".join(printable(name, "") for name in names[:max_items]) + more
