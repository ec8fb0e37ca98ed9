"""Changes of color of whole batches, every sample with its own parameters.

Images are float tensors (n, C, H, W) in [0, 1]; C is any number of bands unless a function says RGB. Results equal
those of torchvision up to rounding.
"""

import torch

from vicreg.augmentations.fusion import fused
from vicreg.common.devices import send

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as in torchvision and PIL


def grayscale(images: torch.Tensor) -> torch.Tensor:
    """Return the luma of RGB images, (n, 3, H, W) -> (n, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]


def color_jitter(
    images: torch.Tensor,
    order: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue of each image, in each image's own order.

    Args:
        images: Float tensor (n, 3, H, W).
        order: Integer tensor (n, 4), each row a permutation of 0 (brightness), 1 (contrast), 2 (saturation), 3 (hue).
        brightness: Factors (n,).
        contrast: Factors (n,).
        saturation: Factors (n,).
        hue: Shifts (n,) as a fraction of the color circle, in [-0.5, 0.5].

    Returns:
        Float tensor (n, 3, H, W), clipped to [0, 1] after each operation as in torchvision.
    """
    factors = torch.stack([brightness, contrast, saturation, torch.ones_like(hue)], 1)
    factors, hue = (send(values, images.device, images.dtype) for values in (factors, hue))
    order = order.to("cpu")
    order_on_device = send(order, images.device)
    for step in range(4):
        images = _blend(images, order_on_device[:, step], factors)
        rows = send((order[:, step] == 3).nonzero()[:, 0], images.device)
        images[rows] = shift_hue(images[rows], hue[rows])
    return images


@fused
def _blend(images: torch.Tensor, operation: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Apply one operation of each image, of 0 to 3 as in ``color_jitter``, with its factor in (n, 4)."""
    column = (-1, 1, 1, 1)
    luma = grayscale(images)
    # Brightness, contrast and saturation blend with black, the mean luma and the luma; hue does not blend.
    blend = torch.where((operation == 1).view(column), luma.mean((2, 3), keepdim=True), luma)
    blend = torch.where((operation == 0).view(column), 0.0, blend)
    factor = factors.gather(1, operation[:, None]).view(column)
    return torch.lerp(blend, images, factor).clamp_(0, 1)


def brightness_contrast(
    images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, contrast_first: torch.Tensor
) -> torch.Tensor:
    """Change brightness and contrast of each band, as torchvision does for grayscale images.

    Args:
        images: Float tensor (n, C, H, W).
        brightness: Factors (n, C), or (n, 1) for all bands.
        contrast: Factors (n, C) or (n, 1); a band is blended with its own mean.
        contrast_first: Bool tensor (n,), whether contrast changes before brightness.

    Returns:
        Float tensor (n, C, H, W), clipped to [0, 1] after each operation.
    """
    brightness, contrast = (
        send(factor, images.device, images.dtype)[:, :, None, None] for factor in (brightness, contrast)
    )
    first = send(contrast_first, images.device)[:, None, None, None]
    for change_contrast in (first, ~first):
        blend = torch.where(change_contrast, images.mean((2, 3), keepdim=True), 0.0)
        images = torch.lerp(blend, images, torch.where(change_contrast, contrast, brightness)).clamp_(0, 1)
    return images


@fused
def shift_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shift the hue of RGB images (n, 3, H, W) by a fraction ``shift`` (n,) of the color circle, in HSV."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    numerator = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    hue = numerator.div_(chroma.clamp(min=1e-12))  # in sixths of the circle
    hue += torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0)) + 6 * shift[:, None, None]
    hue -= 6 * (hue / 6).floor_()  # in [0, 6]; faster than the remainder
    shifted = torch.empty_like(images)
    # How much of the chroma each channel lacks, from 1 to 0: piecewise linear around the channel's own hue.
    for channel, (center, slope, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        lack = (hue - center).abs_().mul_(slope).add_(offset).clamp_(0, 1).sub_(1)
        if torch.compiler.is_compiling():  # which splits a function at an ``out`` that is a view
            shifted[:, channel] = torch.addcmul(value, chroma, lack)
        else:
            torch.addcmul(value, chroma, lack, out=shifted[:, channel])
    return shifted


def solarize(images: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Invert all values at or above a threshold."""
    return torch.where(images >= threshold, 1 - images, images)
