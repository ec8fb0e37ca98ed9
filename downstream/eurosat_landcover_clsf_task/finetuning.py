"""Train all weights of a classifier on EuroSAT scenes."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from downstream.eurosat_landcover_clsf_task.config import EurosatConfig
from downstream.eurosat_landcover_clsf_task.dataset import EurosatSplit
from downstream.eurosat_landcover_clsf_task.inference import predict_logits
from downstream.eurosat_landcover_clsf_task.transforms import get_view, training_view
from vicreg.augmentations.batch import normalize
from vicreg.common.devices import send
from vicreg.data.base import InputSpec
from vicreg.data.subsets import LabeledSubset
from vicreg.engine.config import RunPlan
from vicreg.engine.optim import build_optimizer
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder
from vicreg.eval.classification import per_class_metrics
from vicreg.models.heads import Classifier


def finetune(
    config: EurosatConfig,
    plan: RunPlan,
    folder: RunFolder,
    model: Classifier,
    split: EurosatSplit,
    spec: InputSpec,
    device: torch.device,
    record: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train all weights with the one-cycle schedule, or resume the run in the folder.

    The classifier is trained in place; ``record`` holds plain values for checkpoints.

    Returns:
        Validation metrics of the last and of the best epoch.

    Raises:
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    view = get_view(config.augment, config.aug_override)
    samples = LabeledSubset(split.train, torch.arange(len(split.train)), view, spec.size)

    def validate() -> dict[str, Any]:
        return per_class_metrics(predict_logits(model, split.val, spec, plan.bf16), split.val.labels, split.val.classes)

    optimizer = create_optimizer(config.optimizer, model, config.weight_decay)
    run = TrainingRun(
        config, plan, folder, model, optimizer, device, describe=lambda step: record, validate=validate, monitor="top1",
        info={"source": f"EuroSAT, {config.data_dir}", "image_size": spec.size},
    )  # fmt: skip
    for step, (images, labels) in run.steps(run.loader(samples, workers=0)):
        views = training_view(images, view, spec.size, seed=config.seed, step=step, device=device)
        labels = send(labels, device)
        with run.autocast():
            logits = run.model(normalize(views, spec.mean, spec.std)).float()
        loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        run.backward(loss)
        run.log({"loss": loss, "train_top1": (logits.argmax(1) == labels).float().mean()})
    return run.last, run.best


def create_optimizer(name: str, model: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Build Adam with L2 regularization of all weights, or an optimizer of ``vicreg.engine.optim.build_optimizer``."""
    if name != "adam":
        return build_optimizer(name, model, weight_decay)
    return torch.optim.Adam(model.parameters(), lr=0.0, weight_decay=weight_decay, fused=True)
