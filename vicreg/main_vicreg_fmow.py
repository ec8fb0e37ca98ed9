#!/usr/bin/env python3
"""Pretrain a backbone with VICReg on fMoW, with temporal positives: one place at two times.

    python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_fmow.py --csv-dir ../data/fmow \
        --exp-dir exp/fmow --arch resnet50 --epochs 100 --batch-size 512 --base-lr 0.3

prints the plan, then a line an epoch, and leaves ``model.pth`` and ``trained_model.pth`` in ``--exp-dir``. Start it
again on the same folder to go on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.data import pairs
from vicreg.data.fmow import fmow_images
from vicreg.data.image_dataset import decode_size
from vicreg.engine import (
    config,
    pretrain,
)

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser():
    """Arguments of pretraining, and those of fMoW."""
    parser = config.get_parser(__doc__.split("\n")[0], augment="fmow")
    parser.set_defaults(image_size=224)
    data = parser.add_argument_group("fMoW")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_fmow_csv.py")
    data.add_argument("--data-dir", type=Path, help="fMoW tree, where it has moved since")
    pairs.add_arguments(data, positives="temporal")
    return parser


def main(args):
    """Pretrain on the training list; probe against the validation list."""
    side = decode_size(args.image_size)
    lists = {split: args.csv_dir / f"{split}.csv" for split in ("train", "val")}
    dataset = fmow_images(lists["train"], args.positives, args.data_dir, args.max_months_apart, side=side)
    probe_sets = None
    if args.probe_every and lists["val"].is_file():
        probe_sets = dataset, fmow_images(lists["val"], data_dir=args.data_dir, side=side)
    pretrain.pretrain(args, dataset, probe_sets, f"VICReg, {args.arch}, fMoW with {args.positives} positives")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
