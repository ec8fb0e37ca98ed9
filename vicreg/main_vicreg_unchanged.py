#!/usr/bin/env python3
"""Pretrain a backbone with VICReg as the paper does, on ImageNet or any other folder of images.

    python -m torch.distributed.launch --nproc_per_node=3 main_vicreg_unchanged.py \
        --data-dir /path/to/imagenet/train --exp-dir path/to/exp --arch resnet50 --epochs 100 --batch-size 512 \
        --lr 0.3

prints the images held out for the kNN probe, broken files, the plan (512 over 3 processes is 510), then a line per
epoch, and writes ``model.pth`` and ``trained_model.pth`` to ``--exp-dir``. Started again on the same folder, the run
resumes.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # import from the repository root, from any working directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.common.files import check_outside
from vicreg.data import image_folder, image_pack
from vicreg.data.image_dataset import decode_size
from vicreg.engine import pretrain_config
from vicreg.engine.parallel import init_device
from vicreg.engine.pretrain import pretrain


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the arguments of pretraining, and those of a folder of images."""
    parser = pretrain_config.get_parser(__doc__.split("\n")[0], augment="vicreg")
    parser.set_defaults(image_size=224)
    image_pack.add_arguments(image_folder.add_arguments(parser))
    return parser


def main(args: argparse.Namespace) -> None:
    """Pretrain on the training images; probe on the validation images."""
    config = pretrain_config.build_config(args)
    init_device(config)
    check_outside(args.exp_dir, args.data_dir)
    if config.pack_size and not args.pack:
        raise ValueError("--pack-size is for --pack, which is missing")
    train, val, _ = image_folder.load_folder(
        args.data_dir, config.final_image_size, not args.no_check, bands=args.bands, levels=args.levels
    )
    sets: list[Any] = [train, val] if config.probe_every else [train]
    if args.pack:
        check_outside(args.pack, args.data_dir, "--pack")
        side = config.pack_size or decode_size(config.final_image_size)
        config = dataclasses.replace(config, pack_size=side)
        sets = [image_pack.pack_images(images, args.pack, side) for images in sets]
    probe_sets = (sets[0], sets[1]) if config.probe_every else None
    pretrain(config, sets[0], probe_sets, f"VICReg, {config.arch}, images of {args.data_dir.resolve()}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
