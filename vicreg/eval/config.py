"""Options of the scripts that evaluate one backbone."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vicreg import distributed
from vicreg.common import cli
from vicreg.models.backbones import PARAMETER_FREE


@dataclass(frozen=True)
class EvaluationConfig:
    """Configuration of an evaluation; see ``get_parser`` for the fields.

    Raises:
        ValueError: A value is not valid, or values do not fit each other.
    """

    exp_dir: Path
    pretrained: str
    arch: str | None = None
    in_chans: int | None = None
    weight_bands: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    weights: str = "freeze"
    train_percent: list[int] = field(default_factory=lambda: [100])
    image_size: int | None = None
    views: int = 0
    epochs: int = 100
    batch_size: int = 256
    lr_head: list[float] = field(default_factory=lambda: [0.3])
    lr_backbone: float = 0.0
    weight_decay: float = 1e-6
    knn: list[int] = field(default_factory=lambda: [20])
    seed: int = 0
    seeds: int = 1
    workers: int = 2

    def __post_init__(self) -> None:
        cli.check_positive(self, "image_size", "in_chans", "epochs", "batch_size", "lr_head", "knn", "seeds", "std")
        cli.check_not_negative(self, "views", "weight_decay", "lr_backbone")
        if not self.frozen and (len(set(self.lr_head)) > 1 or self.views):
            raise ValueError("--weights finetune takes one --lr-head and no --views, since the features change")
        if not self.frozen and self.pretrained in PARAMETER_FREE:
            raise ValueError(f"--pretrained {self.pretrained} has no weights to finetune; use --weights freeze")

    @property
    def frozen(self) -> bool:
        """Whether the backbone is frozen."""
        return self.weights != "finetune"

    @property
    def protocol(self) -> str:
        """``freeze`` or ``finetune``; begins the names of result folders."""
        return "freeze" if self.frozen else "finetune"


def add_backbone_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the options that complete ``--pretrained``, the same for all evaluation scripts and ``export.py``."""
    group.add_argument("--arch", help="backbone by timm name, if the file does not record it")
    group.add_argument(
        "--in-chans", type=int, metavar="N",
        help="input channels; the first convolution of a file is adapted to them. None: those of the file, 3 of others",
    )  # fmt: skip
    add_weight_bands_argument(group)
    add_normalization_arguments(group)


def _band_number(text: str) -> int:
    """Read the number of a band."""
    if not 1 <= int(text) <= 10**4:
        raise argparse.ArgumentTypeError(f"{text}: the number of a band is 1 to 10000")
    return int(text)


def add_weight_bands_argument(group: argparse._ActionsContainer, of: str = "--pretrained") -> None:
    """Add ``--weight-bands``, which selects input channels of a file of weights."""
    group.add_argument(
        "--weight-bands", type=_band_number, nargs="+", metavar="BAND",
        help=f"input channels of {of} to select, counted from 1: 4 3 2 are red, green, blue of Sentinel-2's 13",
    )  # fmt: skip


def check_weight_bands(bands: Sequence[int] | None, weights: str | None, of: str = "--pretrained") -> None:
    """Raise ValueError if ``--weight-bands`` is given without the weights that it selects from, the value of ``of``."""
    if bands and not weights:
        raise ValueError(f"--weight-bands selects channels of the weights of {of}, which is missing")


def add_normalization_arguments(group: argparse._ActionsContainer) -> None:
    """Add ``--mean`` and ``--std``, for every script that loads a backbone."""
    group.add_argument(
        "--mean", type=float, nargs="+", metavar="M",
        help="mean of each channel of pixels in [0, 1], if the file does not store it",
    )  # fmt: skip
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="standard deviation of each channel, likewise")


def get_parser(description: str) -> argparse.ArgumentParser:
    """Build the parser that evaluation scripts share; they add the options of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="results go to <exp-dir>/<freeze|finetune>_<percent>/")
    run.add_argument("--seed", type=int, default=0, help="seed of subset, head, order and augmentation")
    run.add_argument("--seeds", type=int, default=1, help="repeat with this many seeds, from --seed on")
    run.add_argument("--workers", type=int, default=2, help="loading processes")
    backbone = parser.add_argument_group("backbone")
    backbone.add_argument(
        "--pretrained", required=True,
        help="trained_model.pth, model.pth, a checkpoint of another library, hf-hub:<repository>, local-dir:<folder>, "
        "or a baseline: random, imagenet, stats, pixels",
    )  # fmt: skip
    add_backbone_arguments(backbone)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train-percent", "--train-perc", type=int, nargs="+", default=[100], metavar="PERCENT",
        help="percentages of the training labels, such as 1 10 100; stratified by class, at least one sample each",
    )  # fmt: skip
    data.add_argument("--image-size", type=int, help="side of the views in pixels; None: 7/8 of the images' side")
    data.add_argument(
        "--views", type=int, default=0,
        help="frozen only: 0 augments anew in every epoch; K extracts K views of each sample once, the first one plain",
    )  # fmt: skip
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--weights", choices=["freeze", "frozen", "finetune"], default="freeze", help="what is trained")
    optim.add_argument("--epochs", type=int, default=100, help="passes over the training samples")
    optim.add_argument("--batch-size", type=int, default=256, help="samples of a step, of all processes together")
    optim.add_argument(
        "--lr-head", "--lr", type=float, nargs="+", default=[0.3],
        help="learning rate of the head; one of several is selected on a tenth of the training locations",
    )  # fmt: skip
    optim.add_argument("--lr-backbone", type=float, default=0.0, help="learning rate of the backbone (finetuning)")
    optim.add_argument("--weight-decay", "--wd", "--wd-head", type=float, default=1e-6, help="weight decay")
    optim.add_argument("--knn", type=int, nargs="*", default=[20], help="numbers of neighbors for kNN (frozen)")
    distributed.add_arguments(parser)
    return parser
