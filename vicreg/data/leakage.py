"""Overlap of a validation set with the training set, as far as it can be computed at once: locations and equal pixels.

Every evaluation prints it next to its accuracy. ``preprocessing/audit_split.py`` also searches for near duplicates.
"""

import hashlib
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vicreg.data.base import LabeledDataset

MAX_BYTES = 512 * 2**20  # pixels to compare, about a second


def digest(pixels: np.ndarray) -> bytes:
    """Return a digest of an array's shape and content: equal for equal pixels, whatever file they come from."""
    pixels = np.ascontiguousarray(pixels)
    return hashlib.blake2b(pixels.data, digest_size=16, key=repr(pixels.shape).encode()).digest()


def location_keys(table: pd.DataFrame) -> list[tuple] | None:
    """Return the location of each row of a list, comparable between lists: the columns location, or aoi and patch.

    Returns:
        A tuple for each row, or None if the list has no such columns. The class is not part of it: one location may
        show several.
    """
    for columns in (["location"], ["aoi", "patch"]):
        if set(columns) <= set(table.columns):
            return list(zip(*(table[column].map(_comparable) for column in columns), strict=True))
    return None


def _comparable(value: Any) -> Any:
    """Return an id as programs write it differently: without spaces around it, accents composed, and 7.0 as 7."""
    if not isinstance(value, str):
        return value
    return re.sub(r"^(\d+)\.0+$", r"\1", unicodedata.normalize("NFC", value.strip()))


def overlap_mask(train: Iterable[Hashable], val: Sequence[Hashable]) -> np.ndarray:
    """Return for each value of ``val`` whether it is in ``train``: bool array."""
    known = set(train)
    return np.fromiter((value in known for value in val), bool, len(val))


def overlap(train: LabeledDataset, val: LabeledDataset) -> dict[str, Any]:
    """Compute how much of a validation set is in the training set.

    Returns:
        ``samples`` (of validation), ``location_overlap`` and ``exact_duplicates``: fractions of them whose location,
        and whose pixels, are also in training. None if locations are unknown, or pixels are too many to compare.
    """
    train_keys, val_keys = train.location_keys(), val.location_keys()
    location_overlap = None
    if train_keys is not None and val_keys is not None:
        location_overlap = float(overlap_mask(train_keys, val_keys).mean())
    duplicates = None
    if train.in_memory and val.in_memory and (len(train) + len(val)) * val.images([0]).numel() <= MAX_BYTES:
        duplicates = overlap_of_images(_iterate_images(train), _iterate_images(val))["exact_duplicates"]
    return {"samples": len(val), "location_overlap": location_overlap, "exact_duplicates": duplicates}


def _iterate_images(dataset: LabeledDataset, batch_size: int = 1024) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset), batch_size):
        yield from dataset.images(list(range(start, min(start + batch_size, len(dataset))))).cpu().numpy()


def overlap_of_images(train: Iterable[np.ndarray], val: Iterable[np.ndarray]) -> dict[str, Any]:
    """Compute which validation images equal a training image, reading each once; the same dict as ``overlap``.

    Raises:
        ValueError: There is no validation image.
    """
    train_digests, val_digests = ([digest(image) for image in images] for images in (train, val))
    if not val_digests:
        raise ValueError("no validation images to compare with the training images")
    duplicates = float(overlap_mask(train_digests, val_digests).mean())
    return {"samples": len(val_digests), "location_overlap": None, "exact_duplicates": duplicates}


def format_overlap(shared: dict[str, Any]) -> str:
    """Format the result of ``overlap`` as one line."""
    names = {"location_overlap": "show a training location", "exact_duplicates": "equal a training sample"}
    known = [f"{shared[key]:.1%} {text}" for key, text in names.items() if shared[key] is not None]
    if not known:
        return "split: overlap of validation and training is unknown; check it with preprocessing/audit_split.py"
    return f"split: of {shared['samples']} validation samples {', '.join(known)}"
