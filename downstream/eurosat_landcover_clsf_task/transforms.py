"""Training and evaluation views of EuroSAT scenes."""

import dataclasses
from collections.abc import Sequence

import torch

from vicreg.augmentations import presets
from vicreg.augmentations.batch import augment_batch
from vicreg.common.devices import send
from vicreg.common.random_streams import torch_rng

WHOLE_VIEW = dataclasses.replace(presets.PLAIN, fraction=1.0)
# from above no direction is special: with a transposition of every second sample, flips give all eight orientations
TURNS = dataclasses.replace(WHOLE_VIEW, flip=0.5, vertical_flip=0.5)


def get_view(name: str, changes: Sequence[str] = ()) -> presets.Augmentation:
    """Return the augmentation to train on: ``"turns"``, or the first view of a preset with values changed.

    Raises:
        ValueError: There is no such preset or value.
    """
    if name != "turns":
        return presets.get_augmentation(name, changes)[0]
    if changes:
        raise ValueError("--aug-override changes the values of a preset, and --augment turns has none")
    return TURNS


def training_view(
    images: torch.Tensor, view: presets.Augmentation, size: int, *, seed: int, step: int, device: torch.device
) -> torch.Tensor:
    """Augment the batch of one step; ``TURNS`` adds random transpositions.

    Args:
        images: uint8 or uint16 tensor (n, C, S, S).
        view: Augmentation.
        size: Side of the view in pixels.
        seed: Seed of the run.
        step: Step of the run.
        device: Device to augment on.

    Returns:
        Float tensor (n, C, size, size) in [0, 1] on the device.
    """
    views = augment_batch(images, view, size, batch_size=len(images), rank=0, seed=seed, step=step, device=device)
    if view is not TURNS:
        return views
    transposed = torch.rand(len(views), generator=torch_rng(seed, "transpose", step)) < 0.5
    return torch.where(send(transposed, device)[:, None, None, None], views.transpose(2, 3), views)
