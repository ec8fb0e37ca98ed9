"""How much of a validation set is already in training, as far as it can be known at once: places and equal pixels.

For everybody who is about to print an accuracy. ``audit_split.py`` looks for near duplicates too.
"""

import hashlib

import numpy as np

MOST_BYTES = 512 * 2**20  # of pixels to compare; a second or so


def digest(pixels):
    """Digest (bytes) of an array's shape and content: equal for equal pixels, whatever file they were in."""
    pixels = np.ascontiguousarray(pixels)
    return hashlib.blake2b(pixels.data, digest_size=16, key=repr(pixels.shape).encode()).digest()


def location_keys(table):
    """Where each row of a list was taken, so that two lists can be compared: numbers within one list would not do.

    Args:
        table: DataFrame; with the columns location (and class), or aoi and patch.

    Returns:
        list of tuples, or None where the list does not know.
    """
    for columns in (["class", "location"], ["location"], ["aoi", "patch"]):
        if set(columns) <= set(table.columns):
            return list(zip(*(table[column] for column in columns), strict=True))
    return None


def overlap_share(train, val):
    """Which of ``val`` are in ``train`` too: two sequences of hashable values -> bool array, as long as ``val``."""
    known = set(train)
    return np.fromiter((value in known for value in val), bool, len(val))


def overlap(train, val):
    """How much of a validation set is in the training set.

    Args:
        train: Training set, a ``LabeledDataset``.
        val: Validation set.

    Returns:
        dict of plain values: ``samples`` (of validation), ``location_overlap`` and ``exact_duplicates`` (shares of them
        whose location, and whose very pixels, are in training too; None for what is unknown or too much to compare).
    """
    keys = [dataset.location_keys() for dataset in (train, val)]
    location_ids = None if None in keys else float(overlap_share(*keys).mean())
    return {"samples": len(val), "location_overlap": location_ids, "exact_duplicates": _exact_duplicates(train, val)}


def _exact_duplicates(train, val, batch=1024):
    if not (train.in_memory and val.in_memory):
        return None
    if (len(train) + len(val)) * val.images([0]).numel() > MOST_BYTES:
        return None
    return overlap_of_images(_each(train, batch), _each(val, batch))["exact_duplicates"]


def _each(data, batch):
    for start in range(0, len(data), batch):
        yield from data.images(list(range(start, min(start + batch, len(data))))).cpu().numpy()


def overlap_of_images(train, val):
    """What ``overlap`` finds in two iterables of arrays, which are read once: validation images equal to training ones.

    Raises:
        ValueError: no validation image.
    """
    train, val = ([digest(image) for image in images] for images in (train, val))
    if not val:
        raise ValueError("no validation images to compare with the training images")
    return {"samples": len(val), "location_overlap": None, "exact_duplicates": float(overlap_share(train, val).mean())}


def format_overlap(found):
    """One line of what ``overlap`` found."""
    names = {"location_overlap": "share their place with training", "exact_duplicates": "equal a training sample"}
    known = [f"{found[key]:.1%} {what}" for key, what in names.items() if found[key] is not None]
    if not known:
        return "split: how much of the validation set is in training is not known; preprocessing/audit_split.py looks"
    return f"split: of {found['samples']} validation samples {', '.join(known)}"
