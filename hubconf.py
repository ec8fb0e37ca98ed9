"""PyTorch Hub entry point.

backbone = torch.hub.load("/path/to/clone", "backbone", checkpoint="trained_model.pth", source="local")
features = backbone((images - backbone.mean) / backbone.std)  # images: (n, C, H, W) in [0, 1]
"""

import os
from typing import Any

import torch

dependencies = ["torch", "timm"]


def backbone(
    checkpoint: str | os.PathLike[str], arch: str | None = None, in_chans: int | None = None
) -> torch.nn.Module:
    """Load a pretrained backbone in eval mode.

    Args:
        checkpoint: ``trained_model.pth``, or any other file that ``vicreg.models.backbones.load_backbone`` reads.
        arch: timm name; required if the file does not record it.
        in_chans: Number of input channels, to which the first convolution is adapted (default: that of the file).

    Returns:
        Module from images (n, C, H, W) to features (n, num_features). Its attributes ``mean`` and ``std`` are buffers
        (C, 1, 1) for pixels in [0, 1], or None if the file does not record them; ``info`` is a dict of ``arch``,
        ``in_chans``, ``mean``, ``std``, ``normalization``, ``source`` and ``report``.
    """
    from vicreg.models.backbones import load_backbone

    module: Any
    module, info = load_backbone(os.fspath(checkpoint), arch, in_chans)
    for name, values in (("mean", info["mean"]), ("std", info["std"])):
        buffer = None if values is None else torch.tensor(values).view(-1, 1, 1)
        module.register_buffer(name, buffer, persistent=False)
    module.info = info
    return module.eval()
