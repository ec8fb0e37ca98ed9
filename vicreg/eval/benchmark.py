"""Compare backbones on frozen features: metrics, figures and tables."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicreg.common import cli, files, plots, provenance, random_streams
from vicreg.common.files import write_json
from vicreg.common.logger import lock_results, log
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.rasters import display_rgb
from vicreg.data.subsets import check_percent
from vicreg.distributed.process_group import world_size
from vicreg.eval import benchmark_metrics as bm
from vicreg.eval import knn, tables
from vicreg.eval.feature_cache import BackboneSpec, FeatureCache
from vicreg.eval.lr_sweep import DEFAULT_LRS
from vicreg.eval.metrics import RESAMPLES, intervals
from vicreg.eval.splits import EvalSplit

_QUERIES, _NEIGHBORS = 8, 5  # of the figure of nearest neighbors


@dataclass(frozen=True)
class BenchmarkConfig:
    """Configuration of a comparison; see ``evaluate_embeddings.py --help`` for the fields.

    Raises:
        ValueError: A value is not valid.
    """

    exp_dir: Path
    knn: list[int] = field(default_factory=lambda: [5, 20, 200])
    lr: list[float] = field(default_factory=lambda: list(DEFAULT_LRS))
    epochs: int = 50
    batch_size: int = 256
    weight_decay: float = 1e-6
    train_percent: list[int] = field(default_factory=list)
    seeds: int = 5
    resamples: int = RESAMPLES
    map_samples: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        cli.check_positive(self, "knn", "lr", "epochs", "batch_size", "seeds", "resamples")
        for percent in self.train_percent:
            check_percent(percent)
        cli.check_not_negative(self, "map_samples", "weight_decay")


def compare(
    config: BenchmarkConfig,
    backbones: list[BackboneSpec],
    splits: tuple[EvalSplit, EvalSplit | None],
    cache: FeatureCache,
    record: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate every backbone and write the results.

    Args:
        config: Configuration; results go to ``<exp-dir>/embeddings/<name>/``, and ``table.md`` and ``table.json`` of
            all backbones to ``<exp-dir>/embeddings/``.
        backbones: Backbones to compare.
        splits: Protocol 1, and protocol 2 or None.
        cache: Features.
        record: Options of the script, written to every ``result.json`` as ``args``.

    Returns:
        dict from name to metrics.

    Raises:
        ValueError: There are several processes, or features are not finite.
    """
    if world_size() > 1:
        raise ValueError("evaluate_embeddings.py runs in one process: start it without a launcher")
    folder, results = config.exp_dir / "embeddings", {}
    lock = lock_results(folder, [folder / backbone.name / RESULT_FILE for backbone in backbones])
    parts = {"training": splits[0].train.dataset, "validation": splits[0].test.dataset}
    digests = {f"{part} {name}": text for part, data in parts.items() for name, text in data.digests().items()}
    provenance.start(folder, "embedding benchmark", cache.device, digests)
    files.remove_partial_files(cache.folder)
    protocols = [(number, split) for number, split in enumerate(splits, 1) if split]
    for number, split in protocols:
        log(f"protocol {number}: {split.description}")
    shared = overlap(splits[0].train.dataset, splits[0].test.dataset)
    log(format_overlap(shared))
    for backbone in backbones:
        started = time.perf_counter()
        log(f"{backbone.name} ({backbone.pretrained})")
        backbone_dir = folder / backbone.name
        backbone_dir.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = {"pretrained": backbone.pretrained, "arch": backbone.arch or backbone.pretrained}
        result |= {"task": "classification", "dataset": parts["validation"].name, "protocol": "embeddings"}
        result |= {"selected_on_validation": [], "source": backbone.name, "image_size": cache.image_size}
        result |= {"dtype": cache.dtype, "overlap": shared}
        for number, split in protocols:
            features = cache.get(backbone, split.train.dataset)
            train = features[torch.from_numpy(split.train.indices)]
            if split.test.dataset is not split.train.dataset:
                features = cache.get(backbone, split.test.dataset)
            test = features[torch.from_numpy(split.test.indices)]
            metrics = _evaluate_split(config, split, train, test, linear=number == 1)
            result |= metrics if number == 1 else {"protocol2": metrics}
            if config.map_samples:
                _save_figures(config, backbone_dir, "" if number == 1 else "_protocol2", backbone.name, split, train,
                              test)  # fmt: skip
        results[backbone.name] = {**result, "seconds": round(time.perf_counter() - started, 1)}
        write_result(backbone_dir / RESULT_FILE, {**results[backbone.name], "args": record})
    _write_tables(folder, results)
    provenance.finish()
    lock.close()
    return results


def _evaluate_split(
    config: BenchmarkConfig, split: EvalSplit, train: torch.Tensor, test: torch.Tensor, linear: bool
) -> dict[str, Any]:
    """Compute all metrics of one split, with intervals; linear probes and geometry only if ``linear``."""
    parts = [bm.knn_metrics(split, train, test, config.knn), bm.kmeans_metrics(split, test, config.seed)]
    if linear:
        options: dict[str, Any] = {"lrs": config.lr, "epochs": config.epochs, "batch_size": config.batch_size}
        options |= {"weight_decay": config.weight_decay, "seed": config.seed}
        parts.append(bm.linear_probe_metrics(split, train, test, **options))
        if config.train_percent:
            parts.append(bm.label_fraction_metrics(split, train, test, config.train_percent, config.seeds, **options))
        geometry = bm.geometry_metrics(split, train, test, config.seed)
        if geometry["alignment"] is None:
            log("  no alignment: no location has two images")
        parts.append((geometry, {}))
    metrics = {name: value for values, _ in parts for name, value in values.items()}
    correct = {name: value for _, values in parts for name, value in values.items()}
    metrics |= {"train_samples": len(train), "val_samples": len(test), "classes": len(split.classes)}
    return metrics | intervals(correct, split.test.location_ids, config.resamples, config.seed)


def _save_figures(
    config: BenchmarkConfig, folder: Path, suffix: str, name: str, split: EvalSplit, train: torch.Tensor,
    test: torch.Tensor,
) -> None:  # fmt: skip
    """Write a t-SNE map of the test samples, and some of them with their nearest training samples."""
    rng = random_streams.rng(config.seed, "embedding_map")
    shown = np.sort(rng.permutation(len(test))[: config.map_samples])
    if len(shown) > 2:
        title = f"{name}: t-SNE of {len(shown)} of {len(test)} test samples"
        features = test[torch.from_numpy(shown)].cpu().numpy()
        labels, map_path = split.test.labels[shown], folder / f"tsne{suffix}.png"
        positions = plots.save_embedding_map(map_path, features, labels, split.classes, title)
        _save_map_data(folder, suffix, split, shown, positions)
    queries = np.sort(rng.permutation(len(test))[:_QUERIES])
    cosines, nearest_rows = knn.nearest_neighbors(train, test[torch.from_numpy(queries)], _NEIGHBORS)
    nearest, labels = nearest_rows.cpu().numpy(), split.train.labels
    images = split.train.dataset.images(split.train.indices[nearest.ravel()].tolist())
    plots.save_neighbors(
        folder / f"neighbors{suffix}.png",
        split.test.dataset.images(split.test.indices[queries].tolist()),
        [split.classes[label] for label in split.test.labels[queries]],
        images.view(*nearest.shape, *images.shape[1:]),
        [[split.classes[label] for label in labels[row]] for row in nearest],
        cosines.cpu(),
        torch.from_numpy(labels[nearest] == split.test.labels[queries][:, None]),
        f"{name}: test samples (left) and the nearest training samples by cosine similarity",
    )


def _save_map_data(folder: Path, suffix: str, split: EvalSplit, shown: np.ndarray, positions: np.ndarray) -> None:
    """Write ``embedding_map.json`` and ``thumbnails.jpg``: the samples of the map, for an interactive page."""
    dataset, rows = split.test.dataset, split.test.indices[shown]
    images = [
        display_rgb(dataset.images(part.tolist()).cpu().numpy()) for part in np.array_split(rows, -(-len(rows) // 256))
    ]
    columns = plots.save_thumbnails(folder / f"thumbnails{suffix}.jpg", images)
    content = {"samples": len(split.test.labels), "thumbnails": f"thumbnails{suffix}.jpg", "side": plots.THUMBNAIL}
    content |= {"columns": columns, "classes": split.classes, "label": split.test.labels[shown].tolist()}
    content |= {"info": dataset.sample_info(rows), **dict(zip("xy", positions.T.round(3).tolist(), strict=True))}
    files.write_text(folder / f"embedding_map{suffix}.json", json.dumps(content))


def _write_tables(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Print the tables of all backbones and write them as Markdown and JSON."""
    protocols = {"Protocol 1": results}
    if any("protocol2" in result for result in results.values()):
        protocols["Protocol 2"] = {name: result["protocol2"] for name, result in results.items()}
    pages = []
    for title, table in protocols.items():
        intervals_of = next(iter(table.values()))["intervals_of"]
        log(f"\n{title} (in brackets: {intervals_of})\n{tables.as_text(table)}")
        pages.append(f"## {title}\n\n{tables.as_markdown(table)}\n\nIn brackets: {intervals_of}.\n")
    files.write_text(folder / "table.md", "\n".join(pages))
    write_json(folder / "table.json", [{"name": name, **result} for name, result in results.items()])
    log(f"\n{folder / 'table.md'}")
