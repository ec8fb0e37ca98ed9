#!/usr/bin/env python3
"""Evaluate a backbone on SpaceNet-7 patches: a linear head on frozen features, or finetuning.

    python evaluate_sn7.py --pretrained exp/trained_model.pth --batch-size 128 --exp-dir exp --weights frozen \
        --epochs 100 --lr-head 0.08 --arch resnet18

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
from vicreg.data import tables
from vicreg.data.sn7 import SN7Patches
from vicreg.eval import config as eval_config
from vicreg.eval.transfer import evaluate

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "sn7"


def get_parser() -> argparse.ArgumentParser:
    """Build the parser: the options of an evaluation and of the SN7 patches."""
    parser = eval_config.get_parser((__doc__ or "").split("\n")[0])
    data = parser.add_argument_group("SN7")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_sn7_csv.py")
    data.add_argument("--data-dir", type=Path, help="SN7 tree, if the folder has no patches.npy")
    tables.add_verify_argument(data)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training list, evaluate on the validation list."""
    config = from_args(eval_config.EvaluationConfig, args)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    if args.verify_data:
        log(tables.verify_folder(args.csv_dir))
    train, val = (SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val"))
    evaluate(config, train, val, device, record=cli.to_serializable(vars(args)))
    distributed.destroy()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
