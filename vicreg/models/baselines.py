"""Parameter-free baselines: features that a pretrained backbone has to beat."""

import torch
from torch import nn


class ChannelStatistics(nn.Module):
    """Mean and standard deviation of each channel: images (n, C, H, W) to features (n, 2 C).

    Args:
        in_chans: Number of image channels, C.
    """

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.num_features = 2 * in_chans

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of images."""
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


class PooledPixels(nn.Module):
    """Average pooling to 8 x 8 pixels: images (n, C, H, W) to features (n, 64 C).

    Args:
        in_chans: Number of image channels, C.
    """

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.num_features = 64 * in_chans

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of images."""
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
