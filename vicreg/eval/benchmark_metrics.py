"""Metrics of frozen features on one evaluation split, with bootstrap intervals.

``train`` (n, F) and ``test`` (m, F) are the features of the training and the test samples of a split. Functions return
metrics, and for some of them which of the test samples were correct, for the intervals.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vicreg.common import random_streams
from vicreg.data.subsets import stratified_subset
from vicreg.eval import clustering, knn, metrics
from vicreg.eval.linear_probe import fit_linear_probe, sweep_accuracies
from vicreg.eval.lr_sweep import DEFAULT_LRS
from vicreg.eval.splits import EvalSplit

_MAX_UNIFORMITY_SAMPLES = 20_000  # since it compares all pairs
Metrics = dict[str, Any]
Correct = dict[str, np.ndarray]  # metric name to a bool array (m,), or a float array of frequencies


def knn_metrics(
    split: EvalSplit, train: torch.Tensor, test: torch.Tensor, neighbors: Sequence[int]
) -> tuple[Metrics, Correct]:
    """Compute top-1 and top-5 of weighted kNN, such as ``knn20_top1``, for each number of neighbors."""
    cosine, nearest = knn.nearest_neighbors(train, test, max(neighbors))
    labels = torch.from_numpy(split.train.labels).to(train.device)[nearest]
    result: Metrics = {}
    correct: Correct = {}
    for k in neighbors:
        ranked = knn.weighted_vote(cosine[:, :k], labels[:, :k], len(split.classes))
        correct |= metrics.hits(ranked, split.test.labels, f"knn{k}_")
    return result | {name: float(values.mean()) for name, values in correct.items()}, correct


def kmeans_metrics(split: EvalSplit, test: torch.Tensor, seed: int = 0) -> tuple[Metrics, Correct]:
    """Cluster the test samples into as many clusters as they have classes, matched to the classes.

    Returns:
        ``kmeans_accuracy``, ``kmeans_nmi`` and ``kmeans_ari``, and the correct samples of the first.
    """
    labels = split.test.labels
    clusters = clustering.kmeans(test.cpu().numpy(), len(np.unique(labels)), seed)
    correct = clustering.match_clusters(clusters, labels) == labels
    agreement = clustering.clustering_metrics(clusters, labels)
    result = {"kmeans_accuracy": float(correct.mean())} | {f"kmeans_{key}": value for key, value in agreement.items()}
    return result, {"kmeans_accuracy": correct}


def linear_probe_metrics(
    split: EvalSplit,
    train: torch.Tensor,
    test: torch.Tensor,
    lrs: Sequence[float] = DEFAULT_LRS,
    *,
    epochs: int = 50,
    indices: np.ndarray | None = None,
    **options: Any,
) -> tuple[Metrics, Correct]:
    """Train a linear probe on all training samples or on those of ``indices``; see ``fit_linear_probe``.

    Returns:
        ``top1`` and ``top5`` of the selected head, ``lr_head``, ``held_out_samples``, and ``lr_sweep``: top-1 of each
        learning rate on the held-out samples and on the test samples; and the correct samples of the selected head.

    Raises:
        ValueError: There is nothing to hold out, or the selected head diverged.
    """
    rows = np.arange(len(train)) if indices is None else indices
    labels, locations = torch.from_numpy(split.train.labels[rows]), split.train.location_ids[rows]
    features = train[torch.from_numpy(rows).to(train.device)]
    fit = fit_linear_probe(features, labels, locations, len(split.classes), lrs, epochs=epochs, **options)
    fit.sweep.head(fit.index)  # refuses a head that diverged
    test_scores = sweep_accuracies(fit.sweep, test, torch.from_numpy(split.test.labels))
    correct = metrics.hits(fit.sweep.rank_classes(test)[fit.index], split.test.labels)
    result: Metrics = {name: float(values.mean()) for name, values in correct.items()}
    result |= {"lr_head": fit.lr, "held_out_samples": len(fit.held_out)}
    held_out_scores: Sequence[float | None] = fit.scores or [None] * len(test_scores)
    result["lr_sweep"] = {
        f"{lr:g}": {"held_out_top1": held_out, "top1": score["top1"]}
        for lr, held_out, score in zip(fit.sweep.lrs, held_out_scores, test_scores, strict=True)
    }
    return result, correct


def label_fraction_metrics(
    split: EvalSplit,
    train: torch.Tensor,
    test: torch.Tensor,
    percents: Sequence[int],
    repeats: int,
    seed: int = 0,
    **options: Any,
) -> tuple[Metrics, Correct]:
    """Train linear probes on percentages of the labels of each class, with the seeds seed, …, seed + repeats - 1.

    Returns:
        Means ``label<percent>_top1`` and ``_top5``, for each of them ``_std`` (with n - 1; None for one subset) and
        ``_seeds``; and how often each sample was correct.
    """
    result: Metrics = {}
    correct: Correct = {}
    for percent in percents:
        runs = []
        for subset_seed in range(seed, seed + repeats):
            indices = stratified_subset(split.train.labels, percent / 100, subset_seed)
            runs.append(linear_probe_metrics(split, train, test, seed=subset_seed, indices=indices, **options))
        for top in ("top1", "top5"):
            name, values = f"label{percent}_{top}", [run_metrics[top] for run_metrics, _ in runs]
            result |= {name: float(np.mean(values)), f"{name}_seeds": values}
            result[f"{name}_std"] = float(np.std(values, ddof=1)) if repeats > 1 else None
            correct[name] = np.mean([run_correct[top] for _, run_correct in runs], axis=0)
    return result, correct


def geometry_metrics(split: EvalSplit, train: torch.Tensor, test: torch.Tensor, seed: int = 0) -> Metrics:
    """Compute the effective rank of the training features, and alignment and uniformity of the test features.

    Returns:
        ``effective_rank``, ``alignment`` (None if no location has two samples) and ``uniformity``.
    """
    result: Metrics = {"effective_rank": metrics.effective_rank(train, len(train)), "alignment": None}
    pairs = metrics.positive_pairs(split.test.location_ids, seed)
    if len(pairs):
        result["alignment"] = metrics.alignment(test, pairs)
    subset = random_streams.rng(seed, "uniformity_subset").permutation(len(test))[:_MAX_UNIFORMITY_SAMPLES]
    return {**result, "uniformity": metrics.uniformity(test[torch.from_numpy(subset).to(test.device)])}
