"""Evaluate one backbone: a linear probe with kNN on frozen features, or finetuning.

The reference protocol (Bardes et al. 2022): training on random resized crops and flips, SGD with momentum 0.9, a
cosine schedule over the epochs, evaluation on the center crop; a frozen backbone stays in eval mode.
"""

import time
from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from vicreg import distributed
from vicreg.augmentations.batch import augment_batch, normalize
from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.common import provenance
from vicreg.common.config import by_flag
from vicreg.common.logger import MetricLogger, lock_results, log
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.data.subsets import LabeledSubset
from vicreg.eval import knn
from vicreg.eval.classification import prediction_details
from vicreg.eval.config import EvaluationConfig
from vicreg.eval.features import build_input_spec, check_features, format_input_spec
from vicreg.eval.finetune import finetune, fit_batch_size
from vicreg.eval.label_efficiency import FrozenFeatures, LabelFractionRun, plan_runs, summarize
from vicreg.eval.linear_probe import cached_batches, sweep_accuracies
from vicreg.eval.lr_sweep import FeatureBatch, LinearSweep, select_lr, train_sweep
from vicreg.eval.metrics import accuracy, hits
from vicreg.eval.splits import check_labels
from vicreg.models.backbones import BackboneInfo, check_channels, feature_dim, load_backbone
from vicreg.models.input_size import check_input_size


def evaluate(
    config: EvaluationConfig,
    train: LabeledDataset,
    val: LabeledDataset,
    device: torch.device,
    indices: np.ndarray | None = None,
    record: dict[str, Any] | None = None,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Evaluate a backbone and write the results.

    Args:
        config: Configuration.
        train: Training set.
        val: Validation set.
        device: Device of this process.
        indices: Training samples that replace ``config.train_percent``.
        record: Options of the script, written to ``result.json`` as ``args``.

    Returns:
        The contents of ``<exp-dir>/<freeze|finetune>_<percent>/result.json``: ``top1`` and ``top5`` on the validation
        set after the last epoch, ``best_top1`` and ``best_top5`` of the best epoch, kNN, and what was evaluated. For
        several percentages or seeds, a list of means and standard deviations; see ``label_efficiency.summarize``.

    Raises:
        ValueError: Arguments, weights and data do not fit each other.
        FileNotFoundError: There are no such weights.
    """
    distributed.check_same_across_ranks(by_flag(config))
    parts = {"training": train.digests(), "validation": val.digests()}
    digests = {f"{part} {name}": digest for part, named in parts.items() for name, digest in named.items()}
    distributed.check_same_across_ranks(digests, "data")
    backbone, info = load_backbone(
        config.pretrained, config.arch, config.in_chans, config.seed, config.mean, config.std, config.weight_bands
    )
    check_channels(info["in_chans"], train, f"--pretrained {config.pretrained}")
    check_labels(train, val)
    spec = build_input_spec(info, train, config.image_size)
    check_input_size(backbone, info["in_chans"], spec.size, info["arch"])
    log(f"{info['report']}\n{format_input_spec(spec, info)}")
    seeds, num_lrs = range(config.seed, config.seed + config.seeds), len(set(config.lr_head))
    runs = plan_runs(train, config.train_percent, seeds, num_lrs, config.exp_dir / config.protocol, indices)
    shared = overlap(train, val)
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    log(f"{len(val)} validation samples, {len(train.classes)} classes\n{format_overlap(shared)}")
    if not config.frozen and not config.lr_backbone:
        log("note: with --lr-backbone 0 finetuning trains the head and the BatchNorm statistics only")
    about = _describe(config, info, train, val, spec) | {"overlap": shared}
    started, results, correct, locks = time.perf_counter(), [], [], []
    for folder in dict.fromkeys(run.percent_folder for run in runs):
        if distributed.is_main():
            paths = [run.folder / RESULT_FILE for run in runs if run.percent_folder == folder]
            locks.append(lock_results(folder, paths))
        provenance.start(folder, "evaluation", device, digests)
    if config.frozen:
        features = FrozenFeatures(
            backbone, train, val, spec, device, runs, config.views, config.seed, plain=bool(config.knn)
        )
        check_features(features.val[0], str(config.pretrained))
    for run in runs:
        fraction = f"{run.percent} %" if indices is None else "a list"
        held_out = f"{len(run.held_out)} of them held out to select the learning rate"
        log(f"{len(run.indices)} training samples ({fraction}, seed {run.seed}), {held_out}")
        if distributed.is_main():
            run.folder.mkdir(parents=True, exist_ok=True)
        logger, show = MetricLogger(run.folder), len(runs) == 1
        if config.frozen:
            result, ranked = _probe_frozen(config, run, features, backbone, train, spec, device, logger, show)
        else:
            history, last = finetune(config, run.seed, backbone, train, run.indices, val, spec, device, logger, show)
            result, ranked = _best_and_last(history) | {"lr_head": config.lr_head[0]}, {"": last}
        logger.close()
        correct.append(ChainMap(*(hits(classes, val.labels, prefix) for prefix, classes in ranked.items())))
        result |= prediction_details(ranked[""], correct[-1], val)
        result |= {**about, "protocol": f"{config.protocol}_{run.percent}", "train_samples": len(run.indices)}
        result |= {"seed": run.seed, "seconds": round(time.perf_counter() - started, 1)}
        if distributed.is_main():
            write_result(run.folder / RESULT_FILE, {**result, "args": record})
        log(
            f"top-1 {result['top1']:.4f}  top-5 {result['top5']:.4f}  (best on validation {result['best_top1']:.4f} in "
            f"epoch {result['best_epoch']}), head learning rate {result['lr_head']:g}; {run.folder / RESULT_FILE}"
        )
        results.append(result)
        started = time.perf_counter()
    rows = results if len(runs) == 1 else summarize(runs, results, correct, val, config.exp_dir, config.protocol)
    provenance.finish()
    for lock in locks:
        lock.close()
    return rows[0] if len(runs) == 1 else rows


def _describe(
    config: EvaluationConfig, info: BackboneInfo, train: LabeledDataset, val: LabeledDataset, spec: InputSpec
) -> dict[str, Any]:
    """Return what ``result.json`` says of the backbone, its input and the data."""
    return {
        "pretrained": str(config.pretrained),
        "arch": info["arch"],
        "source": info["source"],
        "task": "classification",
        "dataset": val.name,
        "val_samples": len(val),
        "classes": len(train.classes),
        "selected_on_validation": ["best_top1", "best_top5"],
        "image_size": spec.size,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def _probe_frozen(
    config: EvaluationConfig,
    run: LabelFractionRun,
    features: FrozenFeatures,
    backbone: nn.Module,
    train: LabeledDataset,
    spec: InputSpec,
    device: torch.device,
    logger: MetricLogger,
    show: bool,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Compute kNN accuracies and train a linear probe for one run.

    Returns:
        dict of accuracies, the selected ``lr_head``, and ``lr_sweep``: accuracies of each learning rate; and the ranked
        classes of the validation samples by the prefix of their metrics, such as ``{"": …, "knn20_": …}``.
    """
    val_features, val_labels = features.val
    result: dict[str, Any] = {}
    ranked: dict[str, torch.Tensor] = {}
    if config.knn:
        train_features, train_labels = features.plain(run.indices)
        cosine, nearest = knn.nearest_neighbors(train_features, val_features, max(config.knn))
        for k in config.knn:
            votes = train_labels[nearest[:, :k]]
            ranked[f"knn{k}_"] = knn.weighted_vote(cosine[:, :k], votes, len(train.classes))
            scores = accuracy(ranked[f"knn{k}_"], val_labels)
            result |= {f"knn{k}_{name}": round(value, 4) for name, value in scores.items()}
            log(f"kNN-{k}  top-1 {scores['top1']:.4f}  top-5 {scores['top5']:.4f}")
    sweep = LinearSweep(
        feature_dim(backbone), len(train.classes), config.lr_head, config.weight_decay, seed=run.seed,
        select=len(run.held_out) > 0, device=device,
    )  # fmt: skip
    batch_size = fit_batch_size(config.batch_size, len(run.indices))
    steps_per_epoch = len(run.indices) // batch_size
    if config.views:
        views, labels = features.views(run.indices), train.labels[run.indices]
        batches = cached_batches(views, labels, run.held_out_mask, batch_size, config.epochs, run.seed)
    else:
        batches = _augmented_batches(config, run, backbone, train, spec, device, batch_size)
    history: list[list[dict[str, float]]] = []
    for epoch, losses in train_sweep(sweep, batches, config.epochs, steps_per_epoch):
        history.append(sweep_accuracies(sweep, val_features, val_labels))
        held_out_top1: list[float] = []
        if len(run.held_out):
            held_out_scores = sweep_accuracies(sweep, *features.plain(run.held_out), selection=True)
            held_out_top1 = [score["top1"] for score in held_out_scores]
        index = select_lr(held_out_top1) if held_out_top1 else 0
        line = {"epoch": epoch, "step": (epoch + 1) * steps_per_epoch, "lr_head": sweep.lrs[index]}
        line |= {"loss": round(losses[index].item(), 6), **history[-1][index]}
        # epochs on cached features pass too fast to read all of them
        readable = epoch == config.epochs - 1 or epoch % max(1, config.epochs // 10) == 0
        logger.write(line, show=show and (not config.views or readable))
    sweep.head(index)  # refuses a head that diverged
    ranked[""] = sweep.rank_classes(val_features)[index]
    result |= _best_and_last([scores[index] for scores in history]) | {"lr_head": sweep.lrs[index]}
    selection_scores: Sequence[float | None] = held_out_top1 or [None]
    lines = zip(sweep.lrs, selection_scores, history[-1], strict=True)
    result["lr_sweep"] = {f"{lr:g}": {"held_out_top1": held, **scores} for lr, held, scores in lines}
    return result, ranked


@torch.no_grad()
def _augmented_batches(
    config: EvaluationConfig, run: LabelFractionRun, backbone: nn.Module, train: LabeledDataset, spec: InputSpec,
    device: torch.device, batch_size: int,
) -> Iterator[FeatureBatch]:  # fmt: skip
    """Yield features of freshly augmented images, the whole batch on every process."""
    samples, held_out = LabeledSubset(train, run.indices, PROBE_VIEW, spec.size), run.held_out_mask
    steps = config.epochs * (len(samples) // batch_size)
    local = ResumableBatchSampler(
        len(samples), batch_size, run.seed, steps, 0, distributed.rank(), distributed.world_size()
    )
    whole = ResumableBatchSampler(len(samples), batch_size, run.seed, steps)
    loader = build_loader(samples, local, config.workers, device)
    backbone.eval()
    bar = tqdm(zip(whole, loader, strict=True), "linear probe", steps, leave=False,
               disable=None if distributed.is_main() else True)  # fmt: skip
    for step, (keys, (images, _)) in enumerate(bar):
        views = augment_batch(
            images, samples.view, spec.size, batch_size=batch_size, rank=distributed.rank(), seed=run.seed, step=step,
            device=device,
        )  # fmt: skip
        rows = torch.tensor([row for row, _ in keys])
        labels = train.labels[run.indices[rows]]
        features = backbone(normalize(views, spec.mean, spec.std)).float()
        yield distributed.all_gather_equal(features)[0], labels, held_out[rows]


def _best_and_last(history: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the accuracies after the last epoch, and those of the epoch that was best on the validation set."""
    best = max(range(len(history)), key=lambda epoch: history[epoch]["top1"])
    best_scores = {f"best_{name}": value for name, value in history[best].items()}
    return {**history[-1], **best_scores, "best_epoch": best}
