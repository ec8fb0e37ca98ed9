"""Image operations on whole batches, every sample with its own parameters.

Images are float tensors (n, C, H, W) in [0, 1]. Cropping with resize and blurring are matrix products along each
axis: exact, differentiable, free of custom kernels, and fast on GPUs and CPUs alike. Results are torchvision's and
PIL's to rounding; tests hold them to it.
"""

import math

import torch

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as in torchvision and PIL


def crop_resize(images, boxes, size, flip_horizontal=None, flip_vertical=None):
    """Cut one box from each image and resize it to size x size, antialiased bicubic (a = -0.5, as PIL).

    Args:
        images: (n, C, H, W). boxes: (n, 4) of top, left, height, width in pixels, inside the image.
        size: side of the result in pixels. flip_horizontal, flip_vertical: bool (n,) or None.

    Returns:
        (n, C, size, size), clipped to [0, 1].
    """
    if images.shape[-2:] == (size, size) and bool((boxes == boxes.new_tensor([0, 0, size, size])).all()):
        return _flip(_flip(images, flip_horizontal, 3), flip_vertical, 2).clamp(0, 1)  # cut and resized before
    top, left, height, width = boxes.unbind(1)
    rows = _resampling_matrix(top, height, images.shape[2], size, flip_vertical, images)
    columns = _resampling_matrix(left, width, images.shape[3], size, flip_horizontal, images)
    return _along_both_axes(images, rows, columns).clamp_(0, 1)


def _flip(images, which, axis):
    if which is None:
        return images
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(axis), images)


def _resampling_matrix(start, length, pixels, size, flip, like):
    """Weights (n, size, pixels) that turn one axis of each image into ``size`` samples of [start, start + length)."""
    start, length = start.to(like)[:, None, None], length.to(like)[:, None, None]
    scale = length / size
    stretch = scale.clamp(min=1)  # a kernel wider than a pixel when shrinking: antialiasing
    centers = start + (torch.arange(size, device=like.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(pixels, device=like.device)[None, None, :] + 0.5
    distance = ((positions - centers) / stretch).abs_()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = torch.where((positions > start) & (positions < start + length), weights, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    if flip is not None:
        weights = torch.where(flip.to(like.device)[:, None, None], weights.flip(1), weights)
    return weights


def _along_both_axes(images, rows, columns):
    """Apply (n, h, H) to the rows and (n, w, W) to the columns of (n, C, H, W) -> (n, C, h, w)."""
    for matrix in (columns, rows):
        n, channels, height, width = images.shape
        images = torch.bmm(images.reshape(n, channels * height, width), matrix.transpose(1, 2))
        images = images.reshape(n, channels, height, -1).transpose(2, 3)
    return images.contiguous()


def gaussian_blur(images, sigma, kernel_size=None):
    """Blur each image with its own Gaussian, borders reflected.

    Args:
        images: (n, C, S, S) square. sigma: (n,) in pixels.
        kernel_size: odd number of taps; None takes four of each image's own sigma to each side.

    Returns:
        (n, C, S, S).
    """
    side = images.shape[-1]
    radius = kernel_size // 2 if kernel_size else math.ceil(4 * float(sigma.max()))
    radius = min(radius, side - 1)  # reflection reaches one image, not two
    taps = torch.arange(-radius, radius + 1, device=images.device)
    sigma = sigma.to(images)[:, None]
    weights = torch.exp(-0.5 * (taps / sigma).square())
    if not kernel_size:  # the largest sigma's neighbors must not see it
        weights = torch.where(taps.abs() <= (4 * sigma).ceil(), weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    source = (torch.arange(side, device=images.device)[None] + taps[:, None]).abs()
    source = torch.where(source > side - 1, 2 * (side - 1) - source, source)
    placement = torch.nn.functional.one_hot(source, side).to(images)  # (taps, S, S): which pixel each tap reads
    matrix = (weights @ placement.flatten(1)).reshape(-1, side, side)
    return _along_both_axes(images, matrix, matrix)


def grayscale(images):
    """Luma of RGB images, (n, 3, H, W) -> (n, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]


def color_jitter(images, order, brightness, contrast, saturation, hue):
    """Brightness, contrast, saturation and hue of each image, in each image's own order.

    Args:
        images: (n, 3, H, W). order: int (n, 4), a permutation of 0 (brightness), 1 (contrast), 2 (saturation),
            3 (hue) in each row. brightness, contrast, saturation: factors (n,). hue: shift (n,) in turns, [-0.5, 0.5].

    Returns:
        (n, 3, H, W), clipped to [0, 1] after each step as torchvision does.
    """
    factors = torch.stack([brightness, contrast, saturation, torch.ones_like(hue)], 1).to(images)
    order = order.to("cpu")
    column = (-1, 1, 1, 1)
    for step in range(4):
        which = order[:, step]
        on_device = which.to(images.device)
        luma = grayscale(images)
        # brightness, contrast and saturation blend with black, the mean luma and the luma; hue leaves blends alone
        blend = torch.where((on_device == 1).view(column), luma.mean((2, 3), keepdim=True), luma)
        blend = torch.where((on_device == 0).view(column), 0.0, blend)
        factor = factors.gather(1, on_device[:, None]).view(column)
        images = torch.lerp(blend, images, factor).clamp_(0, 1)
        turned = (which == 3).nonzero()[:, 0].to(images.device)
        images[turned] = shift_hue(images[turned], hue.to(images)[turned])
    return images


def shift_hue(images, turns):
    """Turn the hue of RGB images (n, 3, H, W) by ``turns`` (n,) of the color circle, in HSV."""
    value, brightest = images.max(1)
    chroma = value - images.min(1).values
    red, green, blue = images.unbind(1)
    numerator = torch.where(brightest == 0, green - blue, torch.where(brightest == 1, blue - red, red - green))
    hue = numerator / chroma.clamp(min=1e-12) + 2 * brightest  # in sixths of the circle
    hue = hue + 6 * turns[:, None, None]
    channels = []
    for offset in (5, 3, 1):
        position = (offset + hue) % 6
        channels.append(value - chroma * torch.minimum(position, 4 - position).clamp_(0, 1))
    return torch.stack(channels, 1)


def solarize(images, threshold=0.5):
    """Invert every value at or above the threshold."""
    return torch.where(images >= threshold, 1 - images, images)
