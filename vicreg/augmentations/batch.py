"""Augment a batch: sample the parameters of every image, then apply them on the device that trains.

Parameters are sampled on the CPU for the batch of all processes from ``(seed, step, view)``, and each process takes
its own rows. The views therefore do not depend on the device, on the number of processes, or on earlier steps.
"""

import functools
from collections.abc import Callable, Sequence

import torch

from vicreg import distributed
from vicreg.augmentations.color import brightness_contrast, color_jitter, grayscale, solarize
from vicreg.augmentations.functional import crop_resize, gaussian_blur, rotate_quarters
from vicreg.augmentations.presets import Augmentation
from vicreg.augmentations.random_crop import MAX_TRIES, log_aspect_range, resized_crop_size, square_crop_side
from vicreg.common.devices import send
from vicreg.common.random_streams import stream_seed, torch_rng

Params = dict[str, torch.Tensor]


def sample_params(
    view: Augmentation, n: int, height: int, width: int, generator: torch.Generator, channels: int = 3
) -> Params:
    """Sample the parameters of one view for a batch.

    Args:
        view: Augmentation.
        n: Number of images.
        height: Height of the source images in pixels.
        width: Width of the source images in pixels.
        generator: CPU generator.
        channels: Number of bands C.

    Returns:
        CPU tensors of n rows: ``boxes`` (n, 4) of top, left, height and width; bool (n,) ``flip``, ``vertical_flip``,
        ``jittered``, ``gray``, ``blurred`` and ``solarized``; ``order`` (n, 4) of the color operations; float (n,)
        ``brightness``, ``contrast``, ``saturation``, ``hue`` and ``sigma``. Views that rotate or change single bands
        also have ``turns`` (n,), and bool (n,) ``band_jittered`` with float (n, C) ``band_brightness`` and
        ``band_contrast``, or bool (n, C) ``band_dropped``.
    """

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    brightness, contrast, saturation, hue = view.jitter
    params = {
        "boxes": _sample_boxes(view, n, height, width, uniform),
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
    # Sampled last and only where they are used, so that they change no other parameter.
    if view.quarter_turns_p:
        params["turns"] = torch.where(uniform(0, 1) < view.quarter_turns_p, 1 + (3 * uniform(0, 1)).long(), 0)
    if view.band_jitter_p:
        params["band_jittered"] = uniform(0, 1) < view.band_jitter_p
        for name, change in zip(("band_brightness", "band_contrast"), view.band_jitter, strict=True):
            params[name] = uniform(max(0, 1 - change), 1 + change, channels)
    if view.band_drop_p:
        strength = uniform(0, 1, channels)
        params["band_dropped"] = (strength < view.band_drop_p) & (strength < strength.amax(1, keepdim=True))
    return params


def _sample_boxes(
    view: Augmentation, n: int, height: int, width: int, uniform: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Sample crop boxes (n, 4) of top, left, height and width in whole pixels."""
    if view.crop == "resized":
        fraction = uniform(*view.scale, MAX_TRIES)
        aspect = torch.exp(uniform(*log_aspect_range(view), MAX_TRIES))
        sizes = resized_crop_size(view, height, width, zip(fraction.numpy().T, aspect.numpy().T, strict=True))
        box_height, box_width, centered = (torch.from_numpy(values) for values in sizes)
    else:
        side = float(square_crop_side(view, height, width))
        box_height = box_width = torch.full((n,), side)
        centered = torch.full((n,), view.crop == "center")
    top, left = ((height - box_height) / 2).floor(), ((width - box_width) / 2).floor()
    if view.crop != "center":
        top = torch.where(centered, top, (uniform(0, 1) * (height - box_height + 1)).floor())
        left = torch.where(centered, left, (uniform(0, 1) * (width - box_width + 1)).floor())
    return torch.stack([top, left, box_height, box_width], 1)


def to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Convert integer images to float32 in [0, 1], where 1 is the largest value of their type; keep float images."""
    return images if images.is_floating_point() else images.float() / torch.iinfo(images.dtype).max


def apply(images: torch.Tensor, params: Params, size: int, view: Augmentation) -> torch.Tensor:
    """Apply sampled parameters to a batch.

    Args:
        images: uint8 or uint16 tensor (n, C, H, W) on any device.
        params: Parameters from ``sample_params``, n rows.
        size: Side of the view in pixels.
        view: Augmentation, whose ``blur_kernel`` and ``rgb`` are used.

    Returns:
        float32 tensor (n, C, size, size) in [0, 1] on the device of the images. Images that are not RGB take part in
        crop, flips, rotation, brightness, contrast, blur, the mean of the bands as grayscale, and the operations on
        single bands.
    """
    x = crop_resize(to_unit_range(images), params["boxes"], size, params["flip"], params["vertical_flip"])
    rgb = view.rgb and x.shape[1] == 3

    def change(mask: str, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        rows = params[mask].nonzero()[:, 0]
        if len(rows):
            rows_on_device = send(rows, x.device)
            x[rows_on_device] = operation(x[rows_on_device], rows)

    def jitter(selected: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if rgb:
            names = ("order", "brightness", "contrast", "saturation", "hue")
            return color_jitter(selected, *(params[name][rows] for name in names))
        return jitter_bands(selected, rows, prefix="")

    def jitter_bands(selected: torch.Tensor, rows: torch.Tensor, prefix: str = "band_") -> torch.Tensor:
        brightness, contrast = (params[prefix + name][rows].view(len(rows), -1) for name in ("brightness", "contrast"))
        return brightness_contrast(selected, brightness, contrast, contrast_first[rows])

    def gray(selected: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return (grayscale(selected) if rgb else selected.mean(1, keepdim=True)).expand_as(selected)

    positions = params["order"].argsort(1)
    contrast_first = positions[:, 1] < positions[:, 0]
    if "turns" in params:
        x = rotate_quarters(x, params["turns"])
    change("jittered", jitter)
    if "band_jittered" in params:
        change("band_jittered", jitter_bands)
    change("gray", gray)
    change("blurred", lambda selected, rows: gaussian_blur(selected, params["sigma"][rows], view.blur_kernel or None))
    if rgb:
        change("solarized", lambda selected, rows: solarize(selected))
    if "band_dropped" in params:
        x = x.masked_fill(send(params["band_dropped"], x.device)[:, :, None, None], 0.0)
    return x


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (images - mean) / std per channel.

    Args:
        images: Float tensor (n, C, H, W) in [0, 1].
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
    """
    means, stds = (_channel_values(tuple(map(float, x)), images.device, images.dtype) for x in (mean, std))
    return (images - means) / stds


@functools.lru_cache(maxsize=8)
def _channel_values(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return values (C, 1, 1) on a device, copied there once."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def augment_batch(
    images: torch.Tensor,
    view: Augmentation,
    size: int,
    *,
    batch_size: int,
    rank: int,
    seed: int,
    step: int,
    device: torch.device,
    view_index: int = 0,
    micro_batch: int = 0,
    num_micro_batches: int = 1,
) -> torch.Tensor:
    """Make one view of the images of this process in one step.

    Args:
        images: uint8 or uint16 tensor (n, C, H, W), the images of this process.
        view: Augmentation.
        size: Side of the view in pixels.
        batch_size: Number of images of all processes together; n is the same for every process.
        rank: Rank of this process.
        seed: Seed of the run.
        step: Step of the run.
        device: Device to augment on.
        view_index: Which of the step's views this is; views with different indices have independent parameters.
        micro_batch: Index of the micro-batch to return.
        num_micro_batches: Number of micro-batches into which the images are divided.

    Returns:
        float32 tensor (m, C, size, size) in [0, 1] on the device; m = n for one micro-batch.
    """
    n = len(images)
    start, stop = (n * index // num_micro_batches for index in (micro_batch, micro_batch + 1))
    channels, height, width = images.shape[1:]
    generator = torch_rng(seed, "augmentation", step, view_index)
    params = sample_params(view, batch_size, height, width, generator, channels)
    params = {key: value[rank * n + start : rank * n + stop] for key, value in params.items()}
    return apply(send(images[start:stop], device), params, size, view)


def augment_pair(
    images1: torch.Tensor,
    images2: torch.Tensor,
    views: Sequence[Augmentation],
    size: int,
    *,
    batch_size: int,
    rank: int,
    seed: int,
    step: int,
    device: torch.device,
    micro_batch: int = 0,
    num_micro_batches: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the two views of one step, each from one image of a pair; other arguments as for ``augment_batch``.

    Returns:
        Two float32 tensors (m, C, size, size) in [0, 1] on the device.
    """
    augment = functools.partial(
        augment_batch, size=size, batch_size=batch_size, rank=rank, seed=seed, step=step, device=device,
        micro_batch=micro_batch, num_micro_batches=num_micro_batches,
    )  # fmt: skip
    return augment(images1, views[0], view_index=0), augment(images2, views[1], view_index=1)


def seed_step(seed: int, step: int, micro_batch: int = 0) -> None:
    """Seed the global generator for one forward pass: dropout, stochastic depth."""
    torch.manual_seed(stream_seed(seed, "model", step, distributed.rank(), micro_batch))
