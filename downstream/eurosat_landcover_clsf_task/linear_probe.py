"""Train a linear head on the features of a frozen backbone, which are extracted once."""

from typing import Any

import torch

from downstream.eurosat_landcover_clsf_task.config import EurosatConfig
from downstream.eurosat_landcover_clsf_task.dataset import EurosatSplit
from downstream.eurosat_landcover_clsf_task.inference import extract, predict_logits
from downstream.eurosat_landcover_clsf_task.transforms import TURNS
from vicreg.common.config import to_dict
from vicreg.common.logger import MetricLogger, log
from vicreg.common.random_streams import torch_rng
from vicreg.data.base import InputSpec
from vicreg.engine import checkpoint, parallel
from vicreg.engine.config import RunPlan
from vicreg.engine.run_folder import RunFolder
from vicreg.eval.classification import per_class_metrics
from vicreg.eval.features import check_features
from vicreg.eval.knn import knn_predict
from vicreg.eval.linear_probe import fit_linear_probe
from vicreg.eval.metrics import accuracy
from vicreg.models.heads import Classifier

NEIGHBORS = 20


def probe(
    config: EurosatConfig,
    plan: RunPlan,
    folder: RunFolder,
    model: Classifier,
    split: EurosatSplit,
    spec: InputSpec,
    device: torch.device,
    record: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Train the head of a frozen classifier, unless the run in the folder did; evaluate it, and kNN.

    This takes minutes, so a run that is interrupted starts over, and ends with the same head. ``record`` holds plain
    values for checkpoints.

    Returns:
        Validation metrics, twice (as last and as best epoch), and plain values for the result: the learning rate and
        the accuracies of kNN.

    Raises:
        ValueError: There is nothing to hold out, or the head diverged.
    """
    parallel.to_device(model, device)
    folder.record_start()
    if saved := folder.checkpoint:
        model.load_state_dict(checkpoint.strip_module_prefix(saved["model"]))
        log(f"{folder.path} holds a finished run; nothing left to do")
        return saved["last"], saved["best"], saved["more"]
    folder.write_config(config, plan, {"source": f"EuroSAT, {config.data_dir}", "image_size": spec.size})
    lr, extracted = fit_head(config, model, split, spec, plan.bf16)
    metrics = per_class_metrics(predict_logits(model, split.val, spec, plan.bf16), split.val.labels, split.val.classes)
    last = {"epoch": config.epochs - 1, "step": plan.steps, **metrics}
    queries = extract(model.backbone, split.val, spec, plan.bf16)
    ranked = knn_predict(extracted, split.train.labels.to(device), queries, len(split.train.classes), NEIGHBORS).cpu()
    scores = accuracy(ranked, split.val.labels)
    more = {"lr_head": lr} | {f"knn{NEIGHBORS}_{name}": round(value, 6) for name, value in scores.items()}
    logger = MetricLogger(folder.path, tracker=config.tracker, config=to_dict(config))
    logger.write({key: value for key, value in (last | more).items() if isinstance(value, (int, float))})
    logger.close()
    payload = {"model": checkpoint.add_module_prefix(model), "kind": folder.kind, "config": to_dict(config)}
    payload |= {"batch_size": plan.batch_size, "step": plan.steps, "steps": plan.steps, "last": last, "best": last}
    payload |= record
    folder.save_best(payload)
    folder.save({**payload, "more": more})
    return last, last, more


def fit_head(
    config: EurosatConfig, model: Classifier, split: EurosatSplit, spec: InputSpec, bf16: bool
) -> tuple[float, torch.Tensor]:
    """Train the head of a frozen classifier, with a learning rate selected on held-out training samples.

    Returns:
        The learning rate, and the features (n, F) of the unchanged training scenes.

    Raises:
        ValueError: There is nothing to hold out, or the head diverged.
    """
    train = split.train
    extracted = [extract(model.backbone, train, spec, bf16)]
    check_features(extracted[0], str(config.pretrained))
    for number in range(1, config.views):
        generator = torch_rng(config.seed, "training_views", number)
        extracted.append(extract(model.backbone, train.rotated(number), spec, bf16, TURNS, generator))
    fit = fit_linear_probe(
        torch.stack(extracted), train.labels, None, len(train.classes), config.lr_head,
        epochs=config.epochs * config.views, batch_size=config.batch_size, weight_decay=config.weight_decay,
        seed=config.seed,
    )  # fmt: skip
    if fit.scores:
        shown = "  ".join(f"{lr:g}: {score:.4f}" for lr, score in zip(fit.sweep.lrs, fit.scores, strict=True))
        log(f"top-1 on held-out training samples by learning rate\n  {shown}\nlearning rate {fit.lr:g}")
    with torch.no_grad():
        for parameter, value in zip(model.heads.parameters(), fit.head.parameters(), strict=True):
            parameter.copy_(value)
    return fit.lr, extracted[0]
