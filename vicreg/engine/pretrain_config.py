"""Settings of self-supervised pretraining, and their command-line arguments."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.common import cli
from vicreg.common.config import from_args, setting
from vicreg.engine.arguments import (
    add_alias,
    add_aug_override,
    add_data_arguments,
    add_init_arguments,
    add_optimization_arguments,
    add_run_arguments,
    growing_size,
)
from vicreg.engine.config import RunConfig, RunPlan
from vicreg.engine.optim import cosine_lr, warmup_epochs
from vicreg.eval.config import check_weight_bands
from vicreg.losses import LOSSES
from vicreg.losses.vicreg import VICRegLoss
from vicreg.models.vicreg import parse_mlp

_SIZE_STEP = 16  # sizes of growing views are multiples of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Settings of self-supervised pretraining.

    Attributes:
        arch: Backbone, any timm name.
        in_chans: Channels of the images.
        mlp: Widths of the expander, joined by hyphens.
        init_from: Initial backbone weights, a file or ``"imagenet"``.
        weight_bands: Input channels of ``init_from`` to select, counted from 1.
        loss: Name of the loss, a key of ``vicreg.losses.LOSSES``.
        criterion: The loss, a dataclass that maps two embedding batches to a dict with ``loss`` and its terms.
        augment: Augmentation preset.
        aug_override: Changes of the preset, such as ``scale=0.3,1``.
        image_size: Side of the views in pixels, or the first and the last side of views that grow; None is 7/8 of the
            patch size.
        positives: ``"same"``, ``"temporal"`` or ``"neighbor"``.
        max_months_apart: Limit for temporal positives.
        max_days_apart: Limit for temporal positives of imagery with dates.
        accumulate: Micro-batches per step.
        optimizer: ``"lars"`` or ``"adamw"``.
        ema_decay: Decay of the moving average of the backbone's weights; 0 does not average.
        probe_every: Epochs between kNN probes; 0 does not probe.
        bands: Red, green and blue band of image files, counted from 1.
        levels: Values of black and white of image files deeper than 8 bits.
        pack_size: Largest side of decoded squares of image files in pixels; None if the files are read.
    """

    arch: str = setting("resnet50", compare="must_match")
    in_chans: int = setting(3, compare="must_match")
    mlp: str = setting("8192-8192-8192", compare="must_match")
    init_from: str | None = setting(None)
    weight_bands: Sequence[int] | None = setting(None)
    loss: str = setting("vicreg", compare="must_match")
    criterion: Any = setting(VICRegLoss())
    augment: str = setting("vicreg")
    aug_override: Sequence[str] = setting(())
    image_size: int | Sequence[int] | None = setting(None)
    positives: str = setting("same")
    max_months_apart: int | None = setting(None)
    max_days_apart: int | None = setting(None)
    accumulate: int = setting(1)
    optimizer: str = setting("lars", compare="must_match")
    ema_decay: float = setting(0.0, compare="must_match")
    probe_every: int = setting(10, compare="ignore")
    bands: Sequence[int] | None = setting(None, compare="must_match")
    levels: Sequence[float] | None = setting(None, compare="must_match")
    pack_size: int | None = setting(None, compare="must_match")
    weight_decay: float = setting(1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [] if isinstance(self.image_size, Sequence) else ["image_size"]
        cli.check_positive(self, "accumulate", "pack_size", *names)
        if isinstance(self.image_size, Sequence) and not 0 < self.image_size[0] < self.image_size[1]:
            first, last = self.image_size
            raise ValueError(f"--image-size {first}:{last}: both must be positive, and the first smaller")
        cli.check_not_negative(self, "probe_every", "ema_decay")
        if self.ema_decay >= 1:
            raise ValueError(f"--ema-decay {self.ema_decay}: must be below 1")
        check_weight_bands(self.weight_bands, self.init_from, "--init-from")
        parse_mlp(self.mlp)
        presets.get_augmentation(self.augment, self.aug_override)

    @property
    def widths(self) -> list[int]:
        """Widths of the expander's layers."""
        return parse_mlp(self.mlp)

    @property
    def final_image_size(self) -> int | None:
        """``image_size`` at the end of the run."""
        return self.image_size[1] if isinstance(self.image_size, Sequence) else self.image_size

    def view_sizes(self, patch_size: int, epochs: int) -> list[int]:
        """Return the side of the views in pixels in each epoch; the last one is that of probes.

        Growing views rise linearly, in multiples of 16 pixels, and have their last size in the last third of the run.
        Small views in early epochs save time (Tan and Le 2021, "EfficientNetV2"; Bordes et al. 2023, "Towards
        Democratizing Joint-Embedding Self-Supervised Learning").

        Args:
            patch_size: Side of the images in pixels.
            epochs: Number of epochs of the run.
        """
        if not isinstance(self.image_size, Sequence):
            return [self.image_size or max(1, round(patch_size * 7 / 8))] * epochs
        first, last = self.image_size
        growing = epochs - math.ceil(epochs / 3)
        risen = [first + (last - first) * epoch // growing for epoch in range(growing)]
        return [max(first, size // _SIZE_STEP * _SIZE_STEP) for size in risen] + [last] * (epochs - growing)

    def peak_lr(self, batch_size: int) -> float:
        """Return ``lr * batch_size / 256``."""
        return self.lr * batch_size / 256

    def warmup_steps(self, steps_per_epoch: int, steps: int) -> int:
        """Return the steps of ten epochs, or of a tenth of a run shorter than a hundred."""
        return round(warmup_epochs(steps / steps_per_epoch) * steps_per_epoch)

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate at a step: linear warm-up, then a half cosine to a thousandth of the peak."""
        return cosine_lr(step, plan.steps, plan.warmup_steps, plan.peak_lr)


def get_parser(description: str, augment: str = "vicreg") -> argparse.ArgumentParser:
    """Return a parser with the arguments of every pretraining script; scripts add those of their data.

    Args:
        description: First line of the help text.
        augment: Default of ``--augment``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    run = add_run_arguments(parser, "weights, order and augmentation")
    run.add_argument("--probe-every", type=int, default=10, help="epochs between kNN probes; 0: none")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet50", help="backbone, any timm name")
    model.add_argument("--in-chans", type=int, default=3, help="channels of the images")
    add_init_arguments(model)
    model.add_argument("--mlp", default="8192-8192-8192", help="widths of the expander")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--loss", choices=list(LOSSES), default="vicreg", help="loss of the embeddings")
    for module in LOSSES.values():
        module.add_arguments(loss)
    data = parser.add_argument_group("views")
    data.add_argument("--augment", default=augment, choices=list(presets.PRESETS), help="augmentation preset")
    add_aug_override(data, "scale=0.3,1 for both views, 2.blur_p=0 for the second")
    add_data_arguments(data, growing_size, ", or 32:64 to let them grow over the epochs")
    optim = parser.add_argument_group("optimization")
    add_optimization_arguments(optim, batch_size=256, weight_decay=1e-6)
    optim.add_argument(
        "--accumulate", type=int, default=1, metavar="K",
        help="micro-batches per process: the same gradient (but for BatchNorm, whose statistics are those of a "
        "micro-batch) in less memory, with twice the forward passes",
    )  # fmt: skip
    optim.add_argument(
        "--optimizer", choices=["lars", "adamw"], default="lars",
        help="lars as in the paper; adamw learns faster in short runs with small batches (--lr 0.002 "
        "--weight-decay 0.01)",
    )  # fmt: skip
    optim.add_argument(
        "--lr", type=float, default=0.3, help="peak learning rate for 256 samples; scales with the batch"
    )
    add_alias(optim, "--base-lr", "lr", float)
    optim.add_argument(
        "--ema-decay", type=float, default=0.0, metavar="D",
        help="write and probe the exponential moving average of the backbone's weights with this decay, such as 0.99; "
        "0: the weights of the last step",
    )  # fmt: skip
    distributed.add_arguments(parser)
    return parser


def build_config(namespace: argparse.Namespace) -> PretrainConfig:
    """Build the configuration from the arguments of ``get_parser``."""
    return from_args(PretrainConfig, namespace, criterion=LOSSES[namespace.loss].build(namespace))
