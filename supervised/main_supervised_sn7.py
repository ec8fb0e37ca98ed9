#!/usr/bin/env python3
"""Train a classifier on the labels of SpaceNet-7 patches: the supervised baseline for pretrained backbones.

    python main_supervised_sn7.py --csv-dir ../data/sn7 --arch resnet18 --epochs 100 --batch-size 64 --lr 0.01 \
        --exp-dir exp/supervised

prints the plan, then a line per epoch (loss, learning rate, and top-1, top-5, balanced accuracy on the validation
list), and writes ``result.json``, ``confusion.png``, ``model.pth`` and ``trained_model.pth`` to ``--exp-dir``. Started
again on the same folder, the run resumes.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repository root, from any working directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from supervised import config
from supervised.train import train
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.common.logger import log
from vicreg.data import sn7_format
from vicreg.data.sn7 import SN7Patches

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "sn7"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the arguments of supervised training, and those of SN7."""
    parser = config.get_parser(__doc__.split("\n")[0])
    data = parser.add_argument_group("SN7")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_sn7_csv.py")
    data.add_argument("--data-dir", type=Path, help="SN7 tree, if the folder has no patches.npy")
    sn7_format.add_verify_argument(data)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training list; validate on the validation list."""
    settings = from_args(config.SupervisedConfig, args)
    if args.verify_data:
        log(sn7_format.verify_folder(args.csv_dir))
    dataset, val = (SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val"))
    has_meta = (args.csv_dir / "meta.json").is_file()  # headerless lists have none
    split = sn7_format.read_meta(args.csv_dir).get("split") if has_meta else None
    train(settings, dataset, val, split, f"supervised, {settings.arch}, SN7")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
