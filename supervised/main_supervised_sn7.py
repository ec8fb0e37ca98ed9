#!/usr/bin/env python3
"""Train a classifier on the labels of SpaceNet-7 patches: the baseline that pretraining has to beat.

    python main_supervised_sn7.py --csv-dir ../data/sn7 --arch resnet18 --epochs 100 --batch-size 64 --lr 0.01 \
        --exp-dir exp/supervised

prints the plan, then a line an epoch (loss, rate, and on the validation list top-1, top-5, balanced accuracy), and
leaves ``result.json``, ``confusion.png``, ``model.pth`` and ``trained_model.pth`` in ``--exp-dir``. Start it again on
the same folder to go on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from supervised import train as supervised_training
from vicreg.common import cli
from vicreg.data.sn7 import (
    SN7Patches,
    read_meta,
)


def get_parser():
    """Arguments of supervised training, and those of the SN7 patches."""
    parser = supervised_training.get_parser(__doc__.split("\n")[0])
    data = parser.add_argument_group("SN7")
    data.add_argument(
        "--csv-dir", type=Path, default=Path(__file__).resolve().parents[1] / "data" / "sn7",
        help="folder written by make_sn7_csv.py",
    )  # fmt: skip
    data.add_argument("--data-dir", type=Path, help="SN7 tree, where the folder has no patches.npy")
    return parser


def main(args):
    """Train on the training list, judge on the validation list."""
    train, val = (SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val"))
    has_meta = (args.csv_dir / "meta.json").is_file()  # lists of the project's first version come without one
    split = read_meta(args.csv_dir).get("split") if has_meta else None
    supervised_training.train(args, train, val, split, f"supervised, {args.arch}, SN7")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
