#!/usr/bin/env python3
"""Pretrain a backbone with VICReg on SpaceNet-7 patches.

    python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_sn7.py --exp-dir exp/ --arch resnet18 \
        --epochs 100 --batch-size 256 --lr 0.3

prints the plan, then a line per epoch (the loss and its terms, learning rate, throughput, standard deviation of the
embeddings, effective rank), and writes ``model.pth`` and ``trained_model.pth`` to ``--exp-dir``. Started again on the
same folder, the run resumes.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repository root, from any working directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.common.logger import log
from vicreg.data import pairs, tables
from vicreg.data.sn7 import SN7Patches
from vicreg.engine import pretrain_config
from vicreg.engine.pretrain import pretrain

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "sn7"
HOW_TO_PREPARE = (
    "no patch list at {path}; make one with\n"
    "  python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir {folder}\n"
    "or, without the download, from a synthetic sample:\n"
    "  python preprocessing/make_sn7_sample.py --out data/sn7_sample   (then --data-dir data/sn7_sample/train)"
)


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the arguments of pretraining, and those of SN7."""
    parser = pretrain_config.get_parser(__doc__.split("\n")[0], augment="sn7")
    data = parser.add_argument_group("SN7")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_sn7_csv.py")
    data.add_argument("--data-dir", type=Path, help="SN7 tree, if the folder has no patches.npy")
    tables.add_verify_argument(data)
    pairs.add_arguments(data, neighbors=True)
    return parser


def main(args: argparse.Namespace) -> None:
    """Pretrain on the training list; probe on the validation list."""
    config = pretrain_config.build_config(args)
    lists = {split: args.csv_dir / f"{split}.csv" for split in ("train", "val")}
    if not lists["train"].is_file():
        raise FileNotFoundError(HOW_TO_PREPARE.format(path=lists["train"], folder=args.csv_dir))
    if args.verify_data:
        log(tables.verify_folder(args.csv_dir))
    dataset = SN7Patches(lists["train"], config.positives, args.data_dir, config.max_months_apart)
    probe_sets = None
    if config.probe_every and lists["val"].is_file():
        probe_sets = dataset, SN7Patches(lists["val"], data_dir=args.data_dir)
    pretrain(config, dataset, probe_sets, f"VICReg, {config.arch}, SN7 with {config.positives} positives")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
