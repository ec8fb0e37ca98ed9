#!/usr/bin/env python3
"""Pretrain a backbone with VICReg on fMoW, with temporal positives: one location at two times.

    python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_fmow.py --csv-dir ../data/fmow \
        --exp-dir exp/fmow --arch resnet50 --epochs 100 --batch-size 512 --lr 0.3

prints the plan, then a line per epoch, and writes ``model.pth`` and ``trained_model.pth`` to ``--exp-dir``. Started
again on the same folder, the run resumes.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repository root, from any working directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.common.logger import log
from vicreg.data import pairs
from vicreg.data.fmow import fmow_images
from vicreg.data.image_dataset import decode_size
from vicreg.data.tables import add_verify_argument, verify_folder
from vicreg.engine import pretrain_config
from vicreg.engine.pretrain import pretrain

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the arguments of pretraining, and those of fMoW."""
    parser = pretrain_config.get_parser(__doc__.split("\n")[0], augment="fmow")
    parser.set_defaults(image_size=224)
    data = parser.add_argument_group("fMoW")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_fmow_csv.py")
    add_verify_argument(data)
    data.add_argument("--data-dir", type=Path, help="fMoW tree, if it has moved since")
    pairs.add_arguments(data, positives="temporal")
    return parser


def main(args: argparse.Namespace) -> None:
    """Pretrain on the training list; probe on the validation list."""
    config = pretrain_config.build_config(args)
    if args.verify_data:
        log(verify_folder(args.csv_dir))
    side = decode_size(config.final_image_size)
    lists = {split: args.csv_dir / f"{split}.csv" for split in ("train", "val")}
    dataset = fmow_images(lists["train"], config.positives, args.data_dir, config.max_months_apart, side=side)
    probe_sets = None
    if config.probe_every and lists["val"].is_file():
        probe_sets = dataset, fmow_images(lists["val"], data_dir=args.data_dir, side=side)
    pretrain(config, dataset, probe_sets, f"VICReg, {config.arch}, fMoW with {config.positives} positives")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
