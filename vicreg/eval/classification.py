"""Metrics of a classifier on a validation set: accuracies, per-class recall and the confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from vicreg import distributed
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.eval import features, metrics
from vicreg.models.heads import Classifier

MAX_CLASSES = 100  # of a confusion matrix in a result


def evaluate_classifier(
    model: Classifier, dataset: LabeledDataset, spec: InputSpec, device: torch.device
) -> dict[str, Any]:
    """Evaluate a classifier on the center crop of every sample; the processes share the work.

    Returns:
        dict of ``classification_metrics``, and ``ranked`` as a list, for ``prediction_details``.
    """
    logits = predict_logits(model, dataset, spec, device)
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    return classification_metrics(ranked, dataset.labels.cpu(), dataset.classes) | {"ranked": ranked.tolist()}


@torch.no_grad()
def predict_logits(model: Classifier, dataset: LabeledDataset, spec: InputSpec, device: torch.device) -> torch.Tensor:
    """Compute the logits of a classifier for the center crop of every sample: float32 (n, classes)."""
    distributed.broadcast_buffers(model.backbone)
    extracted = features.extract_features(model.backbone, dataset, spec, device)
    return torch.cat([model.heads(part) for part in extracted.split(4096)])


def classification_metrics(ranked: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Compute the metrics of a ranking of classes.

    Args:
        ranked: int64 (n, k), the likeliest class first.
        labels: int64 (n,).
        classes: Class names.

    Returns:
        dict of plain values: ``top1``, ``top5``, ``balanced_accuracy`` (mean recall of the classes with samples),
        ``recall`` (by class name; None without samples) and ``confusion`` (rows: true, columns: predicted).
    """
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, ranked[:, 0], labels=range(len(classes)))
    support = confusion.sum(1)
    recall = confusion.diagonal() / support.clip(1)
    rows = zip(classes, recall.tolist(), support, strict=True)
    return {
        **{name: round(value, 6) for name, value in metrics.accuracy(ranked, labels).items()},
        "balanced_accuracy": round(float(recall[support > 0].mean()), 6),
        "recall": {name: round(value, 6) if count else None for name, value, count in rows},
        "confusion": confusion.tolist(),
    }


def prediction_details(
    ranked: torch.Tensor, correct: Mapping[str, np.ndarray], dataset: LabeledDataset
) -> dict[str, Any]:
    """Describe predictions beyond their accuracy.

    Args:
        ranked: int64 (n, k), the likeliest class first; -1 for no class.
        correct: Which samples were correct, by metric; see ``vicreg.eval.metrics.hits``.
        dataset: The n samples.

    Returns:
        dict of plain values: ``intervals`` and ``intervals_of`` (see ``vicreg.eval.metrics.intervals``), ``confusion``
        with ``class_names`` (up to 100 classes), and for data with coordinates ``locations``: name, position, number
        of samples and top-1 accuracy of each.
    """
    details = metrics.intervals(correct, dataset.location_ids)
    count, truth, predicted = len(dataset.classes), dataset.labels.cpu().numpy(), ranked[:, 0].cpu().numpy()
    if count <= MAX_CLASSES:
        known = predicted >= 0
        pairs = truth[known] * count + predicted[known]
        details["confusion"] = np.bincount(pairs, minlength=count * count).reshape(count, count).tolist()
        details["class_names"] = list(dataset.classes)
    info = dataset.sample_info(range(len(dataset)))
    if "longitude" in info:
        table = pd.DataFrame({name: info[name] for name in ("location", "longitude", "latitude")})
        groups = table.assign(top1=correct["top1"], samples=1).dropna().groupby(list(table.columns))
        places = groups.agg({"samples": "sum", "top1": "mean"}).round(4).reset_index()
        details["locations"] = places.to_dict("records")
    return details


def per_class_metrics(logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Compute the metrics of logits or probabilities, also by class.

    Args:
        logits: Float (n, classes).
        labels: int64 (n,).
        classes: Class names.

    Returns:
        dict of ``classification_metrics``, ``per_class`` (precision, recall, F1 and support by class name) and
        ``macro_f1`` (mean F1 of the classes that occur in the labels or the predictions, as in scikit-learn).
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    columns = precision_recall_fscore_support(labels, ranked[:, 0], labels=range(len(classes)), zero_division=0.0)
    result = classification_metrics(ranked, labels, classes)
    result["per_class"] = {
        name: {"precision": round(p, 6), "recall": round(r, 6), "f1": round(f, 6), "support": int(n)}
        for name, p, r, f, n in zip(classes, *(column.tolist() for column in columns), strict=True)
    }
    result["macro_f1"] = round(float(f1_score(labels, ranked[:, 0], average="macro", zero_division=0.0)), 6)
    return result


def per_class_table(per_class: dict[str, dict[str, Any]]) -> str:
    """Format precision, recall, F1 and support of each class as columns of text."""
    width = max(len("class"), *map(len, per_class))
    lines = [f"{'class':{width}}  precision  recall      F1  samples"]
    for name, row in per_class.items():
        lines.append(
            f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    return "\n".join(lines)
