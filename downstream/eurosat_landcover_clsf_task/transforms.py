"""Training and evaluation transforms of EuroSAT scenes."""

import dataclasses

import torch

from vicreg.augmentations import batch, presets
from vicreg.augmentations.batch import augment_batch

WHOLE_VIEW = dataclasses.replace(presets.PLAIN, fraction=1.0)
# from above no direction is special: with a quarter turn of every second sample, flips give all eight positions
TURNS = dataclasses.replace(WHOLE_VIEW, flip=0.5, vertical_flip=0.5)
VIEWS = ("turns", *presets.PRESETS)


def view_named(name, changes=()):
    """The ``View`` to train on: ``turns``, or the first one of a regime, with numbers changed.

    Raises:
        ValueError: no such regime or number.
    """
    if name != "turns":
        return presets.get_augmentation(name, changes)[0]
    if changes:
        raise ValueError("--augment-set changes the numbers of a regime, and --augment turns has none")
    return TURNS


def training_view(images, view, plan, seed, step, device):
    """One view of a step's batch, counted from (seed, step).

    Args:
        images: uint8 (n, 3, S, S). view: of ``view_named``. plan: with ``batch_size, image_size``.

    Returns:
        float (n, 3, image_size, image_size) in [0, 1] on the device.
    """
    found = augment_batch(
        images, view, plan["image_size"], batch_size=plan["batch_size"], rank=0, seed=seed, step=step, device=device
    )
    if view is not TURNS:
        return found
    turn = torch.rand(len(found), generator=batch.step_generator(seed, step, 1)) < 0.5
    return torch.where(turn.to(device)[:, None, None, None], found.transpose(2, 3), found)
