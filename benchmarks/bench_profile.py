#!/usr/bin/env python3
"""Profile pretraining steps for a grid of settings, and compare each with a prediction from operations.

    python benchmarks/bench_profile.py --precision bf16

starts ``bench_pretrain.py --profile`` for each setting in a process of its own and prints a Markdown table of the parts
of a step. The prediction takes the operations of the network (forward and backward, by PyTorch's ``FlopCounterMode``)
at the rate of the first setting, the optimizer in proportion to the parameters, and augmentation in proportion to the
pixels. A step that takes longer than predicted uses the processor less well than the first.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.processes import run_bench_pretrain
from vicreg.common import cli
from vicreg.models.backbones import create_backbone
from vicreg.models.vicreg import VICReg, parse_mlp

SETTINGS = (
    "resnet18,64,256,1024", "resnet18,32,256,1024", "resnet18,224,64,1024", "resnet18,64,256,8192",
    "resnet18,64,64,1024", "resnet18,64,1024,1024", "resnet50,64,256,1024", "resnet50,224,64,8192",
    "vit_small_patch16_224,64,256,1024", "vit_small_patch16_224,224,64,1024",
)  # fmt: skip
PARTS = ("augmentation", "forward", "loss", "backward", "optimizer", "whole step")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "--settings", nargs="+", default=SETTINGS, metavar="ARCH,SIDE,BATCH,WIDTH",
        help="backbone, side of the views, pairs of a step, width of the expander (default: ten settings)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each setting")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser


def parse_setting(text: str) -> tuple[str, int, int, int]:
    """Return backbone, side, batch and width of the expander.

    Raises:
        ValueError: The text has another form.
    """
    arch, *numbers = text.split(",")
    if not arch or len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise ValueError(f"--settings {text}: expected ARCH,SIDE,BATCH,WIDTH, such as resnet18,64,256,1024")
    side, batch, width = map(int, numbers)
    return arch, side, batch, width


def count_operations(arch: str, side: int, batch: int, width: int) -> tuple[float, float]:
    """Return the floating-point operations of forward and backward of a step, and the number of parameters."""
    torch.manual_seed(0)
    model = VICReg(create_backbone(arch), parse_mlp(f"{width}-{width}-{width}"))
    view = torch.randn(2, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        z1, z2, _ = model(view, view)
        (z1.sum() + z2.sum()).backward()
    return counter.get_total_flops() * batch / 2, sum(weight.numel() for weight in model.parameters())


def profile_step(args: argparse.Namespace, arch: str, side: int, batch: int, width: int) -> tuple[list[float], float]:
    """Return the seconds of each of ``PARTS`` and the peak memory of the process in GiB."""
    lines = run_bench_pretrain(args, arch, side, batch, width, "--profile")
    seconds = [float(line[14:23]) for part in PARTS for line in lines if line.startswith(part)]
    return seconds, float(lines[-1].split()[-2])


def main(args: argparse.Namespace) -> None:
    """Profile all settings and print a row for each."""
    cli.check_positive(args, "steps")
    settings = [parse_setting(text) for text in args.settings]
    for arch, *numbers in settings:
        try:
            create_backbone(arch)
        except ValueError as error:
            raise ValueError(f"--settings {arch},{','.join(map(str, numbers))}: {error}") from error
    print(f"| {args.precision} | " + " | ".join(PARTS) + " | predicted | measured / predicted | GFLOP/s | peak GiB |")
    print("|---" * (len(PARTS) + 5) + "|")
    base: dict[str, float] = {}
    for setting in settings:
        arch, side, batch, width = setting
        operations, weights = count_operations(*setting)
        seconds, peak = profile_step(args, *setting)
        augmentation, forward, loss, backward, optimizer, whole = seconds
        network, pixels = forward + loss + backward, batch * side**2
        base = base or {"rate": operations / network, "weight": optimizer / weights, "pixel": augmentation / pixels}
        predicted = operations / base["rate"] + weights * base["weight"] + pixels * base["pixel"]
        cells = [f"{value:.3f}" for value in (*seconds, predicted)]
        cells += [f"{whole / predicted:.2f}", f"{operations / network / 1e9:.0f}", f"{peak:.1f}"]
        print(f"| {arch}, {side} px, batch {batch}, {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
