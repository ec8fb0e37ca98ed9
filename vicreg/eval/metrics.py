"""Metrics of features and of classifications, with intervals."""

import math

import numpy as np
import torch

from vicreg.data.pairs import TemporalPairs


def accuracy(ranked, labels, top=(1, 5)):
    """Share of samples whose label is among the first guesses.

    Args:
        ranked: int (m, classes), likeliest first. labels: (m,). top: how many guesses count.

    Returns:
        dict such as ``{"top1": 0.5, "top5": 1.0}``.
    """
    hits = ranked == labels[:, None]
    return {f"top{n}": hits[:, :n].any(1).double().mean().item() for n in top}


@torch.no_grad()
def effective_rank(features, most=2048):
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the normalized singular values.

    Args:
        features: (n, F); at most ``most`` rows are used. 1 is a collapse, min(n, F) the most there can be; nan where
            the features are not finite.
    """
    features = features[:most].float()
    if not features.isfinite().all():
        return math.nan  # of which there is no decomposition
    values = torch.linalg.svdvals(features)
    share = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


LEAST_STD = 0.05  # of the embeddings; VICReg wants 1, and a floored run stays near 0.5
LEAST_RANK = 0.01  # of the representation, as a share of the rank it could have
ADVICE = (
    "Most often the rate is too high for this batch: lower --base-lr, or train with a larger --batch-size; a larger "
    "--std-coeff pushes against it, too strong an --augment (or a --sim-coeff) towards it"
)


def check_collapse(embedding_std, effective_rank, samples, features):
    """Say what has collapsed.

    Args:
        embedding_std: mean standard deviation of the embeddings over a batch (D numbers, averaged).
        effective_rank: of the representation, RankMe (Garrido et al. 2023). samples, features: the matrix it is of.

    Returns:
        a message, or None.
    """
    if embedding_std < LEAST_STD:
        found = f"the embeddings hardly differ any more (standard deviation {embedding_std:.3g}, below {LEAST_STD:g})"
    elif effective_rank < (least := max(2.0, LEAST_RANK * min(samples, features))):
        found = f"the representation has shrunk to {effective_rank:.1f} effective dimensions (below {least:.1f})"
    else:
        return None
    return f"warning: collapse: {found}. {ADVICE}"


def positive_pairs(location_ids, seed=0):
    """For each sample another one of its place; samples that are alone at theirs are left out.

    Args:
        places: (n,). seed: of the choice.

    Returns:
        int64 (m, 2) of indices; m = 0 where no place has two samples.
    """
    pairs = TemporalPairs(location_ids)
    draws = np.random.default_rng([seed, 4]).integers(0, 2**63 - 1, len(location_ids))
    partners = [pairs.positive_index(index, int(draw)) for index, draw in enumerate(draws)]
    found = np.stack([np.arange(len(location_ids)), np.array(partners, np.int64)], 1)
    return found[found[:, 0] != found[:, 1]]


def alignment(features, pairs, power=2):
    """Mean distance of positives, to a power (Wang & Isola 2020, equation 1); 0 is best, 4 the most.

    Args:
        features: (n, F), of any length; their directions count. pairs: (m, 2) indices.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    pairs = torch.as_tensor(pairs, device=unit.device)
    return float((unit[pairs[:, 0]] - unit[pairs[:, 1]]).norm(dim=1).pow(power).double().mean())


def uniformity(features, t=2.0, chunk=2048):
    """Log of the mean Gaussian potential of all pairs (Wang & Isola 2020, equation 2); 0 is a collapse, lower better.

    Args:
        features: (n, F), n > 1; their directions count. t: of exp(-t |x - y|^2). chunk: rows at a time.
    """
    unit, total = torch.nn.functional.normalize(features.float(), dim=1), 0.0
    if len(unit) < 2:
        return math.nan
    for part in unit.split(chunk):
        total += torch.exp(2 * t * (part @ unit.T - 1)).double().sum().item()  # |x - y|^2 = 2 - 2 x y
    own = torch.exp(2 * t * (unit.square().sum(1) - 1)).double().sum().item()  # each sample with itself
    return math.log((total - own) / (len(unit) * (len(unit) - 1)))


RESAMPLES, LEVEL = 1000, 0.95
_MOST_NUMBERS = 2**24  # of a table of counts at a time


def bootstrap_ci(values, groups=None, resamples=RESAMPLES, seed=0, level=LEVEL):
    """Percentile intervals of means over samples (Efron 1979), by drawing samples or whole groups with replacement.

    Samples of one place in several months are near duplicates: drawn one by one they look like more evidence than they
    are. With ``groups`` whole groups are drawn (cluster bootstrap), as many as there are, with all of their samples.

    Args:
        values: (n,) or (n, m) numbers or bools, m figures of the same samples; they share the draws.
        groups: (n,) what each sample belongs to; None: every sample is drawn by itself.
        resamples: how many. seed: of the draws. level: share of the resamples inside the interval.

    Returns:
        float64 (2,) or (2, m): lower and upper end.

    Raises:
        ValueError: no samples.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError("no samples to draw an interval from")
    table = values.reshape(len(values), -1)
    if groups is not None:
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.stack([np.bincount(group, column) for column in table.T], 1)
        sizes = np.bincount(group).astype(np.float64)
    else:
        sums, sizes = table, np.ones(len(table))
    random, means = np.random.default_rng([seed, 3]), []
    portion = max(1, _MOST_NUMBERS // len(sizes))
    for begin in range(0, resamples, portion):
        # how often each group is drawn: the same as drawing len(sizes) of them one after the other
        shape = min(portion, resamples - begin)
        counts = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), shape).astype(np.float64)
        means.append(counts @ sums / (counts @ sizes)[:, None])
    ends = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends.reshape(2, *values.shape[1:])
