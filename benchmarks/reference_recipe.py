"""The reference recipe of VICReg from its description (Bardes, Ponce, LeCun 2022): loss, transform, training step."""

import argparse
import random
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import Lars
from torch import nn
from torchvision.transforms import v2

from benchmarks.lightly_recipe import pil_step
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD, create_backbone, feature_dim
from vicreg.models.vicreg import expander, parse_mlp


def reference_loss(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Compute equations 1 to 6 of the paper with D x D covariance matrices."""
    variance, covariance = [], []
    for z in (z1, z2):
        centered = z - z.mean(0)
        c = centered.T @ centered / (len(z) - 1)
        variance.append(torch.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean())
        covariance.append((c - torch.diag(c.diagonal())).square().sum() / z.shape[1])
    return 25 * (z1 - z2).square().mean() + 25 * (variance[0] + variance[1]) / 2 + covariance[0] + covariance[1]


class TwoViews:
    """The two views of appendix C.1, made by torchvision and PIL from a PIL image."""

    def __init__(self, size: int) -> None:
        self._views = [
            v2.Compose([
                v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.Lambda(_blur)], blur),
                v2.RandomSolarize(128, solarize),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ])
            for blur, solarize in ((1.0, 0.0), (0.1, 0.2))
        ]  # fmt: skip

    def __call__(self, image: Any) -> list[torch.Tensor]:
        """Return both views, (3, size, size) each."""
        return [view(image) for view in self._views]


def _blur(image: Any) -> Any:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))


def reference_step(
    args: argparse.Namespace, images: torch.Tensor, device: torch.device, mark: Callable[[str], None]
) -> Callable[[], None]:
    """Return a function that takes one step of the reference recipe, with timm's LARS."""
    backbone = create_backbone(args.arch)
    model = nn.Sequential(backbone, expander(feature_dim(backbone), parse_mlp(args.mlp)))
    return pil_step(args, images, device, model, reference_loss, Lars, TwoViews(args.image_size))
