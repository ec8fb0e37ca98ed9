#!/usr/bin/env python3
"""Time pretraining steps against batch size, width of the expander, and image size, and plot them.

    python benchmarks/bench_growth.py --out docs/assets/growth.svg

varies each of the three alone, from the values of ``--base``; every point is a run of ``bench_pretrain.py`` in a
process of its own. Prints the seconds of each step and the exponents p of seconds ~ x^p, fitted to the larger half of
the points, and writes a plot (SVG or PNG).
"""

import argparse
import math
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.processes import run_bench_pretrain
from vicreg.common import cli, files
from vicreg.common.config import flag_of
from vicreg.common.plots import new_figure

LABELS = {"batch_sizes": "batch size N", "dims": "width D of the expander D-D-D", "image_sizes": "image side in pixels"}


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("growth.svg"), help="the plot (default: growth.svg)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096], metavar="N"
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384], metavar="D")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[32, 64, 96, 128, 160, 224], metavar="SIDE")
    parser.add_argument(
        "--base", type=int, nargs=3, default=[128, 1024, 32], metavar=("N", "D", "SIDE"),
        help="what the others are while one is varied (default: 128 1024 32)",
    )  # fmt: skip
    parser.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each point")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser


def step_seconds(args: argparse.Namespace, batch: int, dim: int, side: int) -> float:
    """Return the seconds of a step, from the output of ``bench_pretrain.py``."""
    lines = run_bench_pretrain(args, args.arch, side, batch, dim, "--recipes", "ours")
    return batch / next(float(line.split()[1]) for line in lines if line.startswith("ours "))


def first_fitted(sizes: list[int]) -> int:
    """Return the position at which the larger half begins; it has two or more sizes."""
    return min(len(sizes) // 2, len(sizes) - 2)


def fit_exponent(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Fit seconds = exp(b) * size^p to the larger half of two or more ascending sizes; return p and b."""
    first = first_fitted(sizes)
    slope, offset = np.polyfit(np.log(sizes[first:]), np.log(seconds[first:]), 1)
    return float(slope), float(offset)


def main(args: argparse.Namespace) -> None:
    """Time all points, then fit and plot."""
    cli.check_positive(args, "steps", "base", *LABELS)
    for name in LABELS:
        if len(set(getattr(args, name))) < 2:
            raise ValueError(f"{flag_of(name)}: two values or more are needed")
    files.check_writable(args.out, (".svg", ".png"))
    figure, axes = new_figure(1, 3, (11, 3.6))
    for position, (name, label) in enumerate(LABELS.items()):
        sizes, seconds = sorted(set(getattr(args, name))), []
        for size in sizes:
            batch, dim, side = (size if index == position else value for index, value in enumerate(args.base))
            seconds.append(step_seconds(args, batch, dim, side))
            print(f"batch {batch:5}  expander {dim:5}  {side:3} px  {seconds[-1]:9.3f} s", flush=True)
        slope, offset = fit_exponent(sizes, seconds)
        print(f"seconds ~ ({label})^{slope:.2f}")
        axis = axes[0, position]
        axis.loglog(sizes, seconds, "o")
        fitted = sizes[first_fitted(sizes) :]
        axis.loglog(fitted, [math.exp(offset) * size**slope for size in fitted], "-", label=f"exponent {slope:.2f}")
        axis.set(xlabel=label, ylabel="seconds per step", xticks=sizes, xticklabels=sizes)
        axis.minorticks_off()
        axis.tick_params(axis="x", labelrotation=45)
        axis.legend()
    files.atomic_write(args.out, figure.savefig)
    print(f"{args.out} written")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
