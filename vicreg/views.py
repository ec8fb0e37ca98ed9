"""Views of one step's batch, counted from (seed, step): the same for any number of processes that share it."""

import torch

from vicreg import augmentations, distributed


def counted_view(images, view, number, plan, seed, step, device, part=0, parts=1):
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
    random = augmentations.counted_generator(seed, step, number)
    numbers = augmentations.draw(view, plan["batch_size"], *images.shape[-2:], random)
    numbers = {key: value[mine] for key, value in numbers.items()}
    images = images[begin:end].to(device, non_blocking=True)
    return augmentations.apply(images, numbers, plan["image_size"], view.blur_kernel)


def counted_views(first, second, views, plan, seed, step, device, part=0, parts=1):
    """The two views of one step: as ``counted_view``, of two batches of images and the regime's two ``View``s."""
    pairs = enumerate(zip((first, second), views, strict=True))
    return [counted_view(images, view, n, plan, seed, step, device, part, parts) for n, (images, view) in pairs]


def count_randomness(seed, step, part=0):
    """Settle what a network draws (dropout, stochastic depth) in one forward pass."""
    torch.manual_seed(augmentations.counted_generator(seed, step, distributed.rank(), part).initial_seed())
