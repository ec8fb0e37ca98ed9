"""Evaluations on several fractions of the labels, repeated with several seeds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vicreg import distributed
from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.common.random_streams import torch_rng
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.data.subsets import check_percent, stratified_subset
from vicreg.eval.features import extract_features
from vicreg.eval.linear_probe import hold_out
from vicreg.eval.metrics import intervals

_AVERAGED = ("top1", "top5", "best_top1")
_OF_ONE_SEED = ("lr_sweep", "best_epoch", "lr_head", "best_top5", "seconds", "confusion", "class_names", "locations")


class LabelFractionRun(NamedTuple):
    """One evaluation.

    Attributes:
        percent: Percentage of the labels.
        seed: Seed of the subset and of the evaluation.
        indices: Training samples.
        held_out: Those of ``indices`` that the learning rate is selected on; empty for one learning rate.
        folder: Folder of the results.
    """

    percent: int
    seed: int
    indices: np.ndarray
    held_out: np.ndarray
    folder: Path

    @property
    def percent_folder(self) -> Path:
        """Folder of the results of all seeds of the percentage."""
        return self.folder.parent if self.folder.name.startswith("seed_") else self.folder

    @property
    def held_out_mask(self) -> torch.Tensor:
        """Which of ``indices`` are held out: bool (n,)."""
        return torch.from_numpy(np.isin(self.indices, self.held_out))


def plan_runs(
    train: LabeledDataset,
    train_percent: Sequence[int],
    seeds: Sequence[int],
    num_lrs: int,
    folder: Path,
    indices: np.ndarray | None = None,
) -> list[LabelFractionRun]:
    """Plan an evaluation for each percentage of the labels and seed, or of the samples ``indices``.

    Results go to ``<folder>_<percent>/``, and to ``seed_<n>/`` in it for several seeds.

    Raises:
        ValueError: A percentage is not valid or named twice, or there is nothing to hold out.
    """
    for percent in train_percent:
        check_percent(percent)
    if len(set(train_percent)) < len(train_percent):
        raise ValueError("--train-percent names a percentage twice")
    if indices is not None and len(train_percent) > 1:
        raise ValueError("a list of training files replaces --train-percent; name one percentage")
    labels, runs = np.asarray(train.labels.cpu()), []
    for percent in train_percent:
        for seed in seeds:
            run_folder = folder.with_name(f"{folder.name}_{percent}")
            run_folder = run_folder / f"seed_{seed}" if len(seeds) > 1 else run_folder
            subset = stratified_subset(labels, percent / 100, seed) if indices is None else indices
            held_out = subset[hold_out(labels[subset], train.location_ids[subset], num_lrs, seed)]
            runs.append(LabelFractionRun(percent, seed, subset, held_out, run_folder))
    return runs


class FrozenFeatures:
    """Features of a frozen backbone, extracted once for all runs.

    Args:
        backbone: Backbone on the device.
        train: Training set.
        val: Validation set.
        spec: Size and normalization of the input.
        device: Device of the backbone.
        runs: Evaluations to extract for.
        views: Number of views of each training sample: the plain one and random resized crops. With 0 no views are
            cached.
        seed: Seed of the random views.
        plain: Extract the plain view of all training samples even with ``views=0``, for kNN.

    Attributes:
        val: Features (m, F) and labels (m,) of the validation set.
    """

    def __init__(
        self, backbone: nn.Module, train: LabeledDataset, val: LabeledDataset, spec: InputSpec, device: torch.device,
        runs: Sequence[LabelFractionRun], views: int, seed: int, plain: bool,
    ) -> None:  # fmt: skip
        needed = [run.indices if views or plain else run.held_out for run in runs]
        self._indices = np.unique(np.concatenate(needed))
        self._labels = train.labels
        self.val = extract_features(backbone, val, spec, device), val.labels.to(device)
        self._views = [extract_features(backbone, train, spec, device, self._indices)] if len(self._indices) else []
        for number in range(1, views):
            generator = torch_rng(seed, "training_views", number)
            given = backbone, train, spec, device, self._indices
            self._views.append(extract_features(*given, view=PROBE_VIEW, generator=generator).cpu())

    def _rows(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.searchsorted(self._indices, indices))

    def plain(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (n, F) and labels (n,) of training samples, without augmentation."""
        features = self._views[0]
        return features[self._rows(indices).to(features.device)], self._labels[indices].to(features.device)

    def views(self, indices: np.ndarray) -> torch.Tensor:
        """Return all views of training samples: (views, n, F)."""
        rows, result = self._rows(indices), torch.empty(len(self._views), len(indices), self._views[0].shape[1])
        for number, view in enumerate(self._views):
            torch.index_select(view.cpu(), 0, rows, out=result[number])  # no copy besides the result
        return result


def summarize(
    runs: Sequence[LabelFractionRun],
    results: Sequence[dict[str, Any]],
    correct: Sequence[Mapping[str, np.ndarray]],
    val: LabeledDataset,
    exp_dir: Path,
    protocol: str,
) -> list[dict[str, Any]]:
    """Compute mean and standard deviation over the seeds of each percentage, and log them.

    They are written to ``<exp-dir>/label_efficiency_<protocol>.json``, and with several seeds to
    ``<exp-dir>/<protocol>_<percent>/result.json`` too. ``correct`` tells which validation samples were, by metric.

    Returns:
        One dict for each percentage: means under the usual names, ``<name>_std`` (with n - 1; None for one seed) and
        ``<name>_seeds``.
    """
    rows = []
    for percent in dict.fromkeys(run.percent for run in runs):
        repeats = [result for run, result in zip(runs, results, strict=True) if run.percent == percent]
        row = {**repeats[0], "train_percent": percent, "seeds": len(repeats)}
        for name in [*_AVERAGED, *(name for name in repeats[0] if name.startswith("knn"))]:
            values = [result[name] for result in repeats]
            row |= {name: statistics.fmean(values), f"{name}_seeds": values}
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        of_seeds = [of_seed for run, of_seed in zip(runs, correct, strict=True) if run.percent == percent]
        means = {name: np.mean([of_seed[name] for of_seed in of_seeds], axis=0) for name in of_seeds[0]}
        row |= intervals(means, val.location_ids)
        for name in _OF_ONE_SEED:
            row.pop(name, None)
        rows.append(row)
    log("\nlabels   samples   top-1            top-5            (mean and standard deviation over seeds)")
    for row in rows:
        top1, top5 = (_format_mean(row[name], row[f"{name}_std"]) for name in ("top1", "top5"))
        log(f"{row['train_percent']:4d} %  {row['train_samples']:8d}   {top1:15s}  {top5:15s}  {row['seeds']}")
    if distributed.is_main():
        for row in rows:
            if row["seeds"] > 1:
                write_result(exp_dir / f"{protocol}_{row['train_percent']}" / RESULT_FILE, row)
        write_json(exp_dir / f"label_efficiency_{protocol}.json", rows)
    return rows


def _format_mean(mean: float, std: float | None) -> str:
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"
