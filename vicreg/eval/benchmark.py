"""Backbones side by side: features once, all figures from them, a folder of results and pictures for each."""

import time
from pathlib import Path

import numpy as np
import torch

from vicreg.common import files, plots
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.subsets import HELD_OUT, held_out_subset, stratified_subset
from vicreg.distributed.process_group import world_size
from vicreg.eval import clustering, knn, lr_sweep, metrics
from vicreg.eval import tables as result_tables
from vicreg.eval.feature_cache import dataset_digest

QUERIES, NEAREST = 8, 5  # of the picture of neighbors


def compare(exp_dir, backbones, protocols, cache, settings, args=None):
    """Judge every backbone and write what was found.

    Args:
        exp_dir: results go to ``<exp_dir>/embeddings/<name>/``, ``table.md`` and ``table.json`` of all beside them.
        backbones: list of ``embeddings.Source``. protocols: ``Protocol`` 1, and 2 or None.
        cache: ``embeddings.FeatureCache``.
        settings: dict of ``knn, rates, epochs, batch_size, percents, seeds, resamples, map_samples, seed``
        args: goes into each result.json.

    Returns:
        dict name -> result.

    Raises:
        ValueError: several processes; features that are not finite.
    """
    if world_size() > 1:
        raise ValueError("evaluate_embeddings.py is one process: start it without a launcher")
    folder, results = Path(exp_dir) / "embeddings", {}
    digests = _Once(dataset_digest)
    for number, protocol in enumerate(protocols, 1):
        if protocol:
            log(f"protocol {number}: {protocol.line}")
    first = protocols[0]
    shared = overlap(first.train.dataset, first.test.dataset)
    log(format_overlap(shared))
    for source in backbones:
        started = time.perf_counter()
        log(f"{source.name} ({source.pretrained})")
        own = folder / source.name
        own.mkdir(parents=True, exist_ok=True)
        result = {"pretrained": source.pretrained, "arch": source.arch or source.pretrained, "source": source.name}
        result |= {"image_size": cache.size, "dtype": cache.dtype, "overlap": shared}
        for number, protocol in enumerate(protocols, 1):
            if protocol is None:
                continue
            train, test = _features(protocol, cache, source, digests)
            found = _judge(protocol, train, test, settings, linear=number == 1)
            result |= found if number == 1 else {"protocol2": found}
            if settings["map_samples"]:
                _draw(own, "" if number == 1 else "_protocol2", source.name, protocol, train, test, settings)
        results[source.name] = {**result, "seconds": round(time.perf_counter() - started, 1)}
        write_json(own / "result.json", {**results[source.name], "args": args})
    _write_tables(folder, results)
    return results


def _features(protocol, cache, source, digests):
    """Features of the two parts of a protocol; a data set that both are of is looked at once."""
    found = {}
    for part in (protocol.train, protocol.test):
        if id(part.dataset) not in found:
            found[id(part.dataset)] = cache.get(source, part.dataset, digests(part.dataset))
    return [found[id(part.dataset)][torch.from_numpy(part.indices)] for part in (protocol.train, protocol.test)]


def _judge(protocol, train, test, settings, linear):
    """All figures of one protocol, with intervals; the linear head and the geometry where asked for."""
    seed = settings["seed"]
    found, right = of_neighbors(protocol, train, test, settings["knn"])
    parts = [of_clusters(protocol, test, seed)]
    if linear:
        rates = {key: settings[key] for key in ("rates", "epochs", "batch_size")}
        parts.append(of_linear_heads(protocol, train, test, **rates, seed=seed))
        if settings["percents"]:
            few = {key: settings[key] for key in ("percents", "seeds")}
            parts.append(of_few_labels(protocol, train, test, **few, **rates, seed=seed))
        parts.append((of_geometry(protocol, train, test, seed), {}))
        if parts[-1][0]["alignment"] is None:
            log("  alignment left out: the set knows no two images of one place")
    for more, also_right in parts:
        found, right = {**found, **more}, {**right, **also_right}
    found |= {"train_samples": len(train), "val_samples": len(test), "classes": len(protocol.classes)}
    return with_intervals(protocol, found, right, settings["resamples"], seed)


def _draw(folder, suffix, name, protocol, train, test, settings):
    """Write the map of the judged samples and the nearest neighbors of some of them."""
    test_part, random = protocol.test, np.random.default_rng([settings["seed"], 7])
    some = np.sort(random.permutation(len(test))[: settings["map_samples"]])
    if len(some) > 2:
        title = f"{name}: t-SNE of {len(some)} of {len(test)} judged samples"
        chosen = test[torch.from_numpy(some)].cpu().numpy()
        plots.save_embedding_map(folder / f"tsne{suffix}.png", chosen, test_part.labels[some], protocol.classes, title)
    queries = np.sort(random.permutation(len(test))[:QUERIES])
    cosines, nearest = knn.nearest_neighbors(train, test[torch.from_numpy(queries)], NEAREST)
    nearest, labels = nearest.cpu().numpy(), protocol.train.labels
    fetched = protocol.train.dataset.images(protocol.train.indices[nearest.ravel()].tolist())
    plots.save_neighbors(
        folder / f"neighbors{suffix}.png",
        test_part.dataset.images(test_part.indices[queries].tolist()),
        [protocol.classes[label] for label in test_part.labels[queries]],
        fetched.view(*nearest.shape, *fetched.shape[1:]),
        [[protocol.classes[label] for label in labels[row]] for row in nearest],
        cosines.cpu().numpy(),
        labels[nearest] == test_part.labels[queries][:, None],
        f"{name}: judged samples (left) and the nearest training samples, by cosine",
    )


def _write_tables(folder, results):
    """Print the tables of all backbones and keep them as Markdown and JSON."""
    tables = {"Protocol 1": results}
    if any("protocol2" in result for result in results.values()):
        tables["Protocol 2"] = {name: result["protocol2"] for name, result in results.items()}
    pages = []
    for title, table in tables.items():
        of = next(iter(table.values()))["intervals_of"]
        log(f"\n{title} (in brackets: {of})\n{result_tables.as_text(table)}")
        pages.append(f"## {title}\n\n{result_tables.as_markdown(table)}\n\nIn brackets: {of}.\n")
    files.write_text(folder / "table.md", "\n".join(pages))
    write_json(folder / "table.json", [{"name": name, **result} for name, result in results.items()])
    log(f"\n{folder / 'table.md'}")


class _Once:
    """Remember what a function found for each object."""

    def __init__(self, function):
        self._function, self._found = function, {}

    def __call__(self, thing):
        if id(thing) not in self._found:
            self._found[id(thing)] = self._function(thing)
        return self._found[id(thing)]


_MOST_NUMBERS = 2**26  # of a table of cosines at a time
_MOST_SAMPLES = 20_000  # for the uniformity, which looks at all pairs


def of_neighbors(protocol, train, test, neighbors):
    """Weighted kNN: top-1 and top-5 of every k, and which samples were right.

    Args:
        protocol: ``protocols.Protocol``. train, test: features of its parts, (n, F) and (m, F). neighbors: list of k.

    Returns:
        dict of figures such as ``knn20_top1``, dict of bool arrays (m,) of the same names.
    """
    chunk = max(1, min(1024, _MOST_NUMBERS // len(train)))
    cosine, found = knn.nearest_neighbors(train, test, max(neighbors), chunk)
    labels = torch.from_numpy(protocol.train.labels).to(train.device)[found]
    truth = torch.from_numpy(protocol.test.labels).to(train.device)
    figures, right = {}, {}
    for k in neighbors:
        ranked = knn.weighted_vote(cosine[:, :k], labels[:, :k], len(protocol.classes))
        _count(f"knn{k}_", ranked, truth, figures, right)
    return figures, right


def of_clusters(protocol, test, seed=0):
    """k-means of the judged samples, with as many clusters as they have classes, matched with the labels.

    Returns:
        dict of ``kmeans_accuracy, kmeans_nmi, kmeans_ari``, dict of bool arrays (m,).
    """
    labels = protocol.test.labels
    clusters = clustering.kmeans(test.cpu().numpy(), len(np.unique(labels)), seed)
    right = clustering.match_clusters(clusters, labels) == labels
    agreed = {f"kmeans_{name}": value for name, value in clustering.clustering_metrics(clusters, labels).items()}
    return {"kmeans_accuracy": float(right.mean()), **agreed}, {"kmeans_accuracy": right}


def of_linear_heads(protocol, train, test, rates=lr_sweep.RATES, epochs=50, batch_size=256, seed=0):
    """A linear head for every rate; the rate is chosen on held-out training places, never on the judged samples.

    Returns:
        dict of ``top1, top5`` of the chosen head, ``lr_head``, and ``rates`` with what each head reached on the held
        out and on the judged samples; dict of bool arrays (m,).

    Raises:
        ValueError: no class has two places, so that none can be held out.
    """
    everything = np.arange(len(train))
    return _linear_heads(protocol, train, test, everything, rates, epochs, batch_size, seed)


def of_few_labels(protocol, train, test, percents, seeds, rates=lr_sweep.RATES, epochs=50, batch_size=256, seed=0):
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
    held_out = indices[
        held_out_subset(protocol.train.labels[indices], protocol.train.location_ids[indices], HELD_OUT, seed)
    ]
    if not len(held_out):
        raise ValueError("the head's rate is chosen on held-out places, and no class has two in the training list")
    fit = torch.from_numpy(np.setdiff1d(indices, held_out)).to(train.device)
    held_out = torch.from_numpy(held_out).to(train.device)
    heads = lr_sweep.lr_sweep(train[fit], labels[fit], len(protocol.classes), rates, epochs, batch_size, seed=seed)
    chosen_on = [
        metrics.accuracy(r, labels[held_out], (1,))["top1"] for r in lr_sweep.rank_classes(*heads, train[held_out])
    ]
    judged = lr_sweep.rank_classes(*heads, test)
    reached = [metrics.accuracy(ranked, truth, (1,))["top1"] for ranked in judged]
    best = int(np.argmax(chosen_on))
    figures, right = {}, {}
    _count("", judged[best], truth, figures, right)
    every = zip(rates, chosen_on, reached, strict=True)
    figures |= {"lr_head": rates[best], "held_out_samples": len(held_out)}
    figures["rates"] = {f"{rate:g}": {"held_out_top1": held, "top1": top1} for rate, held, top1 in every}
    return figures, right


def of_geometry(protocol, train, test, seed=0):
    """Effective rank of the training features; alignment and uniformity of the judged ones.

    Returns:
        dict of ``effective_rank``, ``alignment`` (None where no place has two samples) and ``uniformity``.
    """
    found = {"effective_rank": metrics.effective_rank(train, len(train)), "alignment": None}
    pairs = metrics.positive_pairs(protocol.test.location_ids, seed)
    if len(pairs):
        found["alignment"] = metrics.alignment(test, pairs)
    some = np.random.default_rng([seed, 6]).permutation(len(test))[:_MOST_SAMPLES]
    return {**found, "uniformity": metrics.uniformity(test[torch.from_numpy(some).to(test.device)])}


def with_intervals(protocol, figures, right, resamples=metrics.RESAMPLES, seed=0):
    """Join figures with their 95 % intervals.

    Args:
        figures: dict. right: dict of bool arrays (m,), which of the judged samples were right, for some of them.

    Returns:
        the figures, ``intervals`` (name -> [lower, upper]) and ``intervals_of``: what was resampled, in words.
    """
    groups = protocol.test.groups
    ends = metrics.bootstrap_ci(np.stack(list(right.values()), 1), groups, resamples, seed)
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
