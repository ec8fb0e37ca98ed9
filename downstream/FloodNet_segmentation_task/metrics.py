"""Metrics of a segmentation: IoU and Dice of each class from pixel counts, and those of a constant prediction."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs
from vicreg.common.random_streams import rng
from vicreg.eval.metrics import RESAMPLES
from vicreg.inference.sliding_window import label_image


def confusion(truth: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """Count pixels of two label arrays of one shape: int64 (num_classes, num_classes), rows true, columns predicted."""
    pairs = np.asarray(truth, np.int64).ravel() * num_classes + np.asarray(predicted, np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def segmentation_metrics(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute metrics from pixel counts.

    Args:
        counts: (classes, classes) of ``confusion``.
        classes: Class names.

    Returns:
        Plain values: ``iou`` and ``dice`` by class name (None for a class that occurs neither in the masks nor in the
        predictions), ``mean_iou`` and ``mean_dice`` over the classes that occur in the masks, and pixel ``accuracy``.
        With two classes ``mean_iou`` and ``mean_dice`` are those of the second class alone, without the background
        (None if it occurs neither in the masks nor in the predictions).
    """
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    fractions = {"iou": (hits, true + predicted - hits), "dice": (2 * hits, true + predicted)}
    averaged = [n for n in range(len(classes)) if true[n] > 0]
    if len(classes) == 2:
        averaged = [1] if true[1] + predicted[1] else []
    metrics: dict[str, Any] = {}
    for key, (numerator, denominator) in fractions.items():
        values = numerator / np.maximum(denominator, 1)
        metrics[key] = {name: round(float(values[n]), 6) if denominator[n] else None for n, name in enumerate(classes)}
        metrics[f"mean_{key}"] = round(float(values[averaged].mean()), 6) if averaged else None
    return {**metrics, "accuracy": round(float(hits.sum() / max(1, counts.sum())), 6)}


def constant_prediction_metrics(train_pixels: np.ndarray, counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute the metrics of predicting one class everywhere: the most frequent one, or of two classes the second.

    Args:
        train_pixels: (classes,) pixels of the training masks.
        counts: ``confusion`` of the validation images; only the sums of its rows count.
        classes: Class names.

    Returns:
        ``segmentation_metrics``, and the predicted ``class``.
    """
    predicted = 1 if len(classes) == 2 else int(np.argmax(train_pixels))
    constant = np.zeros_like(counts)
    constant[:, predicted] = counts.sum(1)
    return {"class": classes[predicted], **segmentation_metrics(constant, classes)}


def count_class_pixels(pairs: CachedPairs, num_classes: int) -> np.ndarray:
    """Count the pixels of each class in all masks: int64 array (num_classes,)."""
    counts = (np.bincount(pairs.labels(n).ravel(), minlength=num_classes) for n in range(len(pairs)))
    return sum(counts, np.zeros(num_classes, int))


def evaluate_segmentation(
    predict: Callable[[torch.Tensor], torch.Tensor],
    pairs: CachedPairs,
    classes: Sequence[str],
    side: int,
    overlap: float = 0.5,
) -> dict[str, Any]:
    """Evaluate a network on whole images; for the arguments see ``vicreg.inference.sliding_window.label_blocks``.

    Returns:
        ``segmentation_metrics``, the ``confusion`` counts, and ``image_confusion``, those of each image.
    """
    counts = []
    for index in range(len(pairs)):
        predicted = label_image(pairs.image(index), predict, side, overlap)
        counts.append(confusion(pairs.labels(index), predicted, len(classes)))
    total = np.sum(counts, axis=0)
    result = {**segmentation_metrics(total, classes), "confusion": total.tolist()}
    return result | {"image_confusion": np.stack(counts).tolist()}


def with_intervals(result: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Replace ``image_confusion`` in a result of ``evaluate_segmentation`` by ``bootstrap_intervals``.

    Results in the checkpoints of earlier versions have the intervals already.
    """
    if "image_confusion" not in result:
        return result
    rest = {key: value for key, value in result.items() if key != "image_confusion"}
    return rest | bootstrap_intervals(np.array(result["image_confusion"]), classes)


def bootstrap_intervals(counts: np.ndarray, classes: Sequence[str], resamples: int = RESAMPLES) -> dict[str, Any]:
    """Compute 95 % bootstrap intervals of metrics over whole images.

    Args:
        counts: ``confusion`` of each image (n, classes, classes).
        classes: Class names.
        resamples: Number of resamples.

    Returns:
        ``intervals`` (name to [lower, upper], empty for a single image) and ``intervals_of``: what was resampled.
        Resamples whose metric is undefined do not count; a metric that is undefined for all images has no interval.
    """
    if len(counts) < 2:
        return {"intervals": {}, "intervals_of": "none: one image"}
    drawn = rng(0, "bootstrap").multinomial(len(counts), np.full(len(counts), 1 / len(counts)), resamples)
    totals = (drawn @ counts.reshape(len(counts), -1)).reshape(resamples, *counts.shape[1:])
    resampled = [segmentation_metrics(total, classes) for total in totals]
    whole = segmentation_metrics(counts.sum(0), classes)
    names = [name for name in ("mean_iou", "mean_dice", "accuracy") if whole[name] is not None]
    values = np.array([[metrics[name] for name in names] for metrics in resampled], float)  # None becomes NaN
    ends = np.nanquantile(values, [0.025, 0.975], axis=0)
    description = f"95 % bootstrap, {resamples} resamples of {len(counts)} whole images"
    return {"intervals": dict(zip(names, ends.T.round(6).tolist(), strict=True)), "intervals_of": description}
