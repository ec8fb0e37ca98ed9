"""Subsets of labeled data sets: label fractions, held-out samples and held-out groups."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vicreg.augmentations.presets import Augmentation, without_crop
from vicreg.common.random_streams import rng
from vicreg.data.base import LabeledDataset, SampleKey

HELD_OUT = 0.1  # fraction of the training locations that selects the learning rate of a linear head


def check_fraction(fraction: float, name: str = "--val-fraction") -> None:
    """Raise ValueError unless 0 < fraction < 1; ``name`` is the option or argument to name."""
    if not 0 < fraction < 1:
        raise ValueError(f"{name} is {fraction:g}; it must be above 0 and below 1, e.g. 0.25")


def check_percent(percent: int) -> None:
    """Raise ValueError unless ``--train-percent`` is from 1 to 100."""
    if not 1 <= percent <= 100:
        raise ValueError(f"--train-percent {percent}: a whole number from 1 to 100 is needed")


def stratified_subset(labels: npt.ArrayLike, fraction: float, seed: int) -> np.ndarray:
    """Choose a random fraction, in (0, 1], of each class to train on, at least one sample of each.

    Returns:
        Sorted int64 array of indices.
    """
    labels = np.asarray(labels)
    random = rng(seed, "label_subset")
    chosen = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))


def held_out_images(labels: npt.ArrayLike, fraction: float, seed: int) -> np.ndarray:
    """Hold out random images: the same fraction of each class, and of all images as exactly as whole images allow.

    Every class keeps at least one training image. Rounding is by largest remainders.

    Args:
        labels: Class of each image, integers (n,).
        fraction: Fraction of the images in (0, 1).
        seed: Seed of the choice.

    Returns:
        Bool array (n,), True for validation.

    Raises:
        ValueError: Every class has one image only.
    """
    check_fraction(fraction)
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)  # not a named stream: the same split as in published results
    classes, sizes = np.unique(labels, return_counts=True)
    wanted = sizes * fraction
    quota = np.minimum(np.floor(wanted).astype(int), sizes - 1)
    order = np.lexsort((generator.permutation(len(classes)), -(wanted - quota)))  # equal remainders in random order
    left_over = max(1, round(len(labels) * fraction)) - quota.sum()
    for index in [index for index in order if quota[index] < sizes[index] - 1][: max(0, left_over)]:
        quota[index] += 1
    if not quota.sum():
        raise ValueError("every class has one image only, so none can be held out for validation")
    held_out = np.zeros(len(labels), bool)
    for label, count in zip(classes, quota, strict=True):
        held_out[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return held_out


def held_out_groups(
    groups: npt.ArrayLike,
    fraction: float,
    seed: int,
    labels: npt.ArrayLike | None = None,
    stream: str = "held_out_groups",
) -> np.ndarray:
    """Hold out random whole groups, such as locations or tiles: of all of them, or the same fraction of each class.

    Args:
        groups: Group of each sample (n,), integers or strings.
        fraction: Fraction of the groups in (0, 1): at least one, never all. A single group is not held out.
        seed: Seed of the choice.
        labels: Class of each sample (n,), to hold out groups of each class; None to take all samples for one class. A
            group of several classes counts for the most frequent one.
        stream: Name of the random stream.

    Returns:
        Bool array (n,), True for held out; all False if no class has two groups.
    """
    check_fraction(fraction)
    names, groups = np.unique(np.asarray(groups), return_inverse=True)
    classes, labels = np.unique(np.zeros(len(groups)) if labels is None else labels, return_inverse=True)
    pairs, counts = np.unique(groups * len(classes) + labels, return_counts=True)
    group, label = np.divmod(pairs[np.argsort(counts, kind="stable")], len(classes))
    class_of = np.empty(len(names), np.int64)
    class_of[group] = label  # the last one of each group, the most frequent
    random = rng(seed, stream)
    held_out = np.zeros(len(names), bool)
    for index in range(len(classes)):
        members = random.permutation(np.flatnonzero(class_of == index))
        held_out[members[: min(max(1, round(fraction * len(members))), len(members) - 1)]] = True
    return held_out[groups]


class LabeledSubset(torch.utils.data.Dataset):
    """Some samples of a labeled data set to train on, loaded a batch at a time: keys -> (images, labels).

    Args:
        dataset: Labeled data set.
        indices: Indices (n,) of the samples.
        view: Augmentation to train with.
        size: Side of the view in pixels.

    Attributes:
        view: What remains to be applied to the images; without the crop if the data set crops them.
    """

    def __init__(self, dataset: LabeledDataset, indices: np.ndarray, view: Augmentation, size: int):
        self.dataset, self.indices, self._crop, self._size = dataset, indices, view, size
        self.view = without_crop(view) if dataset.crops_in_loader else view

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[torch.Tensor, torch.Tensor]:
        positions, sample_seeds = zip(*keys, strict=True)
        indices = self.indices[list(positions)].tolist()
        if self.dataset.crops_in_loader:
            images = self.dataset.crop_images(indices, sample_seeds, self._crop, self._size)
        else:
            images = self.dataset.images(indices)
        return images, self.dataset.labels[indices]
