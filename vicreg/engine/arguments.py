"""Command-line arguments of training scripts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vicreg.common.trackers import TRACKERS
from vicreg.eval.config import add_weight_bands_argument

_MAX_SIDE = 2**31 - 1


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
    run.add_argument("--checkpoint-every", type=int, help="steps between checkpoints; None: one epoch")
    run.add_argument(
        "--deterministic", action="store_true",
        help="use deterministic GPU algorithms, somewhat slower (CPUs are deterministic anyway)",
    )  # fmt: skip
    add_tracker_argument(run, "settings, metrics and views")
    run.add_argument("--log-freq-time", type=float, default=60, help="seconds between log lines within an epoch")
    return run


def add_tracker_argument(group: argparse._ArgumentGroup, what: str) -> None:
    """Add ``--tracker``, which shows ``what``."""
    group.add_argument(
        "--tracker", choices=list(TRACKERS), default="tensorboard",
        help=f"show {what} there too; wandb, mlflow and trackio if they are installed",
    )  # fmt: skip


def add_alias(
    parser: argparse._ActionsContainer, flag: str, dest: str, type: Callable[[str], Any] = str, nargs: str | None = None
) -> None:
    """Accept a former spelling of an option, without a mention in the help text."""
    parser.add_argument(flag, dest=dest, type=type, nargs=nargs, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_init_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the arguments of initial weights."""
    group.add_argument("--init-from", help="initial weights: a file that --pretrained takes, or imagenet")
    add_weight_bands_argument(group, "--init-from")


def add_data_arguments(
    group: argparse._ArgumentGroup, size_type: Callable[[str], Any] = int, more_sizes: str = ""
) -> None:
    """Add the arguments of views and loading.

    Args:
        group: Argument group to extend.
        size_type: Type of ``--image-size``.
        more_sizes: Other values that it takes than a number, for its help text.
    """
    group.add_argument(
        "--image-size", type=size_type, help=f"side of the views in pixels{more_sizes}; None: 7/8 of the images' side"
    )
    group.add_argument("--workers", type=int, default=2, help="loading processes per training process")
    group.add_argument("--cache-on-device", action="store_true", help="keep all patches in the device's memory")
    add_alias(group, "--store", "cache_on_device", _store)


def growing_size(text: str) -> int | tuple[int, int]:
    """Read a size in pixels, or two of them as ``32:64``: the first and the last of a run."""
    try:
        sizes = tuple(int(part) for part in text.split(":"))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2) or max(sizes) > _MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: a number of pixels, or two as in 32:64, expected")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def add_aug_override(group: argparse._ArgumentGroup, example: str) -> None:
    """Add ``--aug-override``, which changes values of an augmentation preset."""
    group.add_argument(
        "--aug-override", nargs="+", default=[], metavar="NAME=VALUE", help=f"change values of the preset: {example}"
    )
    add_alias(group, "--augment-set", "aug_override", nargs="+")


def add_optimization_arguments(group: argparse._ArgumentGroup, batch_size: int, weight_decay: float) -> None:
    """Add the arguments of optimization that do not depend on the task, with the task's defaults."""
    group.add_argument("--epochs", type=int, default=100, help="passes over the data")
    group.add_argument("--batch-size", type=int, default=batch_size, help="samples of all processes together")
    group.add_argument("--weight-decay", type=float, default=weight_decay, help="weight decay")
    add_alias(group, "--wd", "weight_decay", float)
    add_precision_argument(group)
    group.add_argument("--compile", action="store_true", help="torch.compile the network")


def add_precision_argument(group: argparse._ActionsContainer) -> None:
    """Add ``--precision`` of training scripts to a parser or group."""
    group.add_argument(
        "--precision", choices=["auto", "bf16", "fp32"], default="auto",
        help="auto: bf16 on GPUs that compute in it, and on CPUs that train faster in it",
    )  # fmt: skip


def _store(value: str) -> bool:
    """Read a value of ``--store``, the former spelling of ``--cache-on-device``."""
    if value not in ("disk", "device"):
        raise argparse.ArgumentTypeError(f"invalid choice: {value!r} (choose from disk, device)")
    return value == "device"
