"""Command-line arguments of training scripts."""

import argparse
from pathlib import Path

from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.common.config import from_args
from vicreg.engine.config import PretrainConfig
from vicreg.losses import LOSSES


def add_run_arguments(parser: argparse.ArgumentParser, seeded: str) -> argparse._ArgumentGroup:
    """Add the arguments of every run that can be resumed.

    Args:
        parser: Parser to extend.
        seeded: What ``--seed`` determines, for its help text.

    Returns:
        The argument group, to add to.
    """
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="run folder; started again on it, the run resumes")
    run.add_argument("--seed", type=int, default=0, help=f"seed of {seeded}")
    run.add_argument("--max-steps", type=int, help="shorten the run to this many steps")
    run.add_argument("--checkpoint-every", type=int, help="steps between checkpoints (default: an epoch)")
    run.add_argument(
        "--deterministic", action="store_true",
        help="use deterministic GPU algorithms, somewhat slower (CPUs are deterministic anyway)",
    )  # fmt: skip
    run.add_argument("--log-freq-time", type=float, default=60, help="seconds between log lines within an epoch")
    return run


def add_alias(parser: argparse._ActionsContainer, flag: str, dest: str, type: type = str) -> None:
    """Accept a former spelling of an option, without a mention in the help text."""
    parser.add_argument(flag, dest=dest, type=type, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_data_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the arguments of views and loading."""
    group.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    group.add_argument("--workers", type=int, default=2, help="loading processes per training process")
    group.add_argument("--cache-on-device", action="store_true", help="keep all patches in the device's memory")
    group.add_argument(
        "--store", dest="cache_on_device", type=_store, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def add_aug_override(group: argparse._ArgumentGroup, example: str) -> None:
    """Add ``--aug-override``, which changes values of an augmentation preset."""
    flags = {"dest": "aug_override", "nargs": "+", "metavar": "NAME=VALUE"}
    group.add_argument("--aug-override", default=[], help=f"change values of the preset: {example}", **flags)
    group.add_argument("--augment-set", default=argparse.SUPPRESS, help=argparse.SUPPRESS, **flags)


def add_optimization_arguments(group: argparse._ArgumentGroup, batch_size: int, weight_decay: float) -> None:
    """Add the arguments of optimization that do not depend on the task, with the task's defaults."""
    group.add_argument("--epochs", type=int, default=100, help="passes over the data")
    group.add_argument("--batch-size", type=int, default=batch_size, help="samples of all processes together")
    group.add_argument("--weight-decay", type=float, default=weight_decay, help="weight decay")
    add_alias(group, "--wd", "weight_decay", float)
    group.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    group.add_argument("--compile", action="store_true", help="torch.compile the network")


def _store(value: str) -> bool:
    """Read a value of ``--store``, the former spelling of ``--cache-on-device``."""
    if value not in ("disk", "device"):
        raise argparse.ArgumentTypeError(f"invalid choice: {value!r} (choose from disk, device)")
    return value == "device"


def get_parser(description: str, augment: str = "vicreg") -> argparse.ArgumentParser:
    """Return a parser with the arguments of every pretraining script; scripts add those of their data.

    Args:
        description: First line of the help text.
        augment: Default of ``--augment``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run = add_run_arguments(parser, "weights, order and augmentation")
    run.add_argument("--probe-every", type=int, default=10, help="epochs between kNN probes; 0: none")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet50", help="backbone, any timm name")
    model.add_argument("--in-chans", type=int, default=3, help="channels of the images")
    model.add_argument("--init-from", help="initial weights: a file that --pretrained takes, or imagenet")
    model.add_argument("--mlp", default="8192-8192-8192", help="widths of the expander")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--loss", choices=list(LOSSES), default="vicreg", help="loss of the embeddings")
    for build in LOSSES.values():
        build.add_arguments(loss)
    data = parser.add_argument_group("views")
    data.add_argument("--augment", default=augment, choices=list(presets.PRESETS), help="augmentation preset")
    add_aug_override(data, "scale=0.3,1 for both views, 2.blur_p=0 for the second")
    add_data_arguments(data)
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
    distributed.add_arguments(parser)
    return parser


def pretrain_config(namespace: argparse.Namespace) -> PretrainConfig:
    """Build the configuration from the arguments of ``get_parser``."""
    return from_args(PretrainConfig, namespace, criterion=from_args(LOSSES[namespace.loss], namespace))
