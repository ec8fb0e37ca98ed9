#!/usr/bin/env python3
"""Evaluate a backbone on SpaceNet-7 patches: a linear head on frozen features, or finetuning.

    python evaluate_sn7.py --pretrained exp/trained_model.pth --batch-size 128 --exp-dir exp --weights frozen \
        --epochs 100 --lr-head 0.08 --arch resnet18

prints what was loaded, kNN accuracy, then top-1 and top-5 as it goes, and writes ``stats.txt`` and ``result.json``
to ``<exp-dir>/<freeze|finetune>_<percent>/``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.data.sn7 import SN7Patches
from vicreg.eval import linear_probe


def get_parser():
    """Arguments of the probe, and those of the SN7 patches."""
    parser = linear_probe.get_parser(__doc__.split("\n")[0])
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
    linear_probe.probe(args, train, val)


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
