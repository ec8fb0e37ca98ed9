"""Lists of image files in class folders."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vicreg.data.image_io import is_image_name


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
            raise ValueError(f"no readable image of {format_names([self.classes[label] for label in lost])}")
        if subset is not None:
            subset = (np.cumsum(kept) - 1)[subset[kept[subset]]]
            if not len(subset):
                raise ValueError("none of the chosen files can be read")
        return self.take(kept), subset


def list_images(folder: str | Path) -> Listing:
    """List the images in the class folders of a folder, sorted by class and path.

    Hidden files and folders and files without an image suffix are skipped.

    Raises:
        ValueError: There are no class folders, or empty ones.
    """
    folder = Path(folder)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if _is_visible(entry.name)]
    classes = sorted(entry.name for entry in visible if entry.is_dir())
    if not classes:
        loose = sum(is_image_name(entry.name) for entry in visible)
        raise ValueError(f"no class folders in {folder} ({loose} loose images); <class>/<image> is expected")
    inodes = {_inode(folder / name) for name in classes}
    paths_of_classes = [image_paths(folder / name, inodes) for name in classes]
    if empty := [folder / name for name, paths in zip(classes, paths_of_classes, strict=True) if not paths]:
        raise ValueError(f"no image in {format_names(empty)}; remove empty class folders")
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in paths_of_classes])
    return Listing([path for paths in paths_of_classes for path in paths], labels, classes)


def image_paths(folder: str | Path, skip: Iterable[tuple[int, int]] = ()) -> list[str]:
    """List the images below a folder, sorted by folder and name. Hidden files and folders are skipped.

    Symbolic links to folders are followed, but no folder is entered twice, and neither the parents of ``folder`` nor
    those in ``skip`` are entered: a link to ``..`` would make images of other classes members of this one.

    Args:
        folder: Folder to search.
        skip: (device, inode) of folders not to enter through links.
    """
    folder = Path(folder)
    entered = {_inode(path) for path in (folder, *folder.absolute().parents, *folder.resolve().parents)} | set(skip)
    paths = []
    for root, folders, files in os.walk(folder, followlinks=True):
        inodes = {name: _inode(os.path.join(root, name)) for name in folders if _is_visible(name)}
        folders[:] = []
        for name in sorted(inodes):
            if inodes[name] not in entered:
                entered.add(inodes[name])
                folders.append(name)
        paths += [os.path.join(root, name) for name in sorted(files) if is_image_name(name)]
    return paths


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _inode(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def format_names(names: Sequence[Any], max_items: int = 3) -> str:
    """Return the first names, and the number of the others."""
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
    try:
        names = [line.strip() for line in names_file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{names_file}: not UTF-8 ({error.reason} at byte {error.start})") from error
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
        raise ValueError(f"{names_file}: {count} are not among the training images: {format_names(missing)}")
    if ambiguous := [name for name, key in zip(names, keys, strict=True) if len(index_of[key]) > 1]:
        raise ValueError(f"{names_file}: {format_names(ambiguous)} in several class folders; write <class>/<name>")
    return np.unique([index_of[key][0] for key in keys])
