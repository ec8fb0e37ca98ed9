#!/usr/bin/env python3
"""Evaluate a backbone on labeled patches of the user's own imagery: a linear head on frozen features, or finetuning.

    python evaluate_imagery.py --pretrained exp/mine/trained_model.pth --csv-dir ../data/mine --exp-dir exp/mine \
        --batch-size 128 --weights frozen --epochs 20 --lr-head 0.1 1 10

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
from vicreg.data import imagery
from vicreg.data.tables import verify_folder
from vicreg.eval import config as eval_config
from vicreg.eval.transfer import evaluate

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "imagery"


def get_parser() -> argparse.ArgumentParser:
    """Build the parser: the options of an evaluation and of imagery."""
    parser = eval_config.get_parser((__doc__ or "").split("\n")[0])
    parser.set_defaults(in_chans=None)
    imagery.add_arguments(parser, CSV_DIR)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the labeled patches of the training list, evaluate on those of the validation list."""
    cli.check_positive(args, "in_chans")
    if args.verify_data:
        log(verify_folder(args.csv_dir))
    train, val = (imagery.ImageryPatches(args.csv_dir / f"{part}.csv", labeled=True) for part in ("train", "val"))
    config = from_args(eval_config.EvaluationConfig, args, in_chans=args.in_chans or train.num_channels)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    evaluate(config, train, val, device, record=cli.to_serializable(vars(args)))
    distributed.destroy()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
