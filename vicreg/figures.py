"""All figures of one backbone's features: neighbours, clusters, a linear head, and how the features lie."""

import numpy as np
import torch

from vicreg import clustering, features, geometry, intervals, sweep
from vicreg.classifier import HELD_OUT, hold_out, stratified_subset

_MOST_NUMBERS = 2**26  # of a table of cosines at a time
_MOST_SAMPLES = 20_000  # for the uniformity, which looks at all pairs


def of_neighbours(protocol, train, test, neighbours):
    """Weighted kNN: top-1 and top-5 of every k, and which samples were right.

    Args:
        protocol: ``protocols.Protocol``. train, test: features of its parts, (n, F) and (m, F). neighbours: list of k.

    Returns:
        dict of figures such as ``knn20_top1``, dict of bool arrays (m,) of the same names.
    """
    chunk = max(1, min(1024, _MOST_NUMBERS // len(train)))
    cosine, found = features.nearest(train, test, max(neighbours), chunk)
    labels = torch.from_numpy(protocol.train.labels).to(train.device)[found]
    truth = torch.from_numpy(protocol.test.labels).to(train.device)
    figures, right = {}, {}
    for k in neighbours:
        ranked = features.vote(cosine[:, :k], labels[:, :k], len(protocol.classes))
        _count(f"knn{k}_", ranked, truth, figures, right)
    return figures, right


def of_clusters(protocol, test, seed=0):
    """k-means of the judged samples, with as many clusters as they have classes, matched with the labels.

    Returns:
        dict of ``kmeans_accuracy, kmeans_nmi, kmeans_ari``, dict of bool arrays (m,).
    """
    labels = protocol.test.labels
    clusters = clustering.kmeans(test.cpu().numpy(), len(np.unique(labels)), seed)
    right = clustering.match(clusters, labels) == labels
    agreed = {f"kmeans_{name}": value for name, value in clustering.agreement(clusters, labels).items()}
    return {"kmeans_accuracy": float(right.mean()), **agreed}, {"kmeans_accuracy": right}


def of_linear_heads(protocol, train, test, rates=sweep.RATES, epochs=50, batch_size=256, seed=0):
    """A linear head for every rate; the rate is chosen on held-out training places, never on the judged samples.

    Returns:
        dict of ``top1, top5`` of the chosen head, ``lr_head``, and ``rates`` with what each head reached on the held
        out and on the judged samples; dict of bool arrays (m,).

    Raises:
        ValueError: no class has two places, so that none can be held out.
    """
    everything = np.arange(len(train))
    return _linear_heads(protocol, train, test, everything, rates, epochs, batch_size, seed)


def of_few_labels(protocol, train, test, percents, seeds, rates=sweep.RATES, epochs=50, batch_size=256, seed=0):
    """Linear heads on a share of the labels of each class, drawn several times.

    Args:
        percents: list of shares. seeds: how many draws of each, seed, seed + 1, …; the rest as in of_linear_heads.

    Returns:
        dict of mean ``label<percent>_top1, label<percent>_top5``, and for each of them ``_std`` (over the draws, with
        n - 1; None for one draw) and ``_seeds``; dict of arrays (m,): how often each judged sample was right.
    """
    figures, right = {}, {}
    for percent in percents:
        drawn, hits = [], []
        for number in range(seed, seed + seeds):
            some = stratified_subset(protocol.train.labels, percent / 100, number)
            found, correct = _linear_heads(protocol, train, test, some, rates, epochs, batch_size, number)
            drawn.append(found)
            hits.append(correct)
        for top in ("top1", "top5"):
            name, values = f"label{percent}_{top}", [found[top] for found in drawn]
            figures |= {name: float(np.mean(values)), f"{name}_seeds": values}
            figures[f"{name}_std"] = float(np.std(values, ddof=1)) if seeds > 1 else None
            right[name] = np.mean([correct[top] for correct in hits], axis=0)
    return figures, right


def _linear_heads(protocol, train, test, indices, rates, epochs, batch_size, seed):
    """What ``of_linear_heads`` returns, learnt from some of the training samples."""
    labels = torch.from_numpy(protocol.train.labels).to(train.device)
    truth = torch.from_numpy(protocol.test.labels).to(train.device)
    aside = indices[hold_out(protocol.train.labels[indices], protocol.train.places[indices], HELD_OUT, seed)]
    if not len(aside):
        raise ValueError("the head's rate is chosen on held-out places, and no class has two in the training list")
    fit = torch.from_numpy(np.setdiff1d(indices, aside)).to(train.device)
    aside = torch.from_numpy(aside).to(train.device)
    heads = sweep.sweep(train[fit], labels[fit], len(protocol.classes), rates, epochs, batch_size, seed=seed)
    chosen_on = [features.accuracy(r, labels[aside], (1,))["top1"] for r in sweep.rank_classes(*heads, train[aside])]
    judged = sweep.rank_classes(*heads, test)
    reached = [features.accuracy(ranked, truth, (1,))["top1"] for ranked in judged]
    best = int(np.argmax(chosen_on))
    figures, right = {}, {}
    _count("", judged[best], truth, figures, right)
    every = zip(rates, chosen_on, reached, strict=True)
    figures |= {"lr_head": rates[best], "held_out_samples": len(aside)}
    figures["rates"] = {f"{rate:g}": {"held_out_top1": held, "top1": top1} for rate, held, top1 in every}
    return figures, right


def of_geometry(protocol, train, test, seed=0):
    """Effective rank of the training features; alignment and uniformity of the judged ones.

    Returns:
        dict of ``effective_rank``, ``alignment`` (None where no place has two samples) and ``uniformity``.
    """
    found = {"effective_rank": features.effective_rank(train, len(train)), "alignment": None}
    pairs = geometry.positive_pairs(protocol.test.places, seed)
    if len(pairs):
        found["alignment"] = geometry.alignment(test, pairs)
    some = np.random.default_rng([seed, 6]).permutation(len(test))[:_MOST_SAMPLES]
    return {**found, "uniformity": geometry.uniformity(test[torch.from_numpy(some).to(test.device)])}


def with_intervals(protocol, figures, right, resamples=intervals.RESAMPLES, seed=0):
    """Join figures with their 95 % intervals.

    Args:
        figures: dict. right: dict of bool arrays (m,), which of the judged samples were right, for some of them.

    Returns:
        the figures, ``intervals`` (name -> [lower, upper]) and ``intervals_of``: what was resampled, in words.
    """
    groups = protocol.test.groups
    ends = intervals.bootstrap(np.stack(list(right.values()), 1), groups, resamples, seed)
    what = f"{len(protocol.test.labels)} samples, one by one (the set knows no places)"
    if groups is not None:
        what = f"{len(np.unique(groups))} whole places, since samples of one place are near duplicates"
    of = f"95 % bootstrap, {resamples} resamples of {what}"
    return {**figures, "intervals": dict(zip(right, ends.T.tolist(), strict=True)), "intervals_of": of}


def _count(prefix, ranked, truth, figures, right):
    """Add top-1 and top-5 of ranked classes (m, classes) to figures and to what was right."""
    hits = (ranked == truth[:, None]).cpu().numpy()
    for top in (1, 5):
        right[f"{prefix}top{top}"] = hits[:, :top].any(1)
        figures[f"{prefix}top{top}"] = float(right[f"{prefix}top{top}"].mean())
