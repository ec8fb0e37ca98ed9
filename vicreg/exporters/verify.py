"""Verify exported files: the same images must give the same features in the target library."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

BOUND = 1e-4  # of the largest difference; the rounding of float32 is far below


def sample_images(in_chans: int = 3, size: int = 64, count: int = 2, seed: int = 0) -> torch.Tensor:
    """Return seeded images to compare on: float32 (count, in_chans, size, size), scaled like normalized pixels."""
    return torch.randn(count, in_chans, size, size, generator=torch.Generator().manual_seed(seed))


def natural_size(backbone: nn.Module) -> int:
    """Return the side of images to compare on: the size a network is made for if that matters, otherwise 64."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size") or hasattr(backbone, "set_input_size"):
        return config["input_size"][-1]
    return 64


@torch.no_grad()
def pooled(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the pooled features as a list of one tensor (n, F); the backbone is set to eval mode."""
    return [backbone.eval()(images)]


@torch.no_grad()
def resnet_stages(backbone: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the output of each stage of a ResNet of timm, which is set to eval mode.

    Args:
        backbone: ResNet with ``conv1``, ``bn1`` and ``layer1`` to ``layer4``.
        images: Float (n, C, H, W).

    Returns:
        Six tensors: the first convolution after its ReLU (side H / 2), the max-pooling (H / 4), and layer1 to layer4
        (H / 4 to H / 32).
    """
    backbone.eval()
    stages = [backbone.act1(backbone.bn1(backbone.conv1(images)))]
    for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        stages.append(getattr(backbone, name)(stages[-1]))
    return stages


def largest_difference(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of two lists of features, relative to the largest feature if that exceeds 1.

    Raises:
        ValueError: The shapes differ.
    """
    shapes = [[tuple(part.shape) for part in parts] for parts in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"features have the shapes {shapes[1]}, {shapes[0]} expected")
    differences = [(a - b).abs().max() / a.abs().max().clamp(min=1) for a, b in zip(expected, actual, strict=True)]
    return float(torch.stack(differences).max())  # NaN if one is, unlike Python's max


def verify(
    path: Path, library: str, expected: Sequence[torch.Tensor], read: Callable[[Path], Sequence[torch.Tensor]]
) -> str:
    """Read a file with the library that it is written for, and compare features.

    Args:
        path: The file.
        library: Name of the package.
        expected: Features of the backbone.
        read: Function from the path to the features that the library computes.

    Returns:
        One line on what was verified, or that the library is not installed.

    Raises:
        ValueError: The library cannot read the file, or its features differ by more than ``BOUND``.
    """
    try:
        version = getattr(importlib.import_module(library), "__version__", "")
    except ImportError as error:
        return f"UNVERIFIED: {library} cannot be imported here ({error}); install it and export again to verify"
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # of the library's own code
                warnings.simplefilter("ignore", category)
            actual = read(path)
        difference = largest_difference(expected, actual)
    except Exception as error:  # loaders raise exceptions of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{library} {version} cannot read the file, so it was removed: {reason}") from error
    if not difference <= BOUND:  # also refuses NaN
        raise ValueError(
            f"{library} {version} computes other features from the file, so it was removed: largest difference "
            f"{difference:.2g}, {BOUND:g} allowed"
        )
    is_stages = expected[0].dim() == 4  # feature maps of the same images; otherwise pooled features of batches
    what = f"{len(expected)} stages" if is_stages else f"{expected[0].shape[1]} features"
    count = len(expected[0]) if is_stages else sum(len(part) for part in expected)
    return f"verified with {library} {version}: {what} on {count} images, largest difference {difference:.1e}"
