#!/usr/bin/env python3
"""Evaluate a backbone on ImageNet or any other folder of images: a linear head on frozen features, or finetuning.

    python evaluate.py --pretrained path/to/model.pth --batch-size 128 --data-dir /path/to/imagenet/train \
        --exp-dir path/to/exp --weights frozen --epochs 20 --lr-head 0.02

prints what was loaded, kNN accuracy, then top-1 and top-5 as it goes, and writes ``stats.txt`` and ``result.json``
to ``<exp-dir>/<freeze|finetune>_<percent>/``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.data import image_folder
from vicreg.eval import linear_probe


def get_parser():
    """Arguments of the probe, and those of a folder of images."""
    parser = linear_probe.get_parser(__doc__.split("\n")[0])
    parser.set_defaults(image_size=224)
    image_folder.add_arguments(parser).add_argument(
        "--train-files", type=Path, metavar="FILE",
        help="train on the images of this list, one name a line (n01440764_10026.JPEG), in place of --train-percent",
    )  # fmt: skip
    return parser


def main(args):
    """Train on the training images, or those of a list; judge on the validation images."""
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    train, val, chosen = image_folder.load_folder(
        args.data_dir, device, args.image_size, not args.no_check, args.train_files
    )
    linear_probe.probe(args, train, val, chosen)


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
