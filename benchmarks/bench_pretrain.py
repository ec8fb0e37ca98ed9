#!/usr/bin/env python3
"""Time pretraining steps against lightly's VICReg recipe and against the network alone.

    python benchmarks/bench_pretrain.py --image-size 64 --batch-size 256 --mlp 8192-8192-8192

takes the same images, backbone, batch size, expander and number of steps in one process, alternates between the
recipes, and prints pairs per second and the ratios:

- ``ours``: augmentation of the batch, VICReg, loss and LARS of this repository;
- ``network``: forward and backward of the same network on fixed images, and plain SGD, with PyTorch's convolutions for
  maps of all sizes (ours computes small ones on a CPU by matrix products);
- ``reference``: the recipe of the paper from its description: transform of PIL images by torchvision, D x D covariance
  matrices, LARS of timm;
- ``lightly``: lightly's transform (PIL), loss, projection head and LARS, where lightly is installed
  (``pip install -r requirements-bench.txt``). The images of both are transformed by ``--workers`` loading processes.

With ``--separate``, the recipes run one after another, ``--steps`` timed steps after as many untimed ones: on a GPU,
loading processes would otherwise work ahead while the other recipes take their turns.

``--profile`` prints the parts of our step instead: wall time, processor time in user and system mode, page faults.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.lightly_recipe import lightly_step
from benchmarks.reference_recipe import reference_step
from benchmarks.step_profile import Profile, describe_machine, synchronize
from vicreg import distributed
from vicreg.augmentations import fusion
from vicreg.augmentations.batch import augment_pair, normalize
from vicreg.augmentations.presets import PRESETS, get_augmentation
from vicreg.common import cli
from vicreg.engine.optim import build_optimizer
from vicreg.engine.parallel import reuse_freed_memory, to_device
from vicreg.losses import vicreg_loss
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD, create_backbone
from vicreg.models.small_maps import SmallMapConv2d
from vicreg.models.vicreg import VICReg, parse_mlp

RECIPES = ("ours", "network", "reference", "lightly")
Step = Callable[[], Any]
Mark = Callable[[str], None]


def our_step(args: argparse.Namespace, images: torch.Tensor, device: torch.device, mark: Mark) -> Step:
    """Return a function that takes one pretraining step of this repository."""
    fusion.compile_operations(args.compile and device.type == "cuda")
    model = _model(args, device)
    optimizer = build_optimizer("lars", model, 1e-6)
    views, steps, images = get_augmentation(args.augment), iter(range(2**31)), images.to(device)

    def step() -> None:
        optimizer.zero_grad()
        mark("zero_grad")
        made = augment_pair(
            images, images, views, args.image_size, batch_size=len(images), rank=0, seed=0, step=next(steps),
            device=device,
        )  # fmt: skip
        view1, view2 = (normalize(view, IMAGENET_MEAN, IMAGENET_STD) for view in made)
        mark("augmentation")
        with _autocast(args, device):
            z1, z2, _ = model(view1, view2)
        mark("forward")
        loss = vicreg_loss(z1, z2)["loss"]
        mark("loss")
        loss.backward()
        mark("backward")
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.step()
        mark("optimizer")

    return step


def network_step(args: argparse.Namespace, images: torch.Tensor, device: torch.device, mark: Mark) -> Step:
    """Return a function of forward, backward and plain SGD on fixed images."""
    model = _model(args, device)
    for module in model.modules():
        if isinstance(module, SmallMapConv2d):
            module.__class__ = nn.Conv2d
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    shape = (len(images), images.shape[1], args.image_size, args.image_size)
    view1, view2 = (torch.randn(shape, device=device) for _ in range(2))

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(args, device):
            z1, z2, _ = model(view1, view2)
        (z1.float().square().mean() + z2.float().square().mean()).backward()
        optimizer.step()

    return step


def _model(args: argparse.Namespace, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return to_device(VICReg(create_backbone(args.arch), parse_mlp(args.mlp)), device, args.compile).train()


def _autocast(args: argparse.Namespace, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    parser.add_argument("--image-size", type=int, default=64, help="side of the views in pixels")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs of a step")
    parser.add_argument("--mlp", default="8192-8192-8192", help="widths of the expander")
    parser.add_argument("--augment", choices=list(PRESETS), default="vicreg", help="our augmentation")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each recipe")
    parser.add_argument("--workers", type=int, default=2, help="loading processes of reference and lightly")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="what to time (default: all that are installed)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic")
    parser.add_argument("--compile", action="store_true", help="compile ours (with augmentation) and network")
    parser.add_argument("--separate", action="store_true", help="do not alternate: --steps after as many untimed ones")
    parser.add_argument("--profile", action="store_true", help="print the parts of our step instead")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time the recipes alternately, after one warm-up step of each."""
    cli.check_positive(args, "image_size", "batch_size", "steps")
    parse_mlp(args.mlp)
    if args.batch_size < 2:
        raise ValueError("--batch-size 1: the loss compares samples, at least 2 are needed")
    device = distributed.init(args.device)
    reuse_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    print(
        f"{args.arch}, {args.image_size} px, batch {args.batch_size}, expander {args.mlp}, {args.precision}, "
        f"{describe_machine(device)}",
        flush=True,
    )
    if args.profile:
        _profile(args, images, device)
        return
    recipes = args.recipes or [recipe for recipe in RECIPES if recipe != "lightly" or find_spec("lightly")]
    builders = {"ours": our_step, "network": network_step, "reference": reference_step, "lightly": lightly_step}
    try:
        time_recipes = _time_separately if args.separate else _time_alternately
        seconds = time_recipes(args, {recipe: builders[recipe] for recipe in recipes}, images, device)
    except ImportError as error:
        raise ValueError(f"--recipes lightly: {error}; pip install -r requirements-bench.txt") from error
    for recipe, values in seconds.items():
        line = f"{recipe:8} {args.batch_size / statistics.median(values):9.1f} pairs/s"
        if recipe != "ours" and "ours" in seconds:
            ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], values, strict=True)]
            line += f"   ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


def _time_alternately(
    args: argparse.Namespace, builders: dict[str, Callable[..., Step]], images: torch.Tensor, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each step, which the recipes take in turns."""
    steps = {recipe: build(args, images, device, lambda part: None) for recipe, build in builders.items()}
    seconds: dict[str, list[float]] = {recipe: [] for recipe in steps}
    for turn in range(args.steps + 1):  # the first turn warms up
        for recipe, step in steps.items():
            started = time.perf_counter()
            step()
            synchronize(device)
            if turn:
                seconds[recipe].append(time.perf_counter() - started)
    return seconds


def _time_separately(
    args: argparse.Namespace, builders: dict[str, Callable[..., Step]], images: torch.Tensor, device: torch.device
) -> dict[str, list[float]]:
    """Return the mean seconds of a step of each recipe, over ``--steps`` steps after as many."""
    seconds: dict[str, list[float]] = {}
    for recipe, build in builders.items():
        step = build(args, images, device, lambda part: None)
        for half in range(2):
            synchronize(device)
            started = time.perf_counter()
            for _ in range(args.steps):
                step()
            synchronize(device)
            if half:
                seconds[recipe] = [(time.perf_counter() - started) / args.steps]
        del step  # and the loading processes
    return seconds


def _profile(args: argparse.Namespace, images: torch.Tensor, device: torch.device) -> None:
    """Print the parts of our step."""
    profile = Profile(device)
    step = our_step(args, images, device, profile)
    step()
    profile.parts.clear()
    for _ in range(args.steps):
        profile.restart()
        step()
    print(profile.table())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.1f} GiB")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
