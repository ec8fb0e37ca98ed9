"""Text files that name images of a folder, one a line."""

import os
import unicodedata
from pathlib import Path

import numpy as np

from vicreg.common.files import read_text
from vicreg.data.image_listing import Listing, format_names


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
    names = [line.strip() for line in read_text(names_file).split("\n") if line.strip()]

    def normalize(name: str) -> str:  # macOS writes accents apart from their letters, Windows backslashes
        name = unicodedata.normalize("NFC", name.replace("\\", "/"))
        return os.path.splitext(name)[0] if any_suffix else name

    def key_of(name: str) -> str:
        return "/".join(normalize(name).split("/")[-2:])

    index_of: dict[str, list[int]] = {}
    for index, path in enumerate(listing.paths):
        for name in (os.path.basename(path), path):
            index_of.setdefault(key_of(name), []).append(index)
    keys = [key_of(name) for name in names]
    if not names:
        raise ValueError(f"{names_file}: no names in it")
    if missing := [name for name, key in zip(names, keys, strict=True) if key not in index_of]:
        count = f"{len(missing)} of {len(names)} names"
        raise ValueError(f"{names_file}: {count} are not among the training images: {format_names(missing)}")
    chosen = [index_of[key] for key in keys]
    for row, name in enumerate(names):
        if len(chosen[row]) > 1:  # the class folder may be further up
            tail = f"/{normalize(name)}"
            chosen[row] = [index for index in chosen[row] if normalize(listing.paths[index]).endswith(tail)]
    if ambiguous := [name for name, matches in zip(names, chosen, strict=True) if len(matches) != 1]:
        raise ValueError(f"{names_file}: {format_names(ambiguous)} in several class folders; write <class>/<name>")
    return np.unique([matches[0] for matches in chosen])
