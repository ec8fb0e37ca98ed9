#!/usr/bin/env python3
"""Evaluate a backbone on fMoW: a linear head on frozen features, or finetuning.

    python evaluate_fmow.py --pretrained exp/fmow/trained_model.pth --csv-dir ../data/fmow --exp-dir exp/fmow \
        --batch-size 128 --weights frozen --epochs 20 --lr-head 0.02

prints what was loaded, kNN accuracy, then top-1 and top-5 as it goes, and writes ``stats.txt`` and ``result.json``
to ``<exp-dir>/<freeze|finetune>_<percent>/``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.data.fmow import fmow_images
from vicreg.data.image_dataset import decode_size
from vicreg.eval import linear_probe

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser():
    """Arguments of the probe, and those of fMoW."""
    parser = linear_probe.get_parser(__doc__.split("\n")[0])
    parser.set_defaults(image_size=224)
    data = parser.add_argument_group("fMoW")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_fmow_csv.py")
    data.add_argument("--data-dir", type=Path, help="fMoW tree, where it has moved since")
    return parser


def main(args):
    """Train on the training list, judge on the validation list."""
    side = decode_size(args.image_size)
    train, val = (
        fmow_images(args.csv_dir / f"{split}.csv", data_dir=args.data_dir, side=side) for split in ("train", "val")
    )
    linear_probe.probe(args, train, val)


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
