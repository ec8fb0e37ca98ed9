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

from supervised.config import SupervisedConfig
from supervised.train import train
from vicreg import distributed
from vicreg.augmentations.presets import PRESETS
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.common.logger import log
from vicreg.data import tables
from vicreg.data.sn7 import SN7Patches
from vicreg.engine import arguments

CSV_DIR = Path(__file__).resolve().parents[1] / "data" / "sn7"


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=cli.HelpFormatter)
    arguments.add_run_arguments(parser, "weights, subset, order and augmentation")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    arguments.add_init_arguments(model)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--label-smoothing", type=float, default=0.0, help="target probability spread over all classes")
    loss.add_argument(
        "--class-weights", choices=["none", "sqrt", "inverse"], default="none",
        help="weight of a class by its number of samples n: equal, 1 / sqrt(n), or 1 / n (all classes count alike)",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--train-percent", type=int, default=100, help="percentage of each class's labels, 1 to 100")
    data.add_argument("--augment", default="crop", choices=list(PRESETS), help="preset, whose first view is used")
    arguments.add_aug_override(data, "scale=0.3,1 vertical_flip=0.5")
    arguments.add_data_arguments(data)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd", help="biases and norms do not decay")
    arguments.add_optimization_arguments(optim, batch_size=64, weight_decay=1e-4)
    optim.add_argument("--lr", type=float, default=0.01, help="peak learning rate; does not scale with the batch size")
    optim.add_argument("--momentum", type=float, default=0.9, help="momentum of sgd")
    optim.add_argument("--warmup-epochs", type=float, default=0.0, help="epochs of linear warm-up")
    optim.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine", help="after the warm-up")
    optim.add_argument("--milestones", type=int, nargs="+", default=[], help="epochs at which --schedule step falls")
    optim.add_argument("--gamma", type=float, default=0.1, help="factor at each milestone")
    distributed.add_arguments(parser)
    data = parser.add_argument_group("SN7")
    data.add_argument("--csv-dir", type=Path, default=CSV_DIR, help="folder written by make_sn7_csv.py")
    data.add_argument("--data-dir", type=Path, help="SN7 tree, if the folder has no patches.npy")
    tables.add_verify_argument(data)
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training list; validate on the validation list."""
    settings = from_args(SupervisedConfig, args)
    if args.verify_data:
        log(tables.verify_folder(args.csv_dir))
    dataset, val = (SN7Patches(args.csv_dir / f"{part}.csv", data_dir=args.data_dir) for part in ("train", "val"))
    has_meta = (args.csv_dir / "meta.json").is_file()  # headerless lists have none
    split = tables.read_meta(args.csv_dir).get("split") if has_meta else None
    train(settings, dataset, val, split, f"supervised, {settings.arch}, SN7")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
