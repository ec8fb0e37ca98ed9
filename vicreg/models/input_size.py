"""The sizes of images that a network takes."""

import torch
from torch import nn


@torch.no_grad()
def check_input_size(backbone: nn.Module, in_chans: int, size: int, arch: str) -> None:
    """Raise ValueError unless a network takes a black image of ``size`` x ``size`` pixels; some have fixed sizes."""
    device = next((parameter.device for parameter in backbone.parameters()), None)
    was_training = backbone.training
    try:
        backbone.eval()(torch.zeros(1, in_chans, size, size, device=device))
    except (AssertionError, ValueError, RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        expected = (getattr(backbone, "pretrained_cfg", None) or {}).get("input_size", (0, 0))[-1]
        hint = f"; {expected} is its own size" if expected else ""
        raise ValueError(
            f"--image-size {size}: {arch} does not take images of {size} pixels ({' '.join(str(error).split())}){hint}"
        ) from error
    finally:
        backbone.train(was_training)
