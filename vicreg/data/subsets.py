"""Subsets of labeled data sets: label fractions, held-out samples and locations."""

import numpy as np
import torch

from vicreg.augmentations.presets import without_crop


def check_fraction(fraction):
    """Raise ValueError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction is {fraction:g}; a share above 0 and below 1 is needed, e.g. 0.25")


def held_out_images(labels, fraction, seed):
    """Random mosaics, the same share of every class as far as whole mosaics allow.

    Args:
        labels: class of each mosaic, integers (n,). fraction: share of the mosaics, 0..1. seed: integer.

    Returns:
        bool array (n,), True for validation. Every class keeps at least one training mosaic.

    Raises:
        ValueError: no class has a mosaic to spare.
    """
    check_fraction(fraction)
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    wanted = sizes * fraction
    quota = np.minimum(np.floor(wanted).astype(int), sizes - 1)
    # Largest remainders: hand out what rounding down left over, in random order among equals.
    order = np.lexsort((rng.permutation(len(classes)), -(wanted - quota)))
    left_over = max(1, round(len(labels) * fraction)) - quota.sum()
    for index in [index for index in order if quota[index] < sizes[index] - 1][: max(0, left_over)]:
        quota[index] += 1
    if not quota.sum():
        raise ValueError("--split image keeps a training mosaic of every class, and every class has one mosaic only; "
                         "use --split block")  # fmt: skip
    held_out = np.zeros(len(labels), bool)
    for label, count in zip(classes, quota, strict=True):
        held_out[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return held_out


def held_out_locations(aois, fraction, seed):
    """Random whole AOIs.

    Args:
        aois: names; repeated names count once. fraction: share of the AOIs, 0..1. seed: integer.

    Returns:
        sorted list of the names held out: at least one, and never all.

    Raises:
        ValueError: fewer than two AOIs.
    """
    check_fraction(fraction)
    names = sorted(set(aois))
    if len(names) < 2:
        raise ValueError("--split location holds out whole AOIs, and there is only one; use --split block or image")
    count = min(max(1, round(len(names) * fraction)), len(names) - 1)
    return sorted(np.random.default_rng(seed).permutation(names)[:count].tolist())


HELD_OUT = 0.1  # of the training places, to choose the rate of a linear head


def stratified_subset(labels, share, seed):
    """Choose a share of the samples of every class, at least one of each.

    Args:
        labels: (n,) integers. share: in (0, 1]. seed: of the choice.

    Returns:
        sorted int64 array of indices.
    """
    labels = np.asarray(labels)
    random = np.random.default_rng([seed, 1])
    chosen = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def check_percent(percent):
    """Raise ValueError for a --train-percent that is none."""
    if not 1 <= percent <= 100:
        raise ValueError(f"--train-percent {percent}: a whole number from 1 to 100 is needed")


def held_out_subset(labels, location_ids, share, seed):
    """Set aside whole places of every class, to choose a rate on; a class of one place keeps it.

    Args:
        labels, places: (n,) integers; samples of one place are near duplicates (the same patch in other months).
        share: of each class's places, at least one. seed: of the choice.

    Returns:
        sorted int64 array of indices.
    """
    labels, location_ids = np.asarray(labels), np.asarray(location_ids)
    random = np.random.default_rng([seed, 2])
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        there = random.permutation(np.unique(location_ids[members]))
        held_out = there[: max(1, round(share * len(there)))] if len(there) > 1 else []
        chosen.append(members[np.isin(location_ids[members], held_out)])
    return np.sort(np.concatenate(chosen))


class LabeledSubset(torch.utils.data.Dataset):
    """Some samples of a labeled data set, for ``CountedBatches``: ``[(place, draw), …]`` -> (images, labels).

    Args:
        dataset: has ``images(indices)`` and ``labels``; one of image files cuts the view's crop itself (``cut``).
        indices: (n,) of the samples. view: to train on. size: its side in pixels.

    Attributes:
        view: what of the view remains to be made from the images.
    """

    def __init__(self, dataset, indices, view, size):
        self.dataset, self.indices, self._size = dataset, indices, size
        self._crop = view if dataset.crops_in_loader else None
        self.view = without_crop(view) if self._crop else view

    def __len__(self):
        return len(self.indices)

    def __getitems__(self, keys):
        indices = self.indices[[place for place, _ in keys]].tolist()
        if self._crop:
            images = self.dataset.crop_images(indices, [draw for _, draw in keys], self._crop, self._size)
        else:
            images = self.dataset.images(indices)
        return images, self.dataset.labels[indices]


class CachedFeatures(torch.utils.data.Dataset):
    """Features extracted once, several views of each sample; the sample's random number chooses the view."""

    def __init__(self, views, labels):
        self.views, self.labels = views, labels

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, keys):
        location_ids, draws = (torch.tensor(column) for column in zip(*keys, strict=True))
        return self.views[draws % len(self.views), location_ids], self.labels[location_ids]
