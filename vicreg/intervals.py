"""How sure an accuracy is: bootstrap intervals that know which samples are near duplicates."""

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95
_MOST_NUMBERS = 2**24  # of a table of counts at a time


def bootstrap(values, groups=None, resamples=RESAMPLES, seed=0, level=LEVEL):
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
