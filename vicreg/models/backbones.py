"""Backbones by timm name: create them, and load them from files of weights."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import timm
import torch
from torch import nn

from vicreg.common.random_streams import stream_seed
from vicreg.models import input_channels
from vicreg.models.baselines import ChannelStatistics, PooledPixels
from vicreg.models.checkpoint_layouts import find_backbone
from vicreg.models.input_channels import check_channels
from vicreg.models.timm_weights import check_arch
from vicreg.models.weight_files import IMAGENET_MEAN, IMAGENET_STD, check_fit, read_weights

__all__ = [
    "BASELINES", "IMAGENET_MEAN", "IMAGENET_STD", "PARAMETER_FREE", "BackboneInfo", "check_channels",
    "create_backbone", "feature_dim", "format_normalization", "init_backbone", "load_backbone",
    "records_normalization", "set_normalization",
]  # fmt: skip

BASELINES = ("random", "imagenet", "stats", "pixels")
PARAMETER_FREE = ("stats", "pixels")
# timm's vision transformers resample their position embeddings to any size with these; other families lack them
_ANY_SIZE: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True}


class BackboneInfo(TypedDict):
    """What is known about a loaded backbone.

    Attributes:
        arch: timm name; ``stats`` and ``pixels`` for the parameter-free baselines.
        in_chans: Number of input channels.
        mean: Mean of each channel of the pixels in [0, 1] that the weights expect; None if unknown.
        std: Standard deviation of each channel; None if unknown.
        normalization: Where mean and std come from; None if unknown.
        source: How the weights were made, or the file's path.
        report: One line on what was loaded.
    """

    arch: str
    in_chans: int
    mean: list[float] | None
    std: list[float] | None
    normalization: str | None
    source: str
    report: str


def create_backbone(arch: str, in_chans: int = 3, pretrained: bool = False) -> nn.Module:
    """Create a backbone that maps images (n, in_chans, H, W) to features (n, backbone.num_features).

    Args:
        arch: Any timm name. For ResNets the parameter names are torchvision's.
        in_chans: Number of input channels.
        pretrained: Load timm's ImageNet weights (from the network or timm's cache).

    Raises:
        ValueError: timm does not know the name; the message lists the nearest ones.
    """
    check_arch(arch)
    make = functools.partial(timm.create_model, arch, num_classes=0, in_chans=in_chans, pretrained=pretrained)
    try:
        backbone = make(**_ANY_SIZE)
    except TypeError:
        backbone = make()
    if (width := getattr(backbone, "head_hidden_size", None) or backbone.num_features) != backbone.num_features:
        backbone.num_features = width  # some families have one more layer after pooling
    return backbone


def feature_dim(backbone: nn.Module) -> int:
    """Return the size of a backbone's features."""
    size: Any = backbone.num_features
    return int(size)


def load_backbone(
    path_or_name: str | Path,
    arch: str | None = None,
    in_chans: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
) -> tuple[nn.Module, BackboneInfo]:
    """Load a backbone from a file, or create a baseline by name.

    Missing weights, weights of another depth and weights that are not finite are errors. The report names the layout of
    a checkpoint of another library (see ``vicreg.models.checkpoint_layouts``) and counts the tensors left out, such as
    those of a classifier.

    Args:
        path_or_name: ``trained_model.pth``, a ``model.pth`` of a run, a checkpoint or state dict of another library, a
            ``.safetensors`` file, ``hf-hub:<repository>`` or ``local-dir:<folder>`` in timm's format, or one of
            ``random``, ``imagenet`` (timm's weights), ``stats`` (mean and standard deviation of each channel) and
            ``pixels`` (the image pooled to 8 x 8).
        arch: timm name; required if the file does not record it, and must agree if it does.
        in_chans: Number of input channels; the first convolution of a file with another number is adapted (see
            ``vicreg.models.input_channels``). Default: that of the file; 3 for baselines.
        seed: Seed of ``random``.
        mean: Mean of each channel of pixels in [0, 1], for files that do not store it.
        std: Standard deviation of each channel; given together with ``mean``.
        bands: Input channels of the file to select, in this order, counted from 1.

    Returns:
        The backbone, and what is known about it, with ``levels`` if the file records them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file or an argument does not fit; the message says what to do.
    """
    info = BackboneInfo(
        arch=arch or "", in_chans=in_chans or 3, mean=None, std=None, normalization=None, source=str(path_or_name),
        report="",
    )  # fmt: skip
    if path_or_name in BASELINES:
        if bands:
            raise ValueError(f"--weight-bands selects channels of a file; {path_or_name} takes any number: --in-chans")
        backbone = _create_baseline(str(path_or_name), info, seed)
    else:
        backbone = _load_file(path_or_name, arch, info, in_chans, bands)
    if mean is not None or std is not None:
        set_normalization(info, mean, std)
    return backbone, info


def _load_file(
    path: str | Path, arch: str | None, info: BackboneInfo, in_chans: int | None, bands: Sequence[int] | None
) -> nn.Module:
    """Create a backbone with the weights of a file, and complete ``info``."""
    state, record = read_weights(path)
    containers = record.pop("containers", "")
    info.update({"in_chans": 3, **record})  # type: ignore[typeddict-item]
    if arch is not None and info["arch"] != arch:
        raise ValueError(f"{path} holds a {info['arch']}, --arch says {arch}; leave --arch out")
    if not info["arch"]:
        raise ValueError(f"{path} does not name its architecture; say it with --arch")
    try:
        backbone = create_backbone(info["arch"], info["in_chans"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    stored = find_backbone(state, backbone.state_dict(), containers, path)
    if "in_chans" not in record and (channels := input_channels.other_channels(stored.state, backbone.state_dict())):
        backbone, info["in_chans"] = create_backbone(info["arch"], channels), channels
    expected, channels = backbone.state_dict(), info["in_chans"]
    means, stds = len(info["mean"] or ()), len(info["std"] or ())
    if not means == stds or means not in (0, channels):
        raise ValueError(f"{path} records {means} means and {stds} standard deviations of {channels} channels")
    info["report"] = f"{info['arch']} from {path}: {check_fit(stored, expected, info['arch'], path)}"
    weights = {key: stored.state.get(key, value) for key, value in expected.items()}
    if bands or in_chans not in (None, channels):
        option = f"--weight-bands {' '.join(map(str, bands or ()))}"
        if not all(1 <= band <= channels for band in bands or ()):
            raise ValueError(f"{option}: {path} has the channels 1 to {channels}")
        if bands and in_chans not in (None, len(bands)):
            raise ValueError(f"{option}: {len(bands)} channels, --in-chans says {in_chans}")
        info["in_chans"] = len(bands) if bands else int(in_chans or channels)
        backbone = create_backbone(info["arch"], info["in_chans"])
        weights, note = input_channels.adapt_channels(weights, backbone.state_dict(), bands, path)
        input_channels.adapt_normalization(info, channels, bands)  # type: ignore[arg-type]
        info["report"] += note
    backbone.load_state_dict(weights)
    return backbone


def records_normalization(info: BackboneInfo) -> bool:
    """Return whether the weights record their mean and standard deviation, rather than leave them to be assumed."""
    return info["normalization"] is not None and "assumed" not in info["normalization"]


def set_normalization(info: BackboneInfo, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Set mean and standard deviation of weights that do not record them.

    Args:
        info: Record of the backbone, changed in place.
        mean: Mean of each channel of pixels in [0, 1].
        std: Standard deviation of each channel.

    Raises:
        ValueError: Their lengths do not fit, a standard deviation is not positive, or the weights record other values.
    """
    if mean is None or std is None or not len(mean) == len(std) == info["in_chans"]:
        raise ValueError(f"--mean and --std: {info['in_chans']} numbers each are needed, one per channel")
    if not all(value > 0 for value in std):
        raise ValueError(f"--std {' '.join(map(str, std))}: must be positive")
    if records_normalization(info) and (info["mean"], info["std"]) != (list(mean), list(std)):
        raise ValueError(f"{info['source']} records its mean and std; leave --mean and --std out")
    info["mean"], info["std"], info["normalization"] = list(mean), list(std), "given by --mean and --std"


def format_normalization(mean: list[float], std: list[float], normalization: str) -> str:
    """Format a normalization and where it comes from, for the log."""
    means, stds = (" ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return f"mean {means}, std {stds} ({normalization})"


def init_backbone(
    backbone: nn.Module, init_from: str | Path, arch: str, in_chans: int, bands: Sequence[int] | None = None
) -> str:
    """Initialize a new backbone with other weights, and return one line on what was loaded; see ``load_backbone``.

    Args:
        backbone: Backbone from ``create_backbone(arch, in_chans)``, changed in place.
        init_from: ``imagenet``, or a file as for ``load_backbone``.
        arch: timm name.
        in_chans: Number of input channels of ``backbone``, to which the weights are adapted.
        bands: Input channels of the weights to select, counted from 1.
    """
    if init_from in ("random", *PARAMETER_FREE):
        raise ValueError(f"--init-from {init_from}: a file of weights or 'imagenet' expected")
    pretrained, info = load_backbone(init_from, arch, in_chans, bands=bands)  # timm inflates ImageNet's by itself
    backbone.load_state_dict(pretrained.state_dict())
    return info["report"]


def _create_baseline(name: str, info: BackboneInfo, seed: int) -> nn.Module:
    """Create one of ``BASELINES`` and complete ``info``."""
    arch, in_chans = info["arch"], info["in_chans"]
    if name == "stats":
        info["arch"], info["report"] = name, "channel mean and std, no weights"
        return ChannelStatistics(in_chans)
    if name == "pixels":
        info["arch"], info["report"] = name, "the image pooled to 8 x 8, no weights"
        return PooledPixels(in_chans)
    if not arch:
        raise ValueError(f"--pretrained {name} needs --arch, for example --arch resnet18")
    if name == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "random_backbone"))
            backbone = create_backbone(arch, in_chans)
        info["report"] = f"{arch} with random weights (seed {seed})"
        return backbone
    try:
        backbone = create_backbone(arch, in_chans, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"ImageNet weights of {arch} could not be loaded from the network or from timm's cache "
            f"(~/.cache/huggingface): {type(error).__name__}: {error}"
        ) from error
    config: Any = backbone.pretrained_cfg
    info["report"] = f"{arch} with timm's ImageNet weights"
    if len(config["mean"]) == in_chans:
        info["mean"], info["std"], info["normalization"] = [*config["mean"]], [*config["std"]], "of timm's weights"
    else:
        info["report"] += f", first convolution adapted from {len(config['mean'])} to {in_chans} channels"
    return backbone
