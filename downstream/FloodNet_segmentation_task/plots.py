"""Pictures of segmentations: colors over an image, and rows of image, truth and prediction, with a legend."""

import numpy as np

from downstream.FloodNet_segmentation_task.floodnet import palette
from vicreg.common import files, plots

_STRENGTH = 0.55  # of the colors over an image


def overlay(image, labels, classes):
    """Lay the classes' colors over an image; the background shows through.

    Args:
        image: uint8 (3, height, width). labels: uint8 (height, width); values beyond the classes are left out.
        classes: names.

    Returns:
        uint8 array (height, width, 3).
    """
    base = image.transpose(1, 2, 0).astype(np.float32)
    known = (labels > 0) & (labels < len(classes))
    mixed = base.copy()
    mixed[known] += _STRENGTH * (palette(classes)[labels[known]] - base[known])
    return mixed.round().astype(np.uint8)


def save_overlay(path, image, labels, classes, title):
    """Write an image with the classes over it and their legend, with shares of the pixels, as a PNG."""
    height, width = labels.shape
    figure, axes = plots.new_figure(1, 1, (8.5, 6.2 * height / width + 1.2))
    _show(axes[0, 0], overlay(image, labels, classes), title)
    shares = np.bincount(labels[labels < len(classes)].ravel(), minlength=len(classes)) / max(1, labels.size)
    _legend(figure, classes, [n for n in range(len(classes)) if shares[n] > 0], shares)
    files.atomic_write(path, figure.savefig)


def save_examples(path, rows, classes, title):
    """Write examples, one a row: image, truth, prediction, as a PNG.

    Args:
        path: where. rows: list of (name, image, truth, prediction): uint8 (3, H, W) and twice (H, W). classes: names.
        title: above it.
    """
    figure, axes = plots.new_figure(len(rows), 3, (10.5, 2.75 * len(rows) + 1.1))
    colors = palette(classes)
    for axis, (name, image, truth, guess) in zip(axes, rows, strict=True):
        right = (truth == guess).mean()
        _show(axis[0], image.transpose(1, 2, 0), name)
        _show(axis[1], colors[truth], "truth")
        _show(axis[2], colors[guess], f"prediction, {right:.0%} of the pixels right")
    _legend(figure, classes, range(len(classes)))
    figure.suptitle(title, fontsize=9)
    files.atomic_write(path, figure.savefig)


def _show(axis, picture, title):
    axis.imshow(picture, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)


def _legend(figure, classes, present, shares=None):
    from matplotlib.patches import Patch

    colors = palette(classes) / 255
    words = [classes[n] if shares is None else f"{classes[n]} {shares[n]:.1%}" for n in present]
    patches = [Patch(color=colors[n], label=word) for n, word in zip(present, words, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
