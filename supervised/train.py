"""Supervised training: cross-entropy on the labels, with the data path, log, and files of pretraining."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from supervised.config import SupervisedConfig
from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.augmentations.batch import augment_batch, normalize
from vicreg.common.checkpoint_io import BACKBONE_FILE
from vicreg.common.config import to_dict
from vicreg.common.devices import send
from vicreg.common.logger import log
from vicreg.common.plots import plot_confusion_matrix
from vicreg.common.random_streams import stream_seed
from vicreg.common.results import write_result
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.subsets import LabeledSubset, stratified_subset
from vicreg.engine.checkpoint import save_backbone
from vicreg.engine.config import RunPlan, plan_run
from vicreg.engine.optim import build_optimizer
from vicreg.engine.parallel import init_device
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder
from vicreg.eval.classification import evaluate_classifier, prediction_details
from vicreg.eval.metrics import hits
from vicreg.eval.splits import check_labels
from vicreg.models.backbones import create_backbone, init_backbone
from vicreg.models.heads import Classifier, LinearHead
from vicreg.models.input_size import check_input_size
from vicreg.models.small_maps import use_matrix_products

METRICS = ("top1", "top5", "balanced_accuracy")


def train(
    config: SupervisedConfig, dataset: LabeledDataset, val: LabeledDataset, split: dict[str, Any] | None, source: str
) -> None:
    """Train a classifier on labels, or resume the run in ``config.exp_dir``.

    Writes the files of pretraining, and ``result.json`` (metrics of the last and the best epoch) and ``confusion.png``.

    ``split`` is the record of the split in ``meta.json``, ``source`` a description of the run for its checkpoints.

    Raises:
        ValueError: Settings do not fit each other, the data, or the run in the folder.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    device = init_device(config)
    unify_classes(dataset, val)
    check_labels(dataset, val)
    view = presets.get_augmentation(config.augment, config.aug_override)[0]
    folder = RunFolder(config, "supervised training", device)
    parts = {"training": dataset.digests(), "validation": val.digests()}
    digests = {f"{part} {name}": digest for part, named in parts.items() for name, digest in named.items()}
    folder.check_data(digests)
    if folder.checkpoint and folder.checkpoint["classes"] != list(dataset.classes):
        raise ValueError(f"{config.exp_dir} holds a run with other classes; choose another --exp-dir or its --csv-dir")
    indices = stratified_subset(dataset.labels, config.train_percent / 100, config.seed)
    size = config.view_size(dataset.patch_size)
    plan = plan_run(config, len(indices), device, folder.batch_size, folder.bf16, size)
    samples = LabeledSubset(dataset, indices, view, size)
    augment = functools.partial(
        augment_batch, view=samples.view, size=size, batch_size=plan.batch_size, rank=distributed.rank(),
        seed=config.seed, device=device,
    )  # fmt: skip
    weights = class_weights(config.class_weights, dataset.labels[indices], len(dataset.classes)).to(device)
    run = start_run(config, plan, folder, dataset, val, split, source, digests, device)
    for step, (images, labels) in run.steps(run.loader(samples)):
        view1, labels = augment(images, step=step), send(labels, device)
        with run.autocast():
            logits = run.model(normalize(view1, dataset.mean, dataset.std))
        loss = weighted_loss(logits, labels, weights, config.label_smoothing)
        run.backward(loss)
        run.log(distributed.average(loss=loss, train_top1=(logits.argmax(1) == labels).float().mean()))
    run.close()


def start_run(
    config: SupervisedConfig,
    plan: RunPlan,
    folder: RunFolder,
    dataset: LabeledDataset,
    val: LabeledDataset,
    split: dict[str, Any] | None,
    source: str,
    digests: dict[str, str],
    device: torch.device,
) -> TrainingRun:
    """Build the classifier and its optimizer, and start or resume the run; see ``train``."""
    torch.manual_seed(stream_seed(config.seed, "initialization"))
    backbone: Any = create_backbone(config.arch, dataset.num_channels)
    if config.init_from and not folder.checkpoint:
        log(init_backbone(backbone, config.init_from, config.arch, dataset.num_channels, config.weight_bands))
    use_matrix_products(backbone)
    check_input_size(backbone, dataset.num_channels, config.view_size(dataset.patch_size), config.arch)
    model = Classifier(backbone, LinearHead(backbone.num_features, len(dataset.classes)), frozen=False)
    if config.cache_on_device:
        dataset.to_device(device)
    size = config.view_size(dataset.patch_size)
    millions = sum(p.numel() for p in backbone.parameters()) / 1e6
    summary = {
        "data": f"{plan.samples} samples ({config.train_percent} % of each class), {len(val)} to validate, "
        f"{len(dataset.classes)} classes, view {config.augment} {size} px",
        "split": f"{split['rule']}, {split['description']}" if split else "unknown (no meta.json)",
        "model": f"{config.arch} {millions:.1f} M parameters",
        "loss": f"cross-entropy, label smoothing {config.label_smoothing:g}, class weights {config.class_weights}",
    }
    spec = InputSpec(size, dataset.mean, dataset.std)

    def describe(step: int) -> dict[str, Any]:
        info = {"arch": config.arch, "in_chans": dataset.num_channels, "mean": dataset.mean, "std": dataset.std}
        info["source"] = f"{source}, {config.augment} views, step {step} of {plan.steps}"
        return {"backbone": info, "classes": list(dataset.classes), "data": digests}

    optimizer = build_optimizer(config.optimizer, model, config.weight_decay, config.momentum)
    run = TrainingRun(
        config, plan, folder, model, optimizer, device, describe=describe, summary=summary,
        info={"source": source, "image_size": size},
        validate=functools.partial(evaluate_classifier, model, val, spec, device),
        monitor="top1",
    )  # fmt: skip
    run.outputs = {
        "result.json": functools.partial(write_metrics, config, run, dataset, val, split, source),
        "confusion.png": lambda path: plot_confusion_matrix(path, run.last["confusion"], dataset.classes),
        BACKBONE_FILE: lambda path: save_backbone(path, backbone, **describe(plan.steps)["backbone"]),
    }
    return run


def write_metrics(
    config: SupervisedConfig,
    run: TrainingRun,
    dataset: LabeledDataset,
    val: LabeledDataset,
    split: dict[str, Any] | None,
    source: str,
    path: Path,
) -> None:
    """Write ``result.json``, and print its metrics."""
    last, best = ({key: value for key, value in metrics.items() if key != "ranked"} for metrics in (run.last, run.best))
    if "ranked" in run.last:
        ranked = torch.tensor(run.last["ranked"])
        details = prediction_details(ranked, hits(ranked, val.labels), val)
    else:  # a finished run of an earlier version
        details = {key: last[key] for key in ("intervals", "intervals_of", "locations") if key in last}
    shared = overlap(dataset, val)
    rule = split["rule"] if split else "unknown"
    result = {name: last[name] for name in METRICS} | {f"best_{name}": best[name] for name in (*METRICS, "epoch")}
    result |= {"arch": config.arch, "source": source, "protocol": "supervised", "split": split}
    result |= {"train_samples": run.plan.samples, "val_samples": len(val), "overlap": shared}
    result |= {"task": "classification", "dataset": val.name, "intervals": {}, "intervals_of": None, **details}
    result["selected_on_validation"] = [f"best_{name}" for name in METRICS]
    result |= {"image_size": config.view_size(dataset.patch_size), "classes": list(dataset.classes)}
    write_result(path, result | {"last": last, "best": best, "config": to_dict(config)})
    log(format_overlap(shared))
    log(
        f"top-1 {last['top1']:.4f}  top-5 {last['top5']:.4f}  balanced {last['balanced_accuracy']:.4f}  "
        f"(best top-1 {best['top1']:.4f} in epoch {best['epoch']}, split {rule}); {path}"
    )


def unify_classes(dataset: LabeledDataset, val: LabeledDataset) -> None:
    """Give both data sets the same classes: a list without names only knows labels up to its own largest.

    Raises:
        ValueError: The names differ.
    """
    classes = max(dataset.classes, val.classes, key=len)
    for part in (dataset, val):
        if list(part.classes) != list(classes[: len(part.classes)]):
            raise ValueError("the training and the validation list name different classes; write both in one go")
        part.classes = list(classes)


def class_weights(kind: str, labels: torch.Tensor | np.ndarray, num_classes: int) -> torch.Tensor:
    """Return the weight of each class in the loss, 1 on average over the samples.

    Args:
        kind: ``"none"``, ``"inverse"`` (each class counts as much as any other) or ``"sqrt"`` (between the two).
        labels: int64 (n,), labels of the training samples.
        num_classes: Number of classes.

    Returns:
        float32 (num_classes,); 0 for a class without a sample.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).double()
    power = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[kind]
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def weighted_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean of ``w_y ((1 - s) (-log p_y) + s mean_c (-log p_c))``.

    The mean is not divided by the weights, so that the mean over processes is the loss of the whole batch.

    Args:
        logits: (n, classes).
        labels: (n,).
        weights: (classes,).
        smoothing: s, in [0, 1).
    """
    losses = cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    return (weights[labels] * losses).mean()
