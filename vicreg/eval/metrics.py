"""Metrics of features and of classifications, with bootstrap intervals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vicreg.common import random_streams
from vicreg.data.pairs import TemporalPairs
from vicreg.distributed.process_group import all_reduce, world_size

COLLAPSE_STD = 0.05  # of the embeddings; VICReg aims at 1, and a run at its lower bound stays near 0.5
COLLAPSE_RANK = 0.01  # of the features, as a fraction of the highest possible rank
ADVICE = (
    "Most often the learning rate is too high for this batch size: lower --lr, or use a larger --batch-size. A "
    "larger --std-coeff, a weaker --augment or a smaller --sim-coeff also work against a collapse"
)
RESAMPLES, CONFIDENCE = 1000, 0.95
_MAX_TABLE_SIZE = 2**24  # entries of a table of counts


def accuracy(ranked: torch.Tensor, labels: torch.Tensor, topk: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Compute the fraction of samples whose label is among the first k classes, such as ``{"top1": 0.5, "top5": 1.0}``.

    Args:
        ranked: int64 (m, classes), the likeliest class first; -1 is never correct.
        labels: int64 (m,).
        topk: Values of k.
    """
    hits = ranked == labels[:, None]
    return {f"top{k}": hits[:, :k].any(1).double().mean().item() for k in topk}


@torch.no_grad()
def embedding_std(embeddings: torch.Tensor) -> torch.Tensor:
    """Compute the standard deviation of each dimension over the samples of all processes, averaged over dimensions.

    Args:
        embeddings: Float (n, D); n is the same on all processes.
    """
    embeddings = embeddings.float()
    if world_size() == 1:
        return embeddings.std(0).mean()
    centered = embeddings - all_reduce(embeddings.mean(0)) / world_size()
    return (all_reduce(centered.square().sum(0)) / (len(embeddings) * world_size() - 1)).sqrt().mean()


@torch.no_grad()
def effective_rank(features: torch.Tensor, max_samples: int = 2048) -> float:
    """Compute RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the normalized singular values.

    Args:
        features: Float (n, F).
        max_samples: Number of rows to use, from the first one.

    Returns:
        From 1 (collapsed) to min(n, F); NaN if the features are not finite.
    """
    features = features[:max_samples].float()
    if not features.isfinite().all():
        return math.nan  # there is no decomposition
    values = torch.linalg.svdvals(features)
    probs = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(probs * probs.log()).sum()))


def check_collapse(embedding_std: float, effective_rank: float, num_samples: int, num_features: int) -> str | None:
    """Return a warning if the network has collapsed, otherwise None.

    Args:
        embedding_std: Standard deviation of the embeddings over a batch, averaged over dimensions.
        effective_rank: RankMe of the features.
        num_samples: Number of rows of the matrix that the rank was computed from.
        num_features: Its number of columns.
    """
    min_rank = max(2.0, COLLAPSE_RANK * min(num_samples, num_features))
    if embedding_std < COLLAPSE_STD:
        what = f"the embeddings hardly differ any more (standard deviation {embedding_std:.3g}, below {COLLAPSE_STD:g})"
    elif effective_rank < min_rank:
        what = f"the representation has shrunk to {effective_rank:.1f} effective dimensions (below {min_rank:.1f})"
    else:
        return None
    return f"warning: collapse: {what}. {ADVICE}"


def positive_pairs(location_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Choose for each sample another one of its location; samples without one are left out.

    Args:
        location_ids: Location of each sample (n,).
        seed: Seed of the choice.

    Returns:
        int64 array (m, 2) of indices; m = 0 if no location has two samples.
    """
    pairs = TemporalPairs(location_ids)
    draws = random_streams.rng(seed, "alignment_pairs").integers(0, 2**63 - 1, len(location_ids))
    positives = [pairs.positive_index(index, int(draw)) for index, draw in enumerate(draws)]
    indices = np.stack([np.arange(len(location_ids)), np.array(positives, np.int64)], 1)
    return indices[indices[:, 0] != indices[:, 1]]


def alignment(features: torch.Tensor, pairs: np.ndarray) -> float:
    """Compute the mean squared distance of positive pairs, from 0 (best) to 4 (Wang & Isola 2020, equation 1).

    Args:
        features: Float (n, F); only their directions count.
        pairs: Integer array (m, 2) of indices.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    index = torch.as_tensor(pairs, device=unit.device)
    return float((unit[index[:, 0]] - unit[index[:, 1]]).norm(dim=1).pow(2).double().mean())


def uniformity(features: torch.Tensor, chunk: int = 2048) -> float:
    """Compute the log of the mean potential exp(-2 |x - y|^2) of all pairs (Wang & Isola 2020, equation 2).

    Args:
        features: Float (n, F); only their directions count.
        chunk: Number of rows at a time.

    Returns:
        0 for collapsed features, lower is more uniform; NaN for fewer than two samples.
    """
    unit, total = torch.nn.functional.normalize(features.float(), dim=1), 0.0
    if len(unit) < 2:
        return math.nan
    for part in unit.split(chunk):
        total += torch.exp(4 * (part @ unit.T - 1)).double().sum().item()  # |x - y|^2 = 2 - 2 x y
    diagonal = torch.exp(4 * (unit.square().sum(1) - 1)).double().sum().item()  # each sample with itself
    return math.log((total - diagonal) / (len(unit) * (len(unit) - 1)))


def intervals(
    correct: Mapping[str, np.ndarray], location_ids: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute 95 % bootstrap intervals of accuracies, over locations if one has several samples.

    Args:
        correct: Metric name to which samples were correct, bool (n,), or how often, float (n,).
        location_ids: Location of each sample (n,).
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        ``intervals`` (name to [lower, upper], empty for a single location) and ``intervals_of``: what was resampled.
    """
    locations = len(np.unique(location_ids))
    if locations < 2:
        return {"intervals": {}, "intervals_of": "none: all samples show one location"}
    groups, unit = None, f"{len(location_ids)} single samples (no location has two)"
    if locations < len(location_ids):
        groups, unit = location_ids, f"{locations} whole locations, since samples of one location are near duplicates"
    ends = bootstrap_ci(np.stack(list(correct.values()), 1), groups, resamples, seed)
    description = f"95 % bootstrap, {resamples} resamples of {unit}"
    return {"intervals": dict(zip(correct, ends.T.tolist(), strict=True)), "intervals_of": description}


def hits(ranked: torch.Tensor, labels: torch.Tensor | np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """Return which samples have their label among the first 1 and 5 of ranked classes: two bool arrays (n,).

    Args:
        ranked: int64 (n, classes), the likeliest class first.
        labels: int64 (n,).
        prefix: Prefix of the names ``top1`` and ``top5``.
    """
    matches = ranked.cpu().numpy() == np.asarray(torch.as_tensor(labels).cpu())[:, None]
    return {f"{prefix}top{k}": matches[:, :k].any(1) for k in (1, 5)}


def bootstrap_ci(
    values: np.ndarray, groups: np.ndarray | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Compute 95 % percentile bootstrap intervals of means over samples (Efron 1979).

    Samples of one location in several months are near duplicates: resampled one by one they seem to be more evidence
    than they are. With ``groups`` whole groups are resampled (cluster bootstrap).

    Args:
        values: Numbers or bools (n,), or (n, m) for m metrics of the same samples, which share the resamples.
        groups: Group of each sample (n,); None resamples single samples.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        float64 array (2,) or (2, m): lower and upper end.

    Raises:
        ValueError: There are no samples.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("no samples to compute an interval from")
    table = values.reshape(len(values), -1)
    _, group = np.unique(np.arange(len(table)) if groups is None else groups, return_inverse=True)
    sums = np.stack([np.bincount(group, column) for column in table.T], 1)
    sizes = np.bincount(group).astype(np.float64)
    rng, means = random_streams.rng(seed, "bootstrap"), []
    chunk = max(1, _MAX_TABLE_SIZE // len(sizes))
    for begin in range(0, resamples, chunk):
        # how often each group is drawn: the same as drawing len(sizes) of them one after the other
        rows = min(chunk, resamples - begin)
        counts = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), rows).astype(np.float64)
        means.append(counts @ sums / (counts @ sizes)[:, None])
    ends = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return ends.reshape(2, *values.shape[1:])
