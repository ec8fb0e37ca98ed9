"""Size of random crops, shared by the augmentation of batches and by crops of image files."""

import math

import torch

from vicreg.augmentations.presets import Augmentation

MAX_TRIES = 10  # as in torchvision


def log_aspect_range(view: Augmentation) -> tuple[float, float]:
    """Return the range of log(width / height), in which random crops are uniform."""
    return math.log(view.ratio[0]), math.log(view.ratio[1])


def square_crop_side(view: Augmentation, height: int, width: int) -> int:
    """Return the side of the crops "fixed" and "center" in pixels."""
    return max(1, round(view.fraction * min(height, width)))


def resized_crop_size(
    view: Augmentation, height: int, width: int, fraction: torch.Tensor, log_aspect: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the size of "resized" crops by the rule of torchvision's ``RandomResizedCrop``.

    The first try that fits into the image is taken. If none fits, the crop is the largest one in the center whose
    aspect ratio is within ``view.ratio``.

    Args:
        view: Augmentation.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        fraction: Float tensor (n, tries), fraction of the image's area, uniform in ``view.scale``.
        log_aspect: Float tensor (n, tries), uniform in ``log_aspect_range``.

    Returns:
        Heights and widths in whole pixels as float tensors (n,), and a bool tensor (n,): True for the crop in the
        center that is taken if no try fits.
    """
    area, aspect = height * width * fraction, torch.exp(log_aspect)
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first, none_fits = fits.to(torch.uint8).argmax(1, keepdim=True), ~fits.any(1)
    low, high = view.ratio
    largest_height = float(max(1, min(height, round(width / low))))
    largest_width = float(max(1, min(width, round(height * high))))
    heights = torch.where(none_fits, largest_height, heights.gather(1, first)[:, 0])
    widths = torch.where(none_fits, largest_width, widths.gather(1, first)[:, 0])
    return heights, widths, none_fits
