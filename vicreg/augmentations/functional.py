"""Crops, blur and rotations of whole batches, every sample with its own parameters.

Images are float tensors (n, C, H, W) in [0, 1]; C is any number of bands. Resized crops and
blur are matrix products along each axis, one call for the whole batch. On CPUs, views of more than ``_SMALL`` pixels
are resampled one by one and blurred by convolution instead, which takes fewer operations. Results equal those of
torchvision and PIL up to rounding.
"""

import functools
import math

import torch

from vicreg.augmentations.fusion import fused
from vicreg.common.devices import send

_SMALL = 32  # side of a view up to which matrix products are faster on CPUs (benchmarks/bench_augment.py)


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


@fused
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


def rotate_quarters(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate square images (n, C, S, S) counterclockwise by ``turns`` (n,) times 90 degrees."""
    rotated = images.clone()
    for k in (1, 2, 3):
        rows = send((turns == k).nonzero()[:, 0], images.device)
        rotated[rows] = images[rows].rot90(k, (2, 3))
    return rotated
