"""Supervised training: cross-entropy on the labels, with the data path, log, and files of pretraining."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.augmentations.batch import augment_batch, normalize
from vicreg.common.checkpoint_io import BACKBONE_FILE
from vicreg.common.config import setting, to_dict
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.common.plots import plot_confusion_matrix
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.subsets import LabeledSubset, check_percent, stratified_subset
from vicreg.engine.arguments import add_aug_override, add_data_arguments, add_optimization_arguments, add_run_arguments
from vicreg.engine.checkpoint import save_backbone
from vicreg.engine.config import RunConfig, RunPlan, plan_run
from vicreg.engine.optim import build_optimizer, cosine_lr
from vicreg.engine.parallel import init_device
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder
from vicreg.eval.classification import evaluate_classifier
from vicreg.models.backbones import create_backbone, init_backbone
from vicreg.models.heads import Classifier, LinearHeads

METRICS = ("top1", "top5", "balanced_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(RunConfig):
    """Settings of supervised training; see ``get_parser`` for their meaning."""

    arch: str = setting("resnet18", compare="must_match")
    in_chans: int = setting(3, compare="must_match")
    init_from: str | None = setting(None)
    label_smoothing: float = setting(0.0)
    class_weights: str = setting("none")
    train_percent: int = setting(100)
    augment: str = setting("crop")
    aug_override: Sequence[str] = setting(())
    image_size: int | None = setting(None)
    optimizer: str = setting("sgd", compare="must_match")
    momentum: float = setting(0.9)
    warmup_epochs: float = setting(0.0)
    schedule: str = setting("cosine")
    milestones: Sequence[int] = setting(())
    gamma: float = setting(0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("image_size", "gamma")
        check_percent(self.train_percent)
        for name in ("label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)}: must be 0 or more and below 1")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError("--warmup-epochs must be 0 or more and fewer than --epochs")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("--schedule step needs --milestones, such as 60 80, and no other schedule takes any")

    def view_size(self, patch_size: int) -> int:
        """Return the side of the views in pixels for images of ``patch_size`` pixels."""
        return self.image_size or max(1, round(patch_size * 7 / 8))

    def warmup_steps(self, steps_per_epoch: int, steps: int) -> int:
        """Return the steps of ``warmup_epochs``."""
        return min(round(self.warmup_epochs * steps_per_epoch), steps)

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate at a step: linear warm-up, then the schedule.

        ``cosine`` falls to a thousandth of the peak, ``step`` is multiplied by ``gamma`` at each milestone (in epochs),
        ``constant`` stays.
        """
        if self.schedule == "cosine":
            return cosine_lr(step, plan.steps, plan.warmup_steps, plan.peak_lr)
        warmup = min(1.0, step / plan.warmup_steps) if plan.warmup_steps else 1.0
        passed = sum(step >= epoch * plan.steps_per_epoch for epoch in self.milestones)
        return plan.peak_lr * warmup * self.gamma**passed


def get_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of supervised training; scripts add those of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser, "weights, subset, order and augmentation")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    model.add_argument("--init-from", help="initial weights: a file that --pretrained takes, or imagenet")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--label-smoothing", type=float, default=0.0, help="target mass spread over all classes")
    loss.add_argument(
        "--class-weights", choices=["none", "sqrt", "inverse"], default="none",
        help="weight of a class by its number of samples n: equal, 1 / sqrt(n), or 1 / n (all classes count alike)",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--train-percent", type=int, default=100, help="percentage of each class's labels, 1 to 100")
    data.add_argument(
        "--augment", default="crop", choices=list(presets.PRESETS), help="preset, whose first view is used"
    )
    add_aug_override(data, "scale=0.3,1 vertical_flip=0.5")
    add_data_arguments(data)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd", help="biases and norms do not decay")
    add_optimization_arguments(optim, batch_size=64, weight_decay=1e-4)
    optim.add_argument("--lr", type=float, default=0.01, help="peak learning rate; does not scale with the batch size")
    optim.add_argument("--momentum", type=float, default=0.9, help="momentum of sgd")
    optim.add_argument("--warmup-epochs", type=float, default=0.0, help="epochs of linear warm-up")
    optim.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine", help="after the warm-up")
    optim.add_argument("--milestones", type=int, nargs="+", default=[], help="epochs at which --schedule step falls")
    optim.add_argument("--gamma", type=float, default=0.1, help="factor at each milestone")
    distributed.add_arguments(parser)
    return parser


def train(config: SupervisedConfig, dataset: Any, val: Any, split: dict[str, Any] | None, source: str) -> None:
    """Train a classifier on labels, or resume the run in ``config.exp_dir``.

    Writes the files of pretraining, and ``result.json`` (metrics of the last and the best epoch) and ``confusion.png``.

    Args:
        config: Settings of the run.
        dataset: Labeled training data set.
        val: Labeled validation data set.
        split: Record of the split in ``meta.json``, or None.
        source: Description of the run, kept in its checkpoints.

    Raises:
        ValueError: Settings do not fit each other, the data, or the run in the folder.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    device = init_device(config)
    unify_classes(dataset, val)
    view = first_view(config.augment, config.aug_override)
    folder = RunFolder(config, "supervised training", device)
    if folder.checkpoint and folder.checkpoint["classes"] != list(dataset.classes):
        raise ValueError(f"{config.exp_dir} holds a run with other classes; choose another --exp-dir or its --csv-dir")
    indices = stratified_subset(dataset.labels, config.train_percent / 100, config.seed)
    plan = plan_run(config, len(indices), device, folder.batch_size)
    size = config.view_size(dataset.patch_size)
    samples = LabeledSubset(dataset, indices, view, size)
    sizes = {"batch_size": plan.batch_size, "share": plan.local_batch_size, "image_size": size}
    augment = functools.partial(augment_batch, view=samples.view, number=0, plan=sizes, seed=config.seed, device=device)
    weights = class_weights(config.class_weights, dataset.labels[indices], len(dataset.classes)).to(device)
    run = start_run(config, plan, folder, dataset, val, split, source, device)
    for step, (images, labels) in run.steps(run.loader(samples)):
        view1, labels = augment(images, step=step), labels.to(device, non_blocking=True)
        with run.autocast():
            logits = run.model(normalize(view1, dataset.mean, dataset.std))[:, 0]
        loss = weighted_loss(logits, labels, weights, config.label_smoothing)
        run.backward(loss)
        run.log(run.average(loss=loss, train_top1=(logits.argmax(1) == labels).float().mean()))
    run.close()


def start_run(
    config: SupervisedConfig, plan: RunPlan, folder: RunFolder, dataset: Any, val: Any, split: dict[str, Any] | None,
    source: str, device: torch.device,
) -> TrainingRun:  # fmt: skip
    """Build the classifier and its optimizer, and start or resume the run; see ``train``."""
    torch.manual_seed(config.seed)
    backbone = create_backbone(config.arch, config.in_chans)
    if config.init_from and not folder.checkpoint:
        log(init_backbone(backbone, config.init_from, config.arch, config.in_chans))
    model = Classifier(backbone, LinearHeads(1, backbone.num_features, len(dataset.classes)), frozen=False)
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
    spec = {"size": size, "mean": dataset.mean, "std": dataset.std, "device": device}

    def describe(step: int) -> dict[str, Any]:
        info = {"arch": config.arch, "in_chans": config.in_chans, "mean": dataset.mean, "std": dataset.std}
        info["source"] = f"{source}, {config.augment} views, step {step} of {plan.steps}"
        return {"backbone": info, "classes": list(dataset.classes)}

    def write_result(path: Path) -> None:
        last, best = run.last, run.best
        shared = overlap(dataset, val)
        result = {name: last[name] for name in METRICS} | {f"best_{name}": best[name] for name in (*METRICS, "epoch")}
        result |= {"arch": config.arch, "source": source, "protocol": "supervised", "split": split}
        result |= {"train_samples": plan.samples, "val_samples": len(val), "image_size": size, "overlap": shared}
        result |= {"classes": list(dataset.classes), "last": last, "best": best, "config": to_dict(config)}
        write_json(path, result)
        log(format_overlap(shared))
        rule = split["rule"] if split else "unknown"
        log(
            f"top-1 {last['top1']:.4f}  top-5 {last['top5']:.4f}  balanced {last['balanced_accuracy']:.4f}  "
            f"(best top-1 {best['top1']:.4f} in epoch {best['epoch']}, split {rule}); {path}"
        )

    outputs = {
        "result.json": write_result,
        "confusion.png": lambda path: plot_confusion_matrix(path, run.last["confusion"], dataset.classes),
        BACKBONE_FILE: lambda path: save_backbone(path, backbone, **describe(plan.steps)["backbone"]),
    }
    optimizer = build_optimizer(config.optimizer, model, config.weight_decay, config.momentum)
    run = TrainingRun(
        config, plan, folder, model, optimizer, device, describe=describe, summary=summary,
        info={"source": source, "image_size": size}, outputs=outputs,
        validate=functools.partial(evaluate_classifier, model, val, spec), monitor="top1",
    )  # fmt: skip
    return run


def unify_classes(dataset: Any, val: Any) -> None:
    """Give both data sets the same classes: a list without names only knows labels up to its own largest.

    Raises:
        ValueError: The names differ.
    """
    classes = max(dataset.classes, val.classes, key=len)
    for part in (dataset, val):
        if list(part.classes) != list(classes[: len(part.classes)]):
            raise ValueError("the training and the validation list name different classes; write both in one go")
        part.classes = list(classes)


def first_view(name: str, changes: Sequence[str] = ()) -> presets.Augmentation:
    """Return the first view of an augmentation preset; see ``vicreg.augmentations.presets.get_augmentation``.

    Raises:
        ValueError: A change is of the second view.
    """
    if second := [change for change in changes if change.startswith("2.")]:
        raise ValueError(f"--aug-override {second[0]}: supervised training has one view; leave the '2.' out")
    return presets.get_augmentation(name, changes)[0]


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
