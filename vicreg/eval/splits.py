"""Which samples features are judged on, and which they may learn from."""

from typing import NamedTuple

import numpy as np

from vicreg.data.sn7 import SN7Patches

SPLITS = ("patches", "mosaics")


class EvalSubset(NamedTuple):
    """Some samples of a data set: their indices (n,), labels (n,) and places (n,)."""

    dataset: object
    indices: np.ndarray
    labels: np.ndarray
    location_ids: np.ndarray

    @property
    def groups(self):
        """Places, where several samples share one; otherwise None: every sample stands for itself."""
        return self.location_ids if len(np.unique(self.location_ids)) < len(self.location_ids) else None


class EvalSplit(NamedTuple):
    """A training part, a part to judge on, the names of the classes, and a line that says what this is."""

    train: EvalSubset
    test: EvalSubset
    classes: list
    line: str


def full_subset(dataset):
    """All samples of a data set."""
    return EvalSubset(dataset, np.arange(len(dataset)), dataset.labels.numpy(), np.array(dataset.location_ids))


def train_val_split(train, val):
    """Protocol 1: learn from the training list, judge on the validation list.

    Args:
        train, val: data sets with ``labels``, ``location_ids`` and ``classes``.

    Raises:
        ValueError: labels that only one of the two can mean.
    """
    if list(train.classes) != list(val.classes):
        raise ValueError(f"the lists do not have the same classes: {len(train.classes)} and {len(val.classes)}")
    line = f"{len(train)} training and {len(val)} validation samples, {len(train.classes)} classes"
    return EvalSplit(full_subset(train), full_subset(val), list(train.classes), line)


def retrieval_split(csv_dir=None, seen=None, unseen=None, split="patches", seed=0, data_dir=None):
    """Protocol 2 from what was named: a folder (``aoi_retrieval_split``), two lists (``seen_unseen_split``), or None
    for neither.

    Raises:
        ValueError: half of it, or both; see also the two functions.
    """
    if (seen is None) != (unseen is None) or (csv_dir and seen):
        raise ValueError("protocol 2 takes --seen and --unseen together, or --test-csv, not both")
    if csv_dir:
        return aoi_retrieval_split(csv_dir, split, seed, data_dir)
    return seen_unseen_split(seen, unseen, data_dir) if seen else None


def aoi_retrieval_split(csv_dir, split="patches", seed=0, data_dir=None):
    """Protocol 2: the AOIs of a prepared folder as classes, half of each to learn from and half to judge on.

    Args:
        csv_dir: written by make_sn7_csv.py, such as of SpaceNet-7's test AOIs; all of ``all.csv`` is used.
        split: "patches" parts the positions of the patch grid, "mosaics" the months: then each place is on both sides.
        seed: of the choice. data_dir: the tree, where the folder has no pack.

    Raises:
        FileNotFoundError, ValueError: no such list, or an AOI that cannot be parted.
    """
    dataset = SN7Patches(csv_dir / "all.csv", data_dir=data_dir)
    table, random = dataset.table, np.random.default_rng([seed, 5])
    units = table.patch if split == "patches" else table.year * 12 + table.month
    seen = np.zeros(len(table), bool)
    for aoi, own in units.groupby(table.aoi):
        there = random.permutation(np.unique(own))
        if len(there) < 2:
            raise ValueError(f"{csv_dir}: {aoi} has one of {split} only; it cannot be both seen and unseen")
        seen[own.index[own.isin(there[: len(there) // 2])]] = True
    return _of_areas(dataset, np.flatnonzero(seen), dataset, np.flatnonzero(~seen))


def seen_unseen_split(seen_csv, unseen_csv, data_dir=None):
    """Protocol 2 from two patch lists, of today's format or the first version's; the labels in them do not count.

    Args:
        seen_csv, unseen_csv: to learn from, to judge on. data_dir: the tree, where a list has no pack beside it.

    Raises:
        FileNotFoundError, ValueError: a list that cannot be read, an unseen AOI that the seen list lacks.
    """
    seen, unseen = (SN7Patches(path, data_dir=data_dir) for path in (seen_csv, unseen_csv))
    if missing := sorted(set(unseen.table.aoi) - set(seen.table.aoi)):
        raise ValueError(
            f"{unseen_csv}: {len(missing)} AOIs that {seen_csv} does not have ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}); each AOI is a class and needs samples to learn from"
        )
    return _of_areas(seen, np.arange(len(seen)), unseen, np.arange(len(unseen)))


def _of_areas(seen, seen_indices, unseen, unseen_indices):
    classes = sorted(set(seen.table.aoi))
    number = {aoi: label for label, aoi in enumerate(classes)}
    parts = []
    for dataset, indices in ((seen, seen_indices), (unseen, unseen_indices)):
        table = dataset.table.iloc[indices]
        labels = table.aoi.map(number).to_numpy(np.int64, copy=True)
        # the same number for the same place in both lists
        parts.append(EvalSubset(dataset, indices, labels, labels * 10_000 + table.patch.to_numpy(np.int64)))
    train, test = parts
    shared = np.isin(test.location_ids, train.location_ids).mean()
    line = (
        f"{len(train.labels)} seen and {len(test.labels)} unseen patches of {len(classes)} AOIs, each a class; "
        f"{shared:.0%} of the unseen ones are of places in the seen list"
    )
    return EvalSplit(train, test, classes, line)
