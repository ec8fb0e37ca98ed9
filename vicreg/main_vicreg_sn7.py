#!/usr/bin/env python3
"""Pretrain a backbone with VICReg on SpaceNet-7 patches.

    python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_sn7.py --exp-dir exp/ --arch resnet18 \
        --epochs 100 --batch-size 256 --base-lr 0.3

prints the plan, then a line an epoch (loss and its three terms, rate, throughput, embedding std, effective rank), and
leaves ``model.pth`` and ``trained_model.pth`` in ``--exp-dir``. Start it again on the same folder to go on.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.data import pairs
from vicreg.data.sn7 import SN7Patches
from vicreg.engine import (
    config,
    pretrain,
)

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "sn7"
HOW_TO_PREPARE = (
    "no patch list at {path}; make one with\n"
    "  python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir {folder}\n"
    "or, without the download, from a made-up sample first:\n"
    "  python preprocessing/make_sn7_sample.py --out data/sn7_sample   (then --data-dir data/sn7_sample/train)"
)


def get_parser():
    """Arguments of pretraining, and those of the SN7 patches."""
    parser = config.get_parser(__doc__.split("\n")[0], augment="sn7")
    data = parser.add_argument_group("SN7")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_sn7_csv.py")
    data.add_argument("--data-dir", type=Path, help="SN7 tree, where the folder has no patches.npy")
    pairs.add_arguments(data, neighbors=True)
    return parser


def main(args):
    """Pretrain on the training list; probe against the validation list."""
    lists = {split: args.csv_dir / f"{split}.csv" for split in ("train", "val")}
    if not lists["train"].is_file():
        raise FileNotFoundError(HOW_TO_PREPARE.format(path=lists["train"], folder=args.csv_dir))
    dataset = SN7Patches(lists["train"], args.positives, args.data_dir, args.max_months_apart)
    probe_sets = None
    if args.probe_every and lists["val"].is_file():
        probe_sets = dataset, SN7Patches(lists["val"], data_dir=args.data_dir)
    pretrain.pretrain(args, dataset, probe_sets, f"VICReg, {args.arch}, SN7 with {args.positives} positives")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
