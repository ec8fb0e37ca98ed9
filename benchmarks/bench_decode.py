#!/usr/bin/env python3
"""Time decoding images and cutting two random crops from each, on one core, against torchvision and PIL.

    python benchmarks/bench_decode.py --data-dir /path/to/imagenet/train --size 224

reads the same files in turns with this repository's loader, with its packed store, with torchvision (``decode_jpeg``
once, ``v2.RandomResizedCrop`` on the tensor twice), and with PIL (``Image.open`` once, torchvision's
``RandomResizedCrop`` twice), all bicubic and antialiased, and prints images per second of processor time and the
ratios. Without ``--data-dir``, it writes noisy JPEGs of 500 x 375 pixels.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.step_profile import format_ratio, processor_seconds
from vicreg.augmentations.batch import augment_pair
from vicreg.augmentations.presets import PRESETS, PROBE_VIEW
from vicreg.common import cli
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_io import is_image_name
from vicreg.data.image_pack import pack_images

VIEWS = PRESETS["crop"]  # crop and flip alone


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of JPEGs, searched at any depth")
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    parser.add_argument("--images", type=int, default=128, help="files to read")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes of each")
    return parser


def write_jpegs(folder: Path, count: int) -> None:
    """Write smooth images with a little noise, 500 x 375 pixels, as JPEGs of quality 90."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(coarse).astype(int) + random.integers(-12, 13, (375, 500, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def pipelines(paths: list[Path], size: int, folder: Path) -> dict[str, Callable[[int], object]]:
    """Return functions of a pass that make two uint8 crops of each image; that of the store also augments them."""
    crop = v2.RandomResizedCrop(
        size, PROBE_VIEW.scale, PROBE_VIEW.ratio, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    to_tensor = v2.PILToTensor()
    images = ImageDataset(paths, [0] * len(paths), ["image"], side=decode_size(size))
    packed = pack_images(images, folder / "pack", decode_size(size))
    images.set_views(VIEWS, size)

    def keys(step: int) -> list[tuple[int, int]]:
        return [(index, step * len(paths) + index) for index in range(len(paths))]

    def ours(step: int) -> object:
        return [images.__getitems__([key]) for key in keys(step)]  # one at a time: in this thread

    def store(step: int) -> object:
        pair = packed.__getitems__(keys(step))
        return augment_pair(
            *pair, VIEWS, size, batch_size=len(paths), rank=0, seed=0, step=step, device=torch.device("cpu")
        )

    def torchvision_tensors(step: int) -> object:
        decoded = (decode_jpeg(read_file(str(path)), ImageReadMode.RGB) for path in paths)
        return [(crop(image), crop(image)) for image in decoded]

    def pil(step: int) -> object:
        decoded = (Image.open(path).convert("RGB") for path in paths)
        return [(to_tensor(crop(image)), to_tensor(crop(image))) for image in decoded]

    return {"ours": ours, "ours, --pack": store, "torchvision": torchvision_tensors, "PIL": pil}


def main(args: argparse.Namespace) -> None:
    """Time the pipelines alternately, after one warm-up pass of each."""
    cli.check_positive(args, "size", "images", "repeats")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = args.data_dir or Path(name)
        if args.data_dir is None:
            write_jpegs(folder, args.images)
        paths = sorted(path for path in folder.rglob("*.[jJ]*") if is_image_name(path.name))
        paths = paths[:: max(1, len(paths) // args.images)][: args.images]
        if not paths:
            raise ValueError(f"--data-dir {folder}: no JPEGs")
        timed = pipelines(paths, args.size, Path(name))
        seconds = processor_seconds(timed, args.repeats)
    print(f"one thread, torch {torch.__version__}, {len(paths)} images, two crops of {args.size} px each; ours / other")
    for kind, values in seconds.items():
        print(f"  {kind:13}{len(paths) / statistics.median(values):8.0f} images/s  {format_ratio(seconds, kind)}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
