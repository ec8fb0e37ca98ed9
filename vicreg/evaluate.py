#!/usr/bin/env python3
"""Evaluate a backbone on ImageNet or any other folder of images: a linear head on frozen features, or finetuning.

    python evaluate.py --pretrained path/to/model.pth --batch-size 128 --data-dir /path/to/imagenet/train \
        --exp-dir path/to/exp --weights frozen --epochs 20 --lr-head 0.02

prints what was loaded, kNN accuracy, then top-1 and top-5 during training, and writes ``stats.txt`` and ``result.json``
to ``<exp-dir>/<freeze|finetune>_<percent>/``.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg import distributed
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.common.files import check_outside
from vicreg.data import image_folder
from vicreg.eval import config as eval_config
from vicreg.eval.transfer import evaluate
from vicreg.models.backbones import BASELINES
from vicreg.models.weight_files import read_record, recorded_levels


def get_parser() -> argparse.ArgumentParser:
    """Build the parser: the options of an evaluation and of a folder of images."""
    parser = eval_config.get_parser((__doc__ or "").split("\n")[0])
    parser.set_defaults(image_size=224)
    image_folder.add_arguments(parser, "default: those of --pretrained").add_argument(
        "--train-files", type=Path, metavar="FILE",
        help="train on the images of this list, one name per line (n01440764_10026.JPEG), not on --train-percent",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training images, or those of a list; evaluate on the validation images."""
    config = from_args(eval_config.EvaluationConfig, args)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    check_outside(args.exp_dir, args.data_dir)
    levels = args.levels or recorded_levels(map(read_record, {config.pretrained} - {*BASELINES}))
    train, val, indices = image_folder.load_folder(
        args.data_dir, args.image_size, not args.no_check, args.train_files, bands=args.bands, levels=levels
    )
    evaluate(config, train, val, device, indices, cli.to_serializable(vars(args)))
    distributed.destroy()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
