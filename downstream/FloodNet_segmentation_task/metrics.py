"""How good a segmentation is: IoU and Dice of each class from counts of pixels, and what no learning would reach."""

import numpy as np
import torch

from vicreg.inference.sliding_window import label_image


def confusion(truth, guess, classes):
    """Count pixels: int64 array (classes, classes), rows true, columns guessed, of two arrays of the same shape."""
    pairs = np.asarray(truth, np.int64).ravel() * classes + np.asarray(guess, np.int64).ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def figures(counts, names):
    """Figures of pixel counts.

    Args:
        counts: (classes, classes) of ``confusion``. names: of the classes.

    Returns:
        dict of plain values: ``iou`` and ``dice`` by class name (None for a class that is neither there nor guessed),
        ``mean_iou`` and ``mean_dice`` over the classes that are there, ``accuracy`` of the pixels. With two classes
        ``mean_iou`` and ``mean_dice`` are those of the second alone: the background is no merit.
    """
    hits, true, guessed = np.diag(counts), counts.sum(1), counts.sum(0)
    found = {"iou": (hits, true + guessed - hits), "dice": (2 * hits, true + guessed)}
    counted = [n for n in range(len(names)) if true[n] > 0]
    if len(names) == 2:
        counted = [1] if true[1] + guessed[1] else []
    out = {}
    for key, (over, under) in found.items():
        values = over / np.maximum(under, 1)
        out[key] = {name: round(float(values[n]), 6) if under[n] else None for n, name in enumerate(names)}
        out[f"mean_{key}"] = round(float(values[counted].mean()), 6) if counted else 0.0
    return {**out, "accuracy": round(float(hits.sum() / max(1, counts.sum())), 6)}


def constant_guess(train_pixels, counts, names):
    """Figures of guessing one class everywhere: the commonest one of the training masks, or, of two, the second.

    Args:
        train_pixels: (classes,) pixels of the training masks. counts: ``confusion`` of the validation; only its rows'
            sums count. names: of the classes.

    Returns:
        ``figures``, and the ``class`` that is guessed.
    """
    guess = 1 if len(names) == 2 else int(np.argmax(train_pixels))
    constant = np.zeros_like(counts)
    constant[:, guess] = counts.sum(1)
    return {"class": names[guess], **figures(constant, names)}


def class_pixels(copies, classes):
    """Pixels of each class in all masks: int64 array (classes,)."""
    return sum((np.bincount(copies.labels(n).ravel(), minlength=classes) for n in range(len(copies))), np.zeros(1, int))


@torch.no_grad()
def judge(predict, copies, names, side, overlap=0.5):
    """Judge a network on whole images, by overlapping windows.

    Args:
        predict: see ``window.label_blocks``. copies: ``WorkingCopies``. names: of the classes.
        side, overlap: of the windows.

    Returns:
        dict of ``figures``, with the ``confusion``.
    """
    counts = np.zeros((len(names), len(names)), np.int64)
    for index in range(len(copies)):
        guess = label_image(copies.image(index), predict, side, overlap)
        counts += confusion(copies.labels(index), guess, len(names))
    return {**figures(counts, names), "confusion": counts.tolist()}
