"""Size of random crops, shared by the augmentation of batches and by crops of image files."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from vicreg.augmentations.presets import Augmentation

MAX_TRIES = 10  # as in torchvision


def log_aspect_range(view: Augmentation) -> tuple[float, float]:
    """Return the range of log(width / height), in which random crops are uniform."""
    return math.log(view.ratio[0]), math.log(view.ratio[1])


def square_crop_side(view: Augmentation, height: int, width: int) -> int:
    """Return the side of the crops "fixed" and "center" in pixels."""
    return max(1, round(view.fraction * min(height, width)))


def resized_crop_size(view: Augmentation, height: int, width: int, tries: Iterable[tuple[Any, Any]]) -> tuple[Any, ...]:
    """Choose the size of "resized" crops by the rule of torchvision's ``RandomResizedCrop``.

    The first try that fits into the image is taken. If none fits, the crop is the largest one in the center whose
    aspect ratio is within ``view.ratio``.

    Args:
        view: Augmentation.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        tries: Up to ``MAX_TRIES`` pairs of numbers or arrays (n,): fraction of the image's area, uniform in
            ``view.scale``, and width / height, whose logarithm is uniform in ``log_aspect_range``. They are read
            until every crop has a size.

    Returns:
        Heights and widths in whole pixels, and True for the crop in the center that is taken if no try fits: arrays
        (n,), or without axes for numbers.
    """
    low, high = view.ratio
    heights: Any = max(1.0, min(height, round(width / low)))
    widths: Any = max(1.0, min(width, round(height * high)))
    missed: Any = True
    for fraction, aspect in tries:
        area = height * width * fraction
        h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
        take = missed & (h > 0) & (h <= height) & (w > 0) & (w <= width)
        heights, widths, missed = np.where(take, h, heights), np.where(take, w, widths), missed & ~take
        if not missed.any():
            break
    return heights, widths, missed
