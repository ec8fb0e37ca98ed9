#!/usr/bin/env python3
"""Evaluate a backbone on fMoW: a linear head on frozen features, or finetuning.

    python evaluate_fmow.py --pretrained exp/fmow/trained_model.pth --csv-dir ../data/fmow --exp-dir exp/fmow \
        --batch-size 128 --weights frozen --epochs 20 --lr-head 0.02

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
from vicreg.common.logger import log
from vicreg.data.fmow import fmow_images
from vicreg.data.image_dataset import decode_size
from vicreg.data.tables import add_verify_argument, verify_folder
from vicreg.eval import config as eval_config
from vicreg.eval.transfer import evaluate

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser() -> argparse.ArgumentParser:
    """Build the parser: the options of an evaluation and of fMoW."""
    parser = eval_config.get_parser((__doc__ or "").split("\n")[0])
    parser.set_defaults(image_size=224)
    data = parser.add_argument_group("fMoW")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_fmow_csv.py")
    add_verify_argument(data)
    data.add_argument("--data-dir", type=Path, help="fMoW tree, if it has moved since")
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training list, evaluate on the validation list."""
    config = from_args(eval_config.EvaluationConfig, args)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    if args.verify_data:
        log(verify_folder(args.csv_dir))
    side = decode_size(args.image_size)
    train, val = (
        fmow_images(args.csv_dir / f"{split}.csv", data_dir=args.data_dir, side=side) for split in ("train", "val")
    )
    evaluate(config, train, val, device, record=cli.to_serializable(vars(args)))
    distributed.destroy()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
