#!/usr/bin/env python3
"""Pretrain a backbone with VICReg on the user's own imagery.

    python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_imagery.py --csv-dir ../data/mine \
        --exp-dir exp/mine --arch resnet18 --epochs 100 --batch-size 256 --lr 0.3
    python main_vicreg_imagery.py --data-dir photos/ --exp-dir exp/photos --arch resnet18

prints the plan, then a line per epoch, and writes ``model.pth`` and ``trained_model.pth`` to ``--exp-dir``. Started
again on the same folder, the run resumes. ``--data-dir`` needs no labels and no preparation, and holds nothing out.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repository root, from any working directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.common.files import check_outside
from vicreg.common.logger import log
from vicreg.data import imagery
from vicreg.data.tables import verify_folder
from vicreg.engine import pretrain_config
from vicreg.engine.parallel import init_device
from vicreg.engine.pretrain import pretrain

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "imagery"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the arguments of pretraining, and those of imagery."""
    parser = pretrain_config.get_parser(__doc__.split("\n")[0], augment="overhead")
    parser.set_defaults(in_chans=None, augment=None)
    data = imagery.add_arguments(parser, CSV_DIR)  # None: overhead for three bands, otherwise multispectral
    data.add_argument("--data-dir", type=Path, help="folder of images or rasters, without preparation")
    data.add_argument(
        "--patch-size",
        type=int,
        help="side of the patches of rasters in --data-dir; None: 256, or the "
        "largest that all files hold, if none reaches 256",
    )
    data.add_argument(
        "--positives", choices=["same", "temporal"],
        help="two views of one patch, or of one location in two scenes; None: temporal where a location has two dates",
    )  # fmt: skip
    data.add_argument("--max-days-apart", type=int, metavar="N", help="temporal positives at most N days apart")
    return parser


def main(args: argparse.Namespace) -> None:
    """Pretrain on the training list; probe on the validation list if it has labels."""
    config = pretrain_config.build_config(argparse.Namespace(**{**vars(args), "augment": args.augment or "overhead"}))
    probe_sets = None
    cli.check_positive(args, "in_chans", "patch_size")
    if args.data_dir and args.csv_dir != CSV_DIR:
        raise ValueError("--csv-dir and --data-dir: give one, a prepared folder or a folder of images")
    if args.patch_size and not args.data_dir:
        raise ValueError(f"--patch-size {args.patch_size} cuts the rasters of --data-dir; --csv-dir holds patches")
    if args.verify_data and args.data_dir:
        raise ValueError("--verify-data compares --csv-dir with its digests; --data-dir has none")
    if args.data_dir:
        check_outside(args.exp_dir, args.data_dir)
        init_device(config)
        dataset, positives = imagery.load_data_dir(
            args.data_dir, config.exp_dir / "patches", image_size=config.final_image_size,
            patch_size=args.patch_size, positives=args.positives, max_days_apart=args.max_days_apart,
        )  # fmt: skip
    else:
        if args.verify_data:
            log(verify_folder(args.csv_dir))
        dataset = imagery.ImageryPatches(args.csv_dir / "train.csv", args.positives, args.max_days_apart)
        positives = dataset.positives
        probe_sets = imagery.labeled_sets(args.csv_dir) if config.probe_every else None
    channels = config.in_chans or dataset.num_channels
    augment = args.augment or ("overhead" if channels == 3 else "multispectral")
    config = dataclasses.replace(config, in_chans=channels, positives=positives, augment=augment)
    data = (args.data_dir or args.csv_dir).resolve()
    pretrain(config, dataset, probe_sets, f"VICReg, {config.arch}, {data} with {config.positives} positives")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
