"""What the training scripts of downstream tasks share: settings, arguments, and the pretrained backbone."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vicreg import distributed
from vicreg.common.config import setting
from vicreg.common.logger import log
from vicreg.data.images import add_levels_argument, check_levels
from vicreg.data.raster_bands import resolve_bands
from vicreg.engine.arguments import add_alias, add_precision_argument, add_run_arguments
from vicreg.engine.config import RunConfig
from vicreg.engine.parallel import init_device
from vicreg.eval.config import add_normalization_arguments, add_weight_bands_argument, check_weight_bands
from vicreg.models.backbones import BASELINES, PARAMETER_FREE, create_backbone, format_normalization, load_backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Settings of every downstream run; tasks derive their own class.

    Attributes:
        pretrained: File of the backbone, ``"random"`` or ``"imagenet"``; None if the task starts from other weights.
        arch: Backbone by timm name, if the file does not record it.
        mean: Mean of each channel of pixels in [0, 1], if the file does not record it.
        std: Standard deviation of each channel, likewise.
        bands: Numbers from 1 of the bands of image files, one for each channel of the network.
        weight_bands: Input channels of the file to select, counted from 1.
        levels: Values (low, high) of black and white of image files deeper than 8 bits.
    """

    pretrained: str | None = setting(None, compare="must_match")
    arch: str | None = setting(None, compare="must_match")
    mean: Sequence[float] | None = setting(None, compare="must_match")
    std: Sequence[float] | None = setting(None, compare="must_match")
    bands: Sequence[int] | None = setting(None, compare="must_match")
    weight_bands: Sequence[int] | None = setting(None, compare="must_match")
    levels: tuple[float, float] | None = setting(None, compare="must_match")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(self.levels)
        check_weight_bands(self.weight_bands, self.pretrained)


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    epochs: int | None,
    batch_size: int,
    lr: float,
    weight_decay: float | None,
    grad_clip: float = 0.0,
    pretrained_required: bool = True,
) -> dict[str, argparse._ArgumentGroup]:
    """Add the arguments of every downstream training script, with the task's defaults.

    Args:
        parser: Parser to extend.
        epochs: Default of ``--epochs``.
        batch_size: Default of ``--batch-size``.
        lr: Default of ``--lr``.
        weight_decay: Default of ``--weight-decay``.
        grad_clip: Default of ``--grad-clip``.
        pretrained_required: False if a run may start from weights that the task names otherwise.

    Returns:
        The groups ``run``, ``backbone`` and ``optim``, to add to.
    """
    run = add_run_arguments(parser, "random weights, split, order and augmentation")
    run.add_argument("--workers", type=int, default=2, help="loading processes; 0 loads in the training process")
    run.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    add_precision_argument(run)
    backbone = parser.add_argument_group("backbone")
    backbone.add_argument(
        "--pretrained", required=pretrained_required,
        help="trained_model.pth, model.pth, a torchvision state dict, or a baseline: random, imagenet",
    )  # fmt: skip
    backbone.add_argument("--arch", help="backbone by timm name, if the file does not record it: resnet18, resnet50")
    add_normalization_arguments(backbone)
    add_weight_bands_argument(backbone)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--epochs", type=int, default=epochs, help="passes over the training samples")
    optim.add_argument("--batch-size", type=int, default=batch_size, help="samples per step")
    optim.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    optim.add_argument("--weight-decay", type=float, default=weight_decay, help="weight decay")
    add_alias(optim, "--wd", "weight_decay", float)
    optim.add_argument(
        "--grad-clip", type=float, default=grad_clip, help="largest absolute value of a gradient's elements; 0: any"
    )
    return {"run": run, "backbone": backbone, "optim": optim}


def add_pixel_arguments(group: argparse._ActionsContainer, default: str = "those of --pretrained") -> None:
    """Add ``--bands`` and ``--levels``; ``default`` says what holds without them."""
    group.add_argument(
        "--bands", type=int, nargs="+", metavar="BAND",
        help="bands of the channels, counted from 1; None: RGB, or all bands of a network for more",
    )  # fmt: skip
    add_levels_argument(group, f"default: {default}")


def init_single_device(config: FinetuneConfig, task: str) -> torch.device:
    """Choose the device of a task that is trained by one process.

    Raises:
        ValueError: Several processes were started.
    """
    device = init_device(config)
    if distributed.world_size() > 1:
        raise ValueError(f"{task} is trained by one process; start it without torchrun, or with --nproc-per-node 1")
    return device


def build_backbone(config: FinetuneConfig, checkpoint: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Load the pretrained backbone, or create one of a checkpoint's architecture, whose weights are loaded later.

    Args:
        config: Settings of the run.
        checkpoint: Checkpoint to resume from; empty for a new run.

    Returns:
        The backbone, and its ``arch``, ``in_chans``, ``mean``, ``std``, ``source`` and perhaps ``levels`` for
        checkpoints. Mean and standard deviation are None if the weights do not ask for a normalization.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no backbone, or ``config.bands`` are not as many as its channels.
    """
    if checkpoint:
        info = dict(checkpoint["backbone"])
        return create_backbone(info["arch"], info["in_chans"]), info
    if config.pretrained is None or config.pretrained in PARAMETER_FREE:
        raise ValueError(f"--pretrained {config.pretrained} has no weights; a file, 'random' or 'imagenet' is needed")
    is_baseline = config.pretrained in BASELINES  # a file has channels of its own
    channels = (len(config.bands) if config.bands else 3) if is_baseline else None
    backbone, loaded = load_backbone(
        config.pretrained, config.arch, channels, config.seed, config.mean, config.std, config.weight_bands
    )
    resolve_bands(config.bands, loaded["in_chans"])
    log(loaded["report"])
    if loaded["mean"] and loaded["std"]:
        log(format_normalization(loaded["mean"], loaded["std"], loaded["normalization"] or "of the weights"))
    else:
        log("the weights record no mean and std: those of the training images, or ImageNet's, are used")
    kept = ("arch", "in_chans", "mean", "std", "source", *(["levels"] if loaded.get("levels") else []))
    return backbone, {key: loaded[key] for key in kept}  # type: ignore[literal-required]
