#!/usr/bin/env python3
"""Time the VICReg loss against the textbook D x D formula, forward and backward, in one process.

    python benchmarks/bench_loss.py [--samples 256] [--dim 8192] [--repeats 7]

prints the medians, their ratio, and the largest tensor that each makes.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vicreg.losses.vicreg import vicreg_loss


def textbook_loss(z1, z2):
    """Equations 1 to 6 of the paper as they stand, with the D x D covariance matrices."""
    variance, covariance = [], []
    for z in (z1, z2):
        centered = z - z.mean(0)
        c = centered.T @ centered / (len(z) - 1)
        variance.append(torch.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean())
        covariance.append((c - torch.diag(c.diagonal())).square().sum() / z.shape[1])
    return 25 * (z1 - z2).square().mean() + 25 * (variance[0] + variance[1]) / 2 + covariance[0] + covariance[1]


class LargestTensor(TorchDispatchMode):
    """Watches every operation and remembers the largest tensor that one returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def measure(loss, z1, z2, device):
    """Seconds of one forward and backward pass."""
    z1.grad = z2.grad = None
    begin = time.perf_counter()
    loss(z1, z2).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main():
    """Compare, alternating, after one warm-up each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=256, help="batch size N")
    parser.add_argument("--dim", type=int, default=8192, help="embedding width D")
    parser.add_argument("--repeats", type=int, default=7, help="counted runs of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args()
    torch.manual_seed(0)
    z1 = torch.randn(args.samples, args.dim, device=args.device, requires_grad=True)
    z2 = (z1.detach() + 0.3 * torch.randn_like(z1)).requires_grad_()
    contenders = {"ours": lambda a, b: vicreg_loss(a, b)["loss"], "textbook": textbook_loss}
    values, gradients, largest, seconds = {}, {}, {}, {name: [] for name in contenders}
    for name, loss in contenders.items():
        with LargestTensor() as watch:
            measure(loss, z1, z2, args.device)
        largest[name], gradients[name] = watch.elements, z1.grad.clone()
        values[name] = loss(z1, z2).item()
    for _ in range(args.repeats):
        for name, loss in contenders.items():
            seconds[name].append(measure(loss, z1, z2, args.device))
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU"
    print(f"N = {args.samples}, D = {args.dim}, {where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in contenders:
        median = statistics.median(seconds[name])
        print(f"{name:9s} {1000 * median:9.1f} ms   loss {values[name]:.6f}   largest tensor {largest[name]:,} numbers")
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["textbook"], strict=True)]
    difference = (gradients["ours"] - gradients["textbook"]).norm() / gradients["textbook"].norm()
    print(f"ratio     {statistics.median(ratios):.0f} x (median of pairs; {min(ratios):.0f} to {max(ratios):.0f})")
    print(f"gradients differ by {difference.item():.1e}")


if __name__ == "__main__":
    main()
