"""Image operations on whole batches, every sample with its own parameters.

Images are float tensors (n, C, H, W) in [0, 1]; C is any number of bands unless a function says RGB. Resized crops and
blur are matrix products along each axis, one call for the whole batch. On CPUs, views of more than ``_SMALL`` pixels
are resampled one by one and blurred by convolution instead, which takes fewer operations. Results equal those of
torchvision and PIL up to rounding.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from vicreg.common.devices import send

_compile = False  # see ``compile_operations``
_SMALL = 32  # side of a view up to which matrix products are faster on CPUs (benchmarks/bench_augment.py)
GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as in torchvision and PIL


def compile_operations(enable: bool = True) -> None:
    """Choose whether ``torch.compile`` fuses the operations on pixels: fewer and larger kernels for a GPU."""
    global _compile
    _compile = enable


def _fused(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let ``compile_operations`` choose between a function and its compiled version."""
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True))

    @functools.wraps(function)
    def call(*arguments: Any) -> torch.Tensor:
        return (compiled() if _compile else function)(*arguments)

    return call


def crop_resize(
    images: torch.Tensor,
    boxes: torch.Tensor,
    size: int,
    flip_horizontal: torch.Tensor | None = None,
    flip_vertical: torch.Tensor | None = None,
) -> torch.Tensor:
    """Crop one box from each image and resize it, antialiased bicubic (a = -0.5, as PIL).

    Args:
        images: Float tensor (n, C, H, W).
        boxes: Tensor (n, 4) of top, left, height, width in pixels, inside the image.
        size: Side of the result in pixels.
        flip_horizontal: Bool tensor (n,), or None for no flips.
        flip_vertical: Bool tensor (n,), or None for no flips.

    Returns:
        Float tensor (n, C, size, size), clipped to [0, 1].
    """
    if images.shape[-2:] == (size, size) and bool((boxes == boxes.new_tensor([0, 0, size, size])).all()):
        return _flip(_flip(images, flip_horizontal, 3), flip_vertical, 2).clamp(0, 1)  # cropped and resized before
    if images.device.type == "cpu" and size > _SMALL:
        return _crop_resize_each(images, boxes, size, flip_horizontal, flip_vertical)
    top, left, height, width = boxes.unbind(1)
    rows = _resampling_matrix(top, height, images.shape[2], size, flip_vertical, images)
    columns = _resampling_matrix(left, width, images.shape[3], size, flip_horizontal, images)
    return _along_both_axes(images, rows, columns).clamp_(0, 1)


def _crop_resize_each(
    images: torch.Tensor,
    boxes: torch.Tensor,
    size: int,
    flip_horizontal: torch.Tensor | None,
    flip_vertical: torch.Tensor | None,
) -> torch.Tensor:
    """Resample image by image; boxes are in whole pixels."""
    resized = images.new_empty(*images.shape[:2], size, size)
    flips = [mask.tolist() if mask is not None else [False] * len(images) for mask in (flip_horizontal, flip_vertical)]
    for index, (top, left, height, width) in enumerate(boxes.int().tolist()):
        box = images[index, None, :, top : top + height, left : left + width]
        view = torch.nn.functional.interpolate(box, (size, size), mode="bicubic", antialias=True)[0]
        axes = [axis for axis, flip in zip((2, 1), flips, strict=True) if flip[index]]
        resized[index] = view.flip(axes) if axes else view
    return resized.clamp_(0, 1)


def _flip(images: torch.Tensor, mask: torch.Tensor | None, axis: int) -> torch.Tensor:
    if mask is None:
        return images
    return torch.where(send(mask, images.device)[:, None, None, None], images.flip(axis), images)


def _resampling_matrix(
    start: torch.Tensor, length: torch.Tensor, pixels: int, size: int, flip: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor:
    """Return weights (n, size, pixels) that resample [start, start + length) of an axis to ``size`` pixels."""
    start, length = (send(values, like.device, like.dtype) for values in (start, length))
    weights = _bicubic_weights(start, length, pixels, size)
    if flip is not None:
        weights = torch.where(send(flip, like.device)[:, None, None], weights.flip(1), weights)
    return weights


@_fused
def _bicubic_weights(start: torch.Tensor, length: torch.Tensor, pixels: int, size: int) -> torch.Tensor:
    start, length = start[:, None, None], length[:, None, None]
    scale = length / size
    stretch = scale.clamp(min=1)  # a kernel wider than a pixel when shrinking: antialiasing
    centers = start + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(pixels, device=start.device)[None, None, :] + 0.5
    distance = ((positions - centers) / stretch).abs_()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = torch.where((positions > start) & (positions < start + length), weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def _along_both_axes(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Apply (n, h, H) to the rows and (n, w, W) to the columns of (n, C, H, W) -> (n, C, h, w)."""
    for matrix in (columns, rows):
        n, channels, height, width = images.shape
        images = torch.bmm(images.reshape(n, channels * height, width), matrix.transpose(1, 2))
        images = images.reshape(n, channels, height, -1).transpose(2, 3)
    return images.contiguous()


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel_size: int | None = None) -> torch.Tensor:
    """Blur each image with its own Gaussian, with reflected borders.

    Args:
        images: Float tensor (n, C, S, S).
        sigma: Standard deviation of each image's Gaussian in pixels, tensor (n,).
        kernel_size: Odd number of taps; None for four standard deviations of each image to each side.

    Returns:
        Float tensor (n, C, S, S).
    """
    side = images.shape[-1]
    radius = kernel_size // 2 if kernel_size else math.ceil(4 * float(sigma.max()))
    radius = min(radius, side - 1)  # reflect once only
    taps = torch.arange(-radius, radius + 1, device=images.device)
    sigma = send(sigma, images.device, images.dtype)[:, None]
    weights = torch.exp(-0.5 * (taps / sigma).square())
    if not kernel_size:  # the radius of the largest sigma must not change the other images
        weights = torch.where(taps.abs() <= (4 * sigma).ceil(), weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    if images.device.type == "cpu" and side > _SMALL:
        return _convolve_both_axes(images, weights, radius)
    placement = _tap_placement(radius, side, images.device, images.dtype)
    matrix = (weights @ placement.flatten(1)).reshape(-1, side, side)
    return _along_both_axes(images, matrix, matrix)


@functools.lru_cache(maxsize=16)
def _tap_placement(radius: int, side: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return which pixel each tap reads, as ones in (2 * radius + 1, side, side), with reflected borders."""
    source = (torch.arange(side)[None] + torch.arange(-radius, radius + 1)[:, None]).abs()
    source = torch.where(source > side - 1, 2 * (side - 1) - source, source)
    return torch.nn.functional.one_hot(source, side).to(device, dtype)


def _convolve_both_axes(images: torch.Tensor, weights: torch.Tensor, radius: int) -> torch.Tensor:
    """Convolve each image (n, C, S, S) with its weights (n, 2 * radius + 1) along both axes, with reflected borders."""
    n, channels, side, _ = images.shape
    kernels = weights.repeat_interleave(channels, 0)[:, None, None]  # each channel of each image is a group
    x = images.reshape(1, n * channels, side, side)
    for padding, kernel in (((radius, radius, 0, 0), kernels), ((0, 0, radius, radius), kernels.transpose(2, 3))):
        padded = torch.nn.functional.pad(x, padding, mode="reflect")
        x = torch.nn.functional.conv2d(padded, kernel, groups=n * channels)
    return x.reshape(n, channels, side, side)


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


@_fused
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


def rotate_quarters(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate square images (n, C, S, S) counterclockwise by ``turns`` (n,) times 90 degrees."""
    rotated = images.clone()
    for k in (1, 2, 3):
        rows = send((turns == k).nonzero()[:, 0], images.device)
        rotated[rows] = images[rows].rot90(k, (2, 3))
    return rotated


@_fused
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
