"""What two parts of a split have in common: equal pixels, near duplicates, places, classes."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np

from preprocessing.audit import phash
from preprocessing.fmow.index import NEAR
from vicreg.data.leakage import digest, overlap_mask

KINDS = ("exact", "near", "places")  # of pairs
_GROUP = 128  # samples that a thread takes at a time


class Prints(NamedTuple):
    """Fingerprints of n samples of one part."""

    digests: list  # n; None where the sample cannot be read
    contrast: np.ndarray  # (n,), -1 where the sample cannot be read
    flat: np.ndarray  # bool (n,), one color all over
    words: np.ndarray  # uint64 (n, V, W), hashes
    unreadable: list  # what is wrong, a line each


def fingerprint(part, shifts, turned, workers, progress):
    """Decode every sample of a part once.

    Args:
        part: parts.Part. shifts, turned: of ``fingerprints.all_hashes``. workers: threads.
        progress: function (iterator, total) -> iterator.

    Returns:
        Prints.

    Raises:
        ValueError: not one sample can be read.
    """

    def take(start):
        pixels, errors = [], []
        for index in range(start, min(start + _GROUP, len(part.samples))):
            try:
                pixels.append(part.pixels(index))
            except (ValueError, OSError) as error:
                pixels.append(None)
                errors.append(str(error))
        known = [image is not None for image in pixels]
        shown = [phash.thumbnail(image) if image is not None else None for image in pixels]
        shown = np.stack([np.zeros((phash.SIDE,) * 2, np.uint8) if s is None else s for s in shown])
        flat = [image is not None and bool((image == image[0, 0]).all()) for image in pixels]
        contrast = np.where(known, phash.contrast(shown), -1)
        digests = [None if image is None else digest(image) for image in pixels]
        return digests, contrast, flat, phash.all_hashes(shown, shifts, turned), errors

    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, len(part.samples), _GROUP)
        found = list(progress(pool.map(take, starts), len(starts)))
    digests, contrast, flat, words, errors = zip(*found, strict=True)
    digests, errors = (list(chain.from_iterable(lists)) for lists in (digests, errors))
    if len(errors) == len(part.samples):
        raise ValueError(f"none of the {len(errors)} images of {part.name} can be read; the first: {errors[0]}")
    return Prints(digests, np.concatenate(contrast), np.concatenate(flat), np.concatenate(words), errors)


def compare(train, val, pixels=True, most=phash.MOST, min_contrast=phash.MIN_CONTRAST,
            shifts=phash.SHIFTS, turned=True, workers=1, progress=None):  # fmt: skip
    """Compare two parts.

    Args:
        train, val: parts.Part. pixels: False leaves the images alone. most: bits in which near duplicates may differ.
        min_contrast: images with less are left out of the near duplicates. shifts, turned: of the validation images.
        workers: threads. progress: function (iterator, description, total) -> iterator.

    Returns:
        dict of plain values; ``pairs`` in it are lists of (validation index, training index, bits), every one.
    """
    progress = progress or (lambda iterator, description, total: iterator)

    def bar(description):
        return lambda iterator, total: progress(iterator, description, total)

    total = len(val.samples)
    found = {"train": {"name": train.name, "samples": len(train.samples)}, "val": {"name": val.name, "samples": total}}
    any_overlap = np.zeros(total, bool)

    def count(which, **more):
        any_overlap[which] = True
        return {"samples": int(np.sum(which)), "share": float(np.mean(which)), **more}

    if pixels:
        stored = fingerprint(train, (0,), False, workers, bar("training images"))
        queries = fingerprint(val, shifts, turned, workers, bar("validation images"))
        for name, prints in (("train", stored), ("val", queries)):
            found[name] |= {"unreadable": len(prints.unreadable), "problems": prints.unreadable[:20]}
        first = {key: index for index, key in reversed(list(enumerate(stored.digests))) if key is not None}
        equal = np.array([first.get(key, -1) for key in queries.digests])
        exact = equal >= 0
        found["exact"] = count(exact, one_color=int((exact & queries.flat).sum()))
        found["exact"]["pairs"] = [(int(v), int(equal[v]), None) for v in np.flatnonzero(exact)]
        rows, columns = (np.flatnonzero(prints.contrast >= min_contrast) for prints in (queries, stored))
        rows = rows[~exact[rows]]
        nearest, bits = phash.nearest(queries.words[rows], stored.words[columns, 0], most, workers, bar("comparing"))
        hits = np.flatnonzero(nearest >= 0)
        hits = hits[np.argsort(bits[hits], kind="stable")]
        near = np.isin(np.arange(total), rows[hits])
        left_out = {name: int(((p.contrast >= 0) & (p.contrast < min_contrast)).sum())
                    for name, p in (("left_out_train", stored), ("left_out_val", queries))}  # fmt: skip
        found["near"] = count(near, bits=most, min_contrast=min_contrast, **left_out)
        found["near"]["pairs"] = [(int(rows[h]), int(columns[nearest[h]]), int(bits[h])) for h in hits]
    if train.places is not None and val.places is not None:
        first, elsewhere, unknown = _common_places(train, val)
        shared = overlap_mask(first, val.places)
        found["places"] = count(shared, kind=val.kind, places=len(set(val.places)), location_overlap=len(first),
                                elsewhere=elsewhere, unknown=unknown)  # fmt: skip
        found["places"]["pairs"] = [(int(v), first[val.places[v]], None) for v in np.flatnonzero(shared)]
    found["classes"] = _classes(train.classes, val.classes)
    found["overlap"] = {"samples": int(any_overlap.sum()), "share": float(any_overlap.mean())}
    return found


def _common_places(train, val):
    """Places in both parts -> dict place: index of the first training sample there, and two counts.

    Location names of fMoW start anew in each split: where positions are known, places of one name that lie apart are
    none in common (the first count). The second: those that are in common by name alone, for want of a position.
    """
    sides = [{place: n for n, place in reversed(list(enumerate(part.places)))} for part in (train, val)]
    common = {place: n for place, n in sides[0].items() if place in sides[1]}
    if train.position is None or val.position is None:
        return common, 0, 0
    positions = {place: (train.position(n), val.position(sides[1][place])) for place, n in common.items()}
    unknown = {place for place, pair in positions.items() if None in pair}
    apart = {place for place in positions.keys() - unknown if np.abs(np.subtract(*positions[place])).max() > NEAR}
    return {place: n for place, n in common.items() if place not in apart}, len(apart), len(unknown)


def _classes(train, val):
    counts = {name: [train[name], val[name]] for name in sorted({*train, *val})}
    return {"counts": counts, "only_train": sorted(set(train) - set(val)), "only_val": sorted(set(val) - set(train))}


def shorten(found, examples):
    """The same findings with ``examples`` pairs of each kind: the nearest ones, else some from all over.

    Args:
        found: of ``compare``.

    Returns:
        dict as of ``compare``.
    """
    short = dict(found)
    for kind in KINDS:
        if kind in found:
            pairs = found[kind]["pairs"]
            step = 1 if kind == "near" else max(1, len(pairs) // max(1, examples))
            short[kind] = {**found[kind], "pairs": pairs[::step][:examples]}
    return short


def with_names(found, train, val):
    """The same findings, their pairs as dicts of val and train (names of the samples) and bits: for people and JSON."""
    named = dict(found)
    for kind in KINDS:
        if kind in found:
            pairs = [{"val": val.samples[v], "train": train.samples[t], "bits": b} for v, t, b in found[kind]["pairs"]]
            named[kind] = {**found[kind], "pairs": pairs}
    return named
