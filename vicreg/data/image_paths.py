"""List the images below a folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from vicreg.data.image_io import is_image_name


def image_paths(folder: str | Path, skip: Iterable[tuple[int, int]] = ()) -> list[str]:
    """List the images below a folder, sorted by folder and name. Hidden files and folders are skipped.

    Symbolic links to folders are followed, but no folder is entered twice, and neither the parents of ``folder`` nor
    those in ``skip`` are entered: a link to ``..`` would make images of other classes members of this one.

    Args:
        folder: Folder to search.
        skip: (device, inode) of folders not to enter.
    """
    folder = Path(folder)
    entered = {*skip, *(inode(path) for path in (folder, *folder.absolute().parents, *folder.resolve().parents))}
    paths = []
    for root, folders, files in os.walk(folder, followlinks=True):
        inodes = {name: inode(os.path.join(root, name)) for name in folders if is_visible(name)}
        folders[:] = []
        for name in sorted(inodes):
            if inodes[name] not in entered:
                entered.add(inodes[name])
                folders.append(name)
        paths += [os.path.join(root, name) for name in sorted(files) if is_image_name(name)]
    return paths


def is_visible(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor made by macOS's archiver."""
    return not name.startswith(".") and name != "__MACOSX"


def inode(path: str | Path) -> tuple[int, int]:
    """Return (device, inode) of a file or folder; links are followed."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
