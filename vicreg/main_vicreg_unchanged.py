#!/usr/bin/env python3
"""Pretrain a backbone with VICReg as the paper does, on ImageNet or any other folder of images.

    python -m torch.distributed.launch --nproc_per_node=3 main_vicreg_unchanged.py \
        --data-dir /path/to/imagenet/train --exp-dir path/to/exp --arch resnet50 --epochs 100 --batch-size 512 \
        --base-lr 0.3

prints what is held out for the kNN probe, files that are broken, the plan (512 over 3 processes is 510), then a line
an epoch, and leaves ``model.pth`` and ``trained_model.pth`` in ``--exp-dir``. Start it again to go on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.data import image_folder
from vicreg.engine import (
    config,
    pretrain,
)


def get_parser():
    """Arguments of pretraining, and those of a folder of images."""
    parser = config.get_parser(__doc__.split("\n")[0], augment="vicreg")
    parser.set_defaults(image_size=224)
    image_folder.add_arguments(parser)
    return parser


def main(args):
    """Pretrain on the training images; probe against the validation images."""
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    train, val, _ = image_folder.load_folder(args.data_dir, device, args.image_size, not args.no_check)
    probe_sets = (train, val) if args.probe_every else None
    pretrain.pretrain(args, train, probe_sets, f"VICReg, {args.arch}, images of {args.data_dir.resolve()}")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
