"""The sizes of images that a network takes."""

import torch
from torch import nn


@torch.no_grad()
def check_input_size(backbone: nn.Module, in_chans: int, size: int, arch: str) -> None:
    """Check with one black image that a network takes images of a size; some have fixed sizes.

    Args:
        backbone: Backbone; it is not changed.
        in_chans: Number of input channels.
        size: Side of the images in pixels.
        arch: Name of the backbone, for the message.

    Raises:
        ValueError: It does not.
    """
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
