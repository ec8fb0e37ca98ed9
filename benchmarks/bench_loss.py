#!/usr/bin/env python3
"""Time the VICReg loss against the formula with D x D covariance matrices, forward and backward, in one process.

    python benchmarks/bench_loss.py --samples 256 --dim 8192 --repeats 7

prints the medians, their ratio, and the largest tensor of each.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.reference_recipe import reference_loss
from benchmarks.step_profile import describe_machine, synchronize
from vicreg import distributed
from vicreg.common import cli
from vicreg.losses import vicreg_loss


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record its results."""
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def measure(loss: Callable, z1: torch.Tensor, z2: torch.Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    z1.grad = z2.grad = None
    started = time.perf_counter()
    loss(z1, z2).backward()
    synchronize(z1.device)
    return time.perf_counter() - started


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--samples", type=int, default=256, help="batch size N")
    parser.add_argument("--dim", type=int, default=8192, help="embedding width D")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time both losses alternately, after one warm-up of each."""
    cli.check_positive(args, "samples", "dim", "repeats")
    if args.samples < 2:
        raise ValueError("--samples 1: the variance needs at least 2")
    device = distributed.init(args.device)
    torch.manual_seed(0)
    z1 = torch.randn(args.samples, args.dim, device=device, requires_grad=True)
    z2 = (z1.detach() + 0.3 * torch.randn_like(z1)).requires_grad_()
    losses = {"gram": lambda a, b: vicreg_loss(a, b)["loss"], "reference": reference_loss}
    values, gradients, largest, seconds = {}, {}, {}, {name: [] for name in losses}
    for name, loss in losses.items():
        with LargestTensor() as recorder:
            measure(loss, z1, z2)
        largest[name], gradients[name] = recorder.elements, z1.grad.clone()
        values[name] = loss(z1, z2).item()
    for _ in range(args.repeats):
        for name, loss in losses.items():
            seconds[name].append(measure(loss, z1, z2))
    print(f"N = {args.samples}, D = {args.dim}, {describe_machine(device)}")
    for name in losses:
        median = statistics.median(seconds[name])
        print(
            f"{name:9s} {1000 * median:9.1f} ms   loss {values[name]:.6f}   largest tensor {largest[name]:,} elements"
        )
    ratios = [reference / gram for gram, reference in zip(seconds["gram"], seconds["reference"], strict=True)]
    difference = (gradients["gram"] - gradients["reference"]).norm() / gradients["reference"].norm()
    print(f"ratio     {statistics.median(ratios):.0f} x (median of pairs; {min(ratios):.0f} to {max(ratios):.0f})")
    print(f"gradients differ by {difference.item():.1e}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
