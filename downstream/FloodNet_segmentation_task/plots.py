"""Plots of segmentations: colors over an image, and rows of image, ground truth and prediction, with a legend."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from downstream.FloodNet_segmentation_task.segmentation_folder import Classes
from vicreg.common import files, plots

_OPACITY = 0.55  # of the colors over an image


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend the classes' colors into an image, except for the background.

    Args:
        image: uint8 array (3, height, width).
        labels: uint8 array (height, width); values beyond the classes are left out.
        colors: uint8 array (classes, 3).

    Returns:
        uint8 array (height, width, 3).
    """
    base = image.transpose(1, 2, 0).astype(np.float32)
    known = (labels > 0) & (labels < len(colors))
    mixed = base.copy()
    mixed[known] += _OPACITY * (colors[labels[known]] - base[known])
    return mixed.round().astype(np.uint8)


def save_overlay(path: Path, image: np.ndarray, labels: np.ndarray, classes: Classes, title: str) -> None:
    """Write an image with the classes over it, and a legend with the fraction of each class, as a PNG."""
    height, width = labels.shape
    fig, axes = plots.new_figure(1, 1, (8.5, 6.2 * height / width + 1.2))
    _show(axes[0, 0], overlay(image, labels, classes.palette), title)
    count = len(classes.names)
    fractions = np.bincount(labels[labels < count].ravel(), minlength=count) / max(1, labels.size)
    _add_legend(fig, classes, [n for n in range(count) if fractions[n] > 0], fractions)
    files.atomic_write(path, fig.savefig)


def save_examples(
    path: Path, rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], classes: Classes, title: str
) -> None:
    """Write a PNG with one example per row: image, ground truth, prediction.

    Args:
        path: File to write.
        rows: (name, image, truth, prediction): uint8 arrays (3, H, W), (H, W) and (H, W).
        classes: Classes.
        title: Title of the figure.
    """
    fig, axes = plots.new_figure(len(rows), 3, (10.5, 2.75 * len(rows) + 1.1))
    colors = classes.palette
    for axis, (name, image, truth, predicted) in zip(axes, rows, strict=True):
        _show(axis[0], image.transpose(1, 2, 0), name)
        _show(axis[1], colors[truth], "ground truth")
        _show(axis[2], colors[predicted], f"prediction, {(truth == predicted).mean():.0%} of the pixels correct")
    _add_legend(fig, classes, range(len(classes.names)))
    fig.suptitle(plots.literal(title), fontsize=9)
    files.atomic_write(path, fig.savefig)


def _show(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(plots.literal(title), fontsize=8)


def _add_legend(fig: Any, classes: Classes, present: Iterable[int], fractions: np.ndarray | None = None) -> None:
    from matplotlib.patches import Patch

    names, colors = [plots.literal(name) for name in classes.names], classes.palette / 255
    patches = [
        Patch(color=colors[n], label=names[n] if fractions is None else f"{names[n]} {fractions[n]:.1%}")
        for n in present
    ]
    fig.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
