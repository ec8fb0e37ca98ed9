"""One evaluation for several shares of the labels and several seeds: what to run, features once for all, the spread."""

import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vicreg import distributed
from vicreg.augmentations import batch, presets
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.data.subsets import HELD_OUT, CachedFeatures, check_percent, held_out_subset, stratified_subset
from vicreg.eval import features

_SPREAD = ("top1", "top5", "best_top1")


class LabelFractionRun(NamedTuple):
    """One evaluation: the samples to train on, those held out to choose the rate, and where results go."""

    percent: int
    seed: int
    fit: np.ndarray
    held_out: np.ndarray
    folder: Path


def plan_runs(args, train, chosen, protocol):
    """All evaluations that ``--train-percent`` and ``--seeds`` ask for.

    Args:
        args: of ``probe.get_parser``. train: labeled data set. chosen: indices that take the place of a percentage, or
            None. protocol: ``freeze`` or ``finetune``, begins the folders' names.

    Returns:
        list of ``LabelFractionRun``, in ``<exp-dir>/<protocol>_<percent>/``, and ``seed_<n>/`` in it where there are
        several seeds.

    Raises:
        ValueError: no such share, twice the same, or nothing to hold out.
    """
    for percent in args.train_percent:
        check_percent(percent)
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: at least one is needed")
    if len(set(args.train_percent)) < len(args.train_percent):
        raise ValueError("--train-percent names a share twice")
    if chosen is not None and len(args.train_percent) > 1:
        raise ValueError("a list of training files takes the place of --train-percent; name one share")
    runs = []
    for percent in args.train_percent:
        for seed in range(args.seed, args.seed + args.seeds):
            folder = args.exp_dir / f"{protocol}_{percent}"
            folder = folder / f"seed_{seed}" if args.seeds > 1 else folder
            own = chosen if chosen is not None else stratified_subset(train.labels, percent / 100, seed)
            runs.append(LabelFractionRun(percent, seed, *_hold_out(own, train, len(args.lr_head), seed), folder))
    return runs


def _hold_out(chosen, train, rates, seed):
    """Samples to train on, and those to choose among several rates with: whole places, if the set knows them."""
    if rates == 1:
        return chosen, np.empty(0, np.int64)
    held_out = chosen[held_out_subset(train.labels[chosen], train.location_ids[chosen], HELD_OUT, seed)]
    if not len(held_out):
        raise ValueError("several --lr-head need samples to choose on, and no class has two places; name one rate")
    return np.setdiff1d(chosen, held_out), held_out


class FrozenFeatures:
    """Features of a frozen backbone, each sample seen once for all runs.

    Args:
        backbone: on its device. train, val: data sets. look: size, mean, std and device.
        runs: list of ``LabelFractionRun``.
        views: of each training sample: the plain one and views - 1 random resized crops. seed: of those.
        neighbors: True where the training samples' plain view is needed without views as well.
    """

    def __init__(self, backbone, train, val, look, runs, views, seed, neighbors):
        self._fit = _union(run.fit for run in runs)
        self._plain = _union([*([self._fit] if views or neighbors else []), *(run.held_out for run in runs)])
        self._labels, self._device = train.labels, look["device"]
        self._val = features.extract_features(backbone, val, **look), val.labels.to(self._device)
        self._found = (
            features.extract_features(backbone, train, **look, indices=self._plain) if len(self._plain) else None
        )
        self._more = [
            features.extract_features(backbone, train, **look, indices=self._fit, view=presets.PROBE_VIEW,
                             random=batch.step_generator(seed, number)).cpu()
            for number in range(1, views)
        ]  # fmt: skip

    def plain(self, indices):
        """Features and labels of training samples, without augmentation."""
        location_ids = torch.from_numpy(np.searchsorted(self._plain, indices)).to(self._device)
        return self._found[location_ids], self._labels[indices].to(self._device)

    def judged(self, run):
        """[(features, labels)] of the validation samples, and of those that are held out, where there are any."""
        return [self._val] + ([self.plain(run.held_out)] if len(run.held_out) else [])

    def views(self, run):
        """Data set of all views of a run's training samples."""
        location_ids = np.searchsorted(self._fit, run.fit)
        return CachedFeatures(torch.stack([self.plain(run.fit)[0].cpu(), *(view[location_ids] for view in self._more)]),
                      self._labels[run.fit])  # fmt: skip


def _union(indices):
    return np.unique(np.concatenate([*indices, np.empty(0, np.int64)])).astype(np.int64)


def summarize(runs, results, exp_dir, protocol):
    """Mean and spread over the seeds of each share: a table, and ``result.json`` beside the seeds' folders.

    Args:
        runs: list of ``LabelFractionRun``. results: what each of them found. exp_dir: of the evaluation.
        protocol: see plan_runs.

    Returns:
        list of dicts, one a share: means under the usual names, ``<name>_std`` (over seeds, with n - 1; None for one
        seed) and ``<name>_seeds``; also in ``<exp_dir>/label_efficiency_<protocol>.json``.
    """
    rows = []
    for percent in dict.fromkeys(run.percent for run in runs):
        own = [result for run, result in zip(runs, results, strict=True) if run.percent == percent]
        row = {**own[0], "train_percent": percent, "seeds": len(own)}
        names = [*_SPREAD, *(name for name in own[0] if name.startswith("knn"))]
        for name in names:
            values = [result[name] for result in own]
            row |= {name: statistics.fmean(values), f"{name}_seeds": values}
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        for name in ("rates", "best_epoch", "lr_head", "best_top5", "seconds"):  # of one seed only
            row.pop(name, None)
        rows.append(row)
    log("\nlabels   samples   top-1            top-5            (mean and standard deviation over seeds)")
    for row in rows:
        cells = [_mean_and_spread(row[name], row[f"{name}_std"]) for name in ("top1", "top5")]
        log(f"{row['train_percent']:4d} %  {row['train_samples']:8d}   {cells[0]:15s}  {cells[1]:15s}  {row['seeds']}")
    if distributed.is_main():
        for row in rows:
            if row["seeds"] > 1:
                write_json(exp_dir / f"{protocol}_{row['train_percent']}" / "result.json", row)
        write_json(exp_dir / f"label_efficiency_{protocol}.json", rows)
    return rows


def _mean_and_spread(mean, spread):
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"
