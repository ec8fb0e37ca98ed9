"""Backbones side by side: features once, all figures from them, a folder of results and pictures for each."""

import time
from pathlib import Path

import numpy as np
import torch

from preprocessing.overlap import describe, overlap
from vicreg import features, figures, files, pictures, result_table
from vicreg.distributed import world_size
from vicreg.embeddings import dataset_digest
from vicreg.run_log import say, write_json

QUERIES, NEAREST = 8, 5  # of the picture of neighbours


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
            say(f"protocol {number}: {protocol.line}")
    first = protocols[0]
    shared = overlap(first.train.dataset, first.test.dataset)
    say(describe(shared))
    for source in backbones:
        started = time.perf_counter()
        say(f"{source.name} ({source.pretrained})")
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
    found, right = figures.of_neighbours(protocol, train, test, settings["knn"])
    parts = [figures.of_clusters(protocol, test, seed)]
    if linear:
        rates = {key: settings[key] for key in ("rates", "epochs", "batch_size")}
        parts.append(figures.of_linear_heads(protocol, train, test, **rates, seed=seed))
        if settings["percents"]:
            few = {key: settings[key] for key in ("percents", "seeds")}
            parts.append(figures.of_few_labels(protocol, train, test, **few, **rates, seed=seed))
        parts.append((figures.of_geometry(protocol, train, test, seed), {}))
        if parts[-1][0]["alignment"] is None:
            say("  alignment left out: the set knows no two images of one place")
    for more, also_right in parts:
        found, right = {**found, **more}, {**right, **also_right}
    found |= {"train_samples": len(train), "val_samples": len(test), "classes": len(protocol.classes)}
    return figures.with_intervals(protocol, found, right, settings["resamples"], seed)


def _draw(folder, suffix, name, protocol, train, test, settings):
    """Write the map of the judged samples and the nearest neighbours of some of them."""
    test_part, random = protocol.test, np.random.default_rng([settings["seed"], 7])
    some = np.sort(random.permutation(len(test))[: settings["map_samples"]])
    if len(some) > 2:
        title = f"{name}: t-SNE of {len(some)} of {len(test)} judged samples"
        chosen = test[torch.from_numpy(some)].cpu().numpy()
        pictures.save_map(folder / f"tsne{suffix}.png", chosen, test_part.labels[some], protocol.classes, title)
    queries = np.sort(random.permutation(len(test))[:QUERIES])
    cosines, nearest = features.nearest(train, test[torch.from_numpy(queries)], NEAREST)
    nearest, labels = nearest.cpu().numpy(), protocol.train.labels
    fetched = protocol.train.dataset.images(protocol.train.indices[nearest.ravel()].tolist())
    pictures.save_neighbours(
        folder / f"neighbours{suffix}.png",
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
        say(f"\n{title} (in brackets: {of})\n{result_table.as_text(table)}")
        pages.append(f"## {title}\n\n{result_table.as_markdown(table)}\n\nIn brackets: {of}.\n")
    files.write_text(folder / "table.md", "\n".join(pages))
    write_json(folder / "table.json", [{"name": name, **result} for name, result in results.items()])
    say(f"\n{folder / 'table.md'}")


class _Once:
    """Remember what a function found for each object."""

    def __init__(self, function):
        self._function, self._found = function, {}

    def __call__(self, thing):
        if id(thing) not in self._found:
            self._found[id(thing)] = self._function(thing)
        return self._found[id(thing)]
