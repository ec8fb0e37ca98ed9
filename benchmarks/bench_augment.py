#!/usr/bin/env python3
"""Time the augmentation of VICReg views on one core against lightly's PIL pipeline and torchvision v2.

    python benchmarks/bench_augment.py --sizes 32 64 224

makes views of the same random images with the same kinds of operations (random resized crop, flip, color jitter,
grayscale, blur, normalization), alternates between the three on one thread, and prints views per second of processor
time and the ratios. lightly is left out where it is not installed (``pip install -r requirements-bench.txt``).
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.step_profile import format_ratio, processor_seconds
from vicreg.augmentations.batch import augment_batch, normalize
from vicreg.augmentations.presets import PRESETS
from vicreg.common import cli
from vicreg.engine.parallel import reuse_freed_memory
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD


def ours(images: torch.Tensor, size: int) -> Callable[[int], None]:
    """Return a function of a step that makes one view of each image with this repository's augmentation."""
    view, device = PRESETS["vicreg"][0], torch.device("cpu")

    def make(step: int) -> None:
        views = augment_batch(images, view, size, batch_size=len(images), rank=0, seed=0, step=step, device=device)
        normalize(views, IMAGENET_MEAN, IMAGENET_STD)

    return make


def torchvision_v2(images: torch.Tensor, size: int) -> Callable[[int], None]:
    """Return the same with torchvision's transforms on uint8 tensors, the faster of its input types."""
    view = PRESETS["vicreg"][0]
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_p),
            v2.RandomGrayscale(view.gray_p),
            v2.GaussianBlur(17, view.blur_sigma),  # four of the largest sigma to each side
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def make(step: int) -> None:
        torch.stack([transform(image) for image in images])

    return make


def lightly(images: torch.Tensor, size: int) -> Callable[[int], None]:
    """Return the same with lightly's VICReg transform on PIL images."""
    from lightly.transforms.vicreg_transform import VICRegViewTransform

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    transform = VICRegViewTransform(input_size=size, gaussian_blur=1.0, solarize_prob=0.0)

    def make(step: int) -> None:
        torch.stack([transform(picture) for picture in pictures])

    return make


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 224], help="sides of the views in pixels")
    parser.add_argument("--images", type=int, default=64, help="images of a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed batches of each")
    return parser


def main(args: argparse.Namespace) -> None:
    """Time the pipelines alternately, after one warm-up batch of each."""
    cli.check_positive(args, "images", "repeats")
    if min(args.sizes) < 1:
        raise ValueError(f"--sizes {min(args.sizes)}: 1 pixel or more is needed")
    torch.set_num_threads(1)
    reuse_freed_memory()
    print(f"one thread, torch {torch.__version__}, views per second of processor time")
    for size in args.sizes:
        side = size if size < 224 else round(size * 8 / 7)  # patches of 32 and 64, photographs of 256 for 224
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (args.images, 3, side, side), generator=generator, dtype=torch.uint8)
        pipelines = {"ours": ours(images, size), "torchvision v2": torchvision_v2(images, size)}
        try:
            pipelines["lightly"] = lightly(images, size)
        except ImportError:
            print("lightly is not installed")
        seconds = processor_seconds(pipelines, args.repeats)
        for name, values in seconds.items():
            print(
                f"{size:4} px  {name:15}{args.images / statistics.median(values):9.0f}  {format_ratio(seconds, name)}"
            )


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
