"""Sample augmentation parameters for a batch and apply them."""

import math

import numpy as np
import torch

from vicreg import distributed
from vicreg.augmentations.functional import color_jitter, crop_resize, gaussian_blur, grayscale, solarize


def step_generator(*counters):
    """A CPU generator whose numbers depend on the counters alone, such as (seed, step, view)."""
    seed = np.random.SeedSequence(counters).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed & np.uint64(2**63 - 1)))


def sample_params(view, count, height, width, generator):
    """Draw the parameters of one view for a batch.

    Args:
        view: the regime's numbers. count: samples. height, width: of the source images, pixels.
        generator: CPU generator.

    Returns:
        dict of CPU tensors with ``count`` rows each; take rows by slicing every tensor.
    """

    def uniform(low, high, *shape):
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    brightness, contrast, saturation, hue = view.jitter
    return {
        "boxes": _draw_boxes(view, count, height, width, uniform),
        "flip": uniform(0, 1) < view.flip,
        "vertical_flip": uniform(0, 1) < view.vertical_flip,
        "jittered": uniform(0, 1) < view.jitter_p,
        "order": uniform(0, 1, 4).argsort(1),
        "brightness": uniform(max(0, 1 - brightness), 1 + brightness),
        "contrast": uniform(max(0, 1 - contrast), 1 + contrast),
        "saturation": uniform(max(0, 1 - saturation), 1 + saturation),
        "hue": uniform(-hue, hue),
        "gray": uniform(0, 1) < view.gray_p,
        "blurred": uniform(0, 1) < view.blur_p,
        "sigma": uniform(*view.blur_sigma),
        "solarized": uniform(0, 1) < view.solarize_p,
    }


def _draw_boxes(view, count, height, width, uniform, tries=10):
    """Crop boxes (count, 4) of top, left, height, width, whole pixels."""
    if view.crop == "resized":
        # as torchvision's RandomResizedCrop: up to ten tries, the first that fits, else the whole image
        area = height * width * uniform(*view.scale, tries)
        aspect = torch.exp(uniform(math.log(view.ratio[0]), math.log(view.ratio[1]), tries))
        heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
        fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)
        box_height = torch.where(fits.any(1), heights.gather(1, first)[:, 0], float(height))
        box_width = torch.where(fits.any(1), widths.gather(1, first)[:, 0], float(width))
    else:
        side = max(1, round(view.fraction * min(height, width)))
        box_height = box_width = torch.full((count,), float(side))
    if view.crop == "center":
        top, left = ((height - box_height) / 2).floor(), ((width - box_width) / 2).floor()
    else:
        top = (uniform(0, 1) * (height - box_height + 1)).floor()
        left = (uniform(0, 1) * (width - box_width + 1)).floor()
    return torch.stack([top, left, box_height, box_width], 1)


def apply(images, parameters, size, blur_kernel=0):
    """Make one view of a batch.

    Args:
        images: uint8 (n, C, H, W) on any device. parameters: from ``sample_params``, n rows.
        size: side of the view in pixels. blur_kernel: taps; 0 is the whole Gaussian.

    Returns:
        float32 (n, C, size, size) in [0, 1] on the images' device. Color operations need C = 3; with other channel
        counts only the geometry and the blur apply.
    """
    p = parameters
    x = crop_resize(images.float() / 255, p["boxes"], size, p["flip"], p["vertical_flip"])

    def change(mask, operation):
        rows = p[mask].nonzero()[:, 0]
        if len(rows):
            on_device = rows.to(x.device)
            x[on_device] = operation(x[on_device], rows)

    if x.shape[1] == 3:
        amounts = [p[key] for key in ("order", "brightness", "contrast", "saturation", "hue")]
        change("jittered", lambda part, rows: color_jitter(part, *(amount[rows] for amount in amounts)))
        change("gray", lambda part, rows: grayscale(part).expand_as(part))
    change("blurred", lambda part, rows: gaussian_blur(part, p["sigma"][rows], blur_kernel or None))
    if x.shape[1] == 3:
        change("solarized", lambda part, rows: solarize(part))
    return x


def normalize(images, mean, std):
    """(images - mean) / std per channel; mean and std are lists in units of [0, 1] pixels."""
    mean = torch.as_tensor(mean, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.as_tensor(std, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - mean) / std


def augment_batch(images, view, number, plan, seed, step, device, part=0, parts=1):
    """One view of this process's share of a step's batch.

    Args:
        images: uint8 (n, C, H, W), this process's. view: a ``View``. number: which of the step's views this is.
        plan: dict of ``batch_size`` (of all processes), ``share`` (of this one) and ``image_size`` (pixels).
        seed, step: what is counted. part, parts: which of how many micro-batches.

    Returns:
        float tensor (n, C, S, S) in [0, 1] on the device.
    """
    begin, end = (plan["share"] * count // parts for count in (part, part + 1))
    mine = slice(distributed.rank() * plan["share"] + begin, distributed.rank() * plan["share"] + end)
    random = step_generator(seed, step, number)
    numbers = sample_params(view, plan["batch_size"], *images.shape[-2:], random)
    numbers = {key: value[mine] for key, value in numbers.items()}
    images = images[begin:end].to(device, non_blocking=True)
    return apply(images, numbers, plan["image_size"], view.blur_kernel)


def augment_pair(first, second, views, plan, seed, step, device, part=0, parts=1):
    """The two views of one step: as ``augment_batch``, of two batches of images and the regime's two ``View``s."""
    pairs = enumerate(zip((first, second), views, strict=True))
    return [augment_batch(images, view, n, plan, seed, step, device, part, parts) for n, (images, view) in pairs]


def seed_step(seed, step, part=0):
    """Settle what a network draws (dropout, stochastic depth) in one forward pass."""
    torch.manual_seed(step_generator(seed, step, distributed.rank(), part).initial_seed())
