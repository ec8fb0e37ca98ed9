"""Evaluation splits: which samples a method learns from, and which it is evaluated on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg.common import random_streams
from vicreg.data.base import LabeledDataset
from vicreg.data.sn7 import SN7Patches

SPLITS = ("patches", "mosaics")


class EvalSubset(NamedTuple):
    """Some samples of a data set.

    Attributes:
        dataset: The data set.
        indices: Indices of the samples in it (n,).
        labels: Class of each sample (n,), for this split.
        location_ids: Location of each sample (n,), the same numbers in all subsets of a split that compare them.
    """

    dataset: LabeledDataset
    indices: np.ndarray
    labels: np.ndarray
    location_ids: np.ndarray


class EvalSplit(NamedTuple):
    """A split into samples to learn from and samples to evaluate on, with one line for the log."""

    train: EvalSubset
    test: EvalSubset
    classes: list[str]
    description: str


def _full_subset(dataset: LabeledDataset) -> EvalSubset:
    """Return all samples of a data set."""
    return EvalSubset(dataset, np.arange(len(dataset)), dataset.labels.cpu().numpy(), np.array(dataset.location_ids))


def check_labels(train: LabeledDataset, val: LabeledDataset) -> None:
    """Raise ValueError if there is one class only, or a label is outside the classes of the training set."""
    if len(train.classes) < 2:
        raise ValueError(f"all samples are of one class ({train.classes[0]}), so that accuracies say nothing")
    for dataset, name in ((train, "training"), (val, "validation")):
        outside = (dataset.labels < 0) | (dataset.labels >= len(train.classes))
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} labels of the {name} set are outside the {len(train.classes)} classes of the "
                f"training set, such as {int(dataset.labels[outside][0])}; prepare both lists together"
            )


def train_val_split(train: LabeledDataset, val: LabeledDataset) -> EvalSplit:
    """Build protocol 1: learn from the training list, evaluate on the validation list.

    Raises:
        ValueError: The lists name different classes, or a label is outside of them.
    """
    if list(train.classes) != list(val.classes):
        raise ValueError(f"the lists do not have the same classes: {len(train.classes)} and {len(val.classes)}")
    check_labels(train, val)
    description = f"{len(train)} training and {len(val)} validation samples, {len(train.classes)} classes"
    return EvalSplit(_full_subset(train), _full_subset(val), list(train.classes), description)


def retrieval_split(
    csv_dir: Path | None = None,
    seen: Path | None = None,
    unseen: Path | None = None,
    split: str = "patches",
    seed: int = 0,
    data_dir: Path | None = None,
) -> EvalSplit | None:
    """Build protocol 2 by ``aoi_retrieval_split`` or ``seen_unseen_split``, or return None if nothing is given.

    Raises:
        ValueError: Only one list is given, or a folder too; see also the two functions.
    """
    if (seen is None) != (unseen is None) or (csv_dir and seen):
        raise ValueError("protocol 2 takes --seen and --unseen together, or --test-csv, not both")
    if csv_dir:
        return aoi_retrieval_split(csv_dir, split, seed, data_dir)
    return seen_unseen_split(seen, unseen, data_dir) if seen and unseen else None


def aoi_retrieval_split(
    csv_dir: Path, split: str = "patches", seed: int = 0, data_dir: Path | None = None
) -> EvalSplit:
    """Build protocol 2 from a prepared folder: its AOIs are the classes, half of each is seen.

    Args:
        csv_dir: Folder written by make_sn7_csv.py, such as of SpaceNet-7's test AOIs; all of ``all.csv`` is used.
        split: ``patches`` divides the positions of the patch grid, ``mosaics`` the months. With the latter each
            location is on both sides.
        seed: Seed of the choice.
        data_dir: SN7 tree, if the folder has no ``patches.npy``.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: An AOI cannot be divided.
    """
    dataset = SN7Patches(csv_dir / "all.csv", data_dir=data_dir)
    table, rng = dataset.table, random_streams.rng(seed, "aoi_retrieval_split")
    units = table.patch if split == "patches" else table.year * 12 + table.month
    seen = np.zeros(len(table), bool)
    for aoi, aoi_units in units.groupby(table.aoi):
        shuffled = rng.permutation(np.unique(aoi_units))
        if len(shuffled) < 2:
            raise ValueError(f"{csv_dir}: {aoi} has one of {split} only; it cannot be both seen and unseen")
        seen[aoi_units.index[aoi_units.isin(shuffled[: len(shuffled) // 2])]] = True
    return _aoi_split(dataset, np.flatnonzero(seen), dataset, np.flatnonzero(~seen))


def seen_unseen_split(seen_csv: Path, unseen_csv: Path, data_dir: Path | None = None) -> EvalSplit:
    """Build protocol 2 from two patch lists, of either format; their AOIs are the classes, not their labels.

    Args:
        seen_csv: Patches to learn from.
        unseen_csv: Patches to evaluate on.
        data_dir: SN7 tree, if a list has no ``patches.npy`` beside it.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: A list cannot be read, or the seen list lacks an unseen AOI.
    """
    seen, unseen = (SN7Patches(path, data_dir=data_dir) for path in (seen_csv, unseen_csv))
    if missing := sorted(set(unseen.table.aoi) - set(seen.table.aoi)):
        raise ValueError(
            f"{unseen_csv}: {len(missing)} AOIs that {seen_csv} does not have ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}); each AOI is a class and needs samples to learn from"
        )
    return _aoi_split(seen, np.arange(len(seen)), unseen, np.arange(len(unseen)))


def _aoi_split(seen: SN7Patches, seen_indices: np.ndarray, unseen: SN7Patches, unseen_indices: np.ndarray) -> EvalSplit:
    classes = sorted(set(seen.table.aoi))
    class_index = {aoi: label for label, aoi in enumerate(classes)}
    subsets = []
    for dataset, indices in ((seen, seen_indices), (unseen, unseen_indices)):
        table = dataset.table.iloc[indices]
        labels = table.aoi.map(class_index).to_numpy(np.int64, copy=True)
        # the same number for the same location in both lists
        subsets.append(EvalSubset(dataset, indices, labels, labels * 10_000 + table.patch.to_numpy(np.int64)))
    train, test = subsets
    shared = np.isin(test.location_ids, train.location_ids).mean()
    description = (
        f"{len(train.labels)} seen and {len(test.labels)} unseen patches of {len(classes)} AOIs, each a class; "
        f"{shared:.0%} of the unseen ones are of locations in the seen list"
    )
    return EvalSplit(train, test, classes, description)
