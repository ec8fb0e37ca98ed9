"""Overlap between two subsets of a split: equal pixels, near duplicates, locations, classes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from preprocessing.audit import phash
from preprocessing.audit.samples import Position, Subset
from vicreg.data.leakage import digest, overlap_mask

KINDS = ("exact", "near", "location")  # of pairs
MAX_DEGREES_APART = 0.02  # about 2 km: images of one location are framed differently, other locations are farther
_GROUP = 128  # samples that a thread reads at a time


class Fingerprints(NamedTuple):
    """Fingerprints of the n samples of a subset, with V hashes of W words each."""

    digests: list[bytes | None]  # (n,) of the pixels, None if the sample cannot be read
    contrast: np.ndarray  # (n,), -1 if the sample cannot be read
    uniform: np.ndarray  # bool (n,), whether all pixels have one color
    hashes: np.ndarray  # uint64 (n, V, W)
    errors: list[str]  # one message for each sample that cannot be read


def fingerprint(subset: Subset, shifts: tuple[int, ...], dihedral: bool, workers: int, title: str) -> Fingerprints:
    """Decode every sample of a subset once, in threads, and compute its fingerprints; see ``phash.all_hashes``.

    Raises:
        ValueError: No sample can be read.
    """

    def process(start: int) -> tuple:
        group = range(start, min(start + _GROUP, len(subset.samples)))
        thumbnails = np.zeros((len(group), phash.SIDE, phash.SIDE), np.uint8)
        digests, uniform, errors = [None] * len(group), np.zeros(len(group), bool), []
        for position, index in enumerate(group):
            try:
                image = subset.read(index)
            except (ValueError, OSError) as error:
                errors.append(str(error))
                continue
            thumbnails[position] = phash.thumbnail(image)
            digests[position], uniform[position] = digest(image), (image == image[0, 0]).all()
        contrast = np.where([key is not None for key in digests], phash.contrast(thumbnails), -1)
        return digests, contrast, uniform, phash.all_hashes(thumbnails, shifts, dihedral), errors

    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, len(subset.samples), _GROUP)
        groups = list(tqdm(pool.map(process, starts), title, len(starts), disable=None))  # hidden without a terminal
    digests, contrast, uniform, hashes, errors = zip(*groups, strict=True)
    digests, errors = (list(chain.from_iterable(lists)) for lists in (digests, errors))
    if len(errors) == len(subset.samples):
        raise ValueError(f"none of the {len(errors)} images of {subset.name} can be read; the first: {errors[0]}")
    return Fingerprints(digests, np.concatenate(contrast), np.concatenate(uniform), np.concatenate(hashes), errors)


def compare(
    train: Subset,
    val: Subset,
    pixels: bool = True,
    max_bits: int = phash.MAX_BITS,
    min_contrast: float = phash.MIN_CONTRAST,
    shifts: tuple[int, ...] = phash.SHIFTS,
    dihedral: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """Compare a training and a validation subset.

    Args:
        train: Training subset.
        val: Validation subset, n samples.
        pixels: Whether to compare pixels; False compares locations and classes only.
        max_bits: Largest Hamming distance of near duplicates.
        min_contrast: Images with less contrast are excluded from near duplicates.
        shifts: Shifts of the validation images, see ``phash.all_hashes``.
        dihedral: Whether to try all rotations and flips of the validation images.
        workers: Number of threads.

    Returns:
        dict of plain values. Fractions are of the validation samples that can be read. Each ``pairs`` lists all
        (validation index, training index, bits).
    """
    result: dict[str, Any] = {
        name: {"name": subset.name, "samples": len(subset.samples)} for name, subset in (("train", train), ("val", val))
    }
    any_overlap, readable = np.zeros(len(val.samples), bool), np.ones(len(val.samples), bool)

    def count(mask: np.ndarray, **more: Any) -> dict[str, Any]:
        any_overlap[mask] = True
        return {"samples": int(mask.sum()), "fraction": float(mask.sum() / readable.sum()), **more}

    if pixels:
        references = fingerprint(train, (0,), False, workers, "training images")
        queries = fingerprint(val, shifts, dihedral, workers, "validation images")
        for name, prints in (("train", references), ("val", queries)):
            result[name] |= {"unreadable": len(prints.errors), "errors": prints.errors[:20]}
        readable = np.array([key is not None for key in queries.digests])
        first = {key: index for index, key in reversed(list(enumerate(references.digests))) if key is not None}
        match = np.array([first.get(key, -1) for key in queries.digests])
        exact = match >= 0
        pairs = [(int(v), int(match[v]), None) for v in np.flatnonzero(exact)]
        result["exact"] = count(exact, uniform=int((exact & queries.uniform).sum()), pairs=pairs)
        near, pairs = _near_duplicates(references, queries, ~exact, max_bits, min_contrast, workers)
        excluded = {f"excluded_{name}": int(((p.contrast >= 0) & (p.contrast < min_contrast)).sum())
                    for name, p in (("train", references), ("val", queries))}  # fmt: skip
        result["near"] = count(near, max_bits=max_bits, min_contrast=min_contrast, **excluded, pairs=pairs)
    if train.location_ids is not None and val.location_ids is not None:
        common, elsewhere, unknown = _common_locations(train, val)
        shared = overlap_mask(common, val.location_ids) & readable
        pairs = [(int(v), common[val.location_ids[v]], None) for v in np.flatnonzero(shared)]
        result["location"] = count(
            shared, kind=val.location_kind, locations=len(set(val.location_ids)), locations_shared=len(common),
            same_name_elsewhere=elsewhere, position_unknown=unknown, pairs=pairs,
        )  # fmt: skip
    result["classes"] = _compare_classes(train.classes, val.classes)
    result["overlap"] = count(any_overlap)
    return result


def _near_duplicates(
    references: Fingerprints,
    queries: Fingerprints,
    candidates: np.ndarray,
    max_bits: int,
    min_contrast: float,
    workers: int,
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return which queries have a near duplicate (bool) and the pairs, nearest first."""
    rows = np.flatnonzero((queries.contrast >= min_contrast) & candidates)
    columns = np.flatnonzero(references.contrast >= min_contrast)
    match, bits = phash.nearest(queries.hashes[rows], references.hashes[columns, 0], max_bits, workers)
    hits = np.flatnonzero(match >= 0)
    hits = hits[np.argsort(bits[hits], kind="stable")]
    pairs = [(int(rows[hit]), int(columns[match[hit]]), int(bits[hit])) for hit in hits]
    return np.isin(np.arange(len(candidates)), rows[hits]), pairs


def _common_locations(train: Subset, val: Subset) -> tuple[dict[tuple, int], int, int]:
    """Return common location ids -> first training sample, and the numbers of ids that lie apart or may do so.

    fMoW restarts its location names in each split. Where positions are known, locations of one name that lie apart are
    not common.
    """
    firsts = [{key: n for n, key in reversed(list(enumerate(subset.location_ids)))} for subset in (train, val)]
    common = {key: n for key, n in firsts[0].items() if key in firsts[1]}
    if train.position is None or val.position is None:
        return common, 0, 0
    positions = {key: (train.position(n), val.position(firsts[1][key])) for key, n in common.items()}
    unknown = {key for key, pair in positions.items() if None in pair}
    known = positions.keys() - unknown
    apart = {key for key in known if _degrees_apart(*positions[key]) > MAX_DEGREES_APART}
    return {key: n for key, n in common.items() if key not in apart}, len(apart), len(unknown)


def _degrees_apart(a: Position, b: Position) -> float:
    """Return the larger difference of two positions in degrees, also across 180 degrees."""
    longitude = abs(a[0] - b[0]) % 360
    return max(min(longitude, 360 - longitude), abs(a[1] - b[1]))


def _compare_classes(train: Counter, val: Counter) -> dict[str, Any]:
    counts = {name: [train[name], val[name]] for name in sorted({*train, *val})}
    return {"counts": counts, "only_train": sorted(set(train) - set(val)), "only_val": sorted(set(val) - set(train))}


def limit_pairs(result: dict[str, Any], max_pairs: int) -> dict[str, Any]:
    """Keep at most ``max_pairs`` pairs of each kind: the nearest near duplicates, else evenly spaced ones."""
    limited = dict(result)
    for kind in (kind for kind in KINDS if kind in result):
        pairs = result[kind]["pairs"]
        step = 1 if kind == "near" else max(1, len(pairs) // max(1, max_pairs))
        limited[kind] = {**result[kind], "pairs": pairs[::step][:max_pairs]}
    return limited


def name_pairs(result: dict[str, Any], train: Subset, val: Subset) -> dict[str, Any]:
    """Replace the indices in pairs by sample names, as dicts with the keys val, train and bits."""
    named = dict(result)
    for kind in (kind for kind in KINDS if kind in result):
        pairs = [{"val": val.samples[v], "train": train.samples[t], "bits": b} for v, t, b in result[kind]["pairs"]]
        named[kind] = {**result[kind], "pairs": pairs}
    return named
