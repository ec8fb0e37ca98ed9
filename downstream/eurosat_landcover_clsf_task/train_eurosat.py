#!/usr/bin/env python3
"""Train EuroSAT, or another folder of class folders, on a backbone: all weights, or a linear head on frozen features.

    python train_eurosat.py --data-dir EuroSAT/2750 --pretrained exp/sn7/trained_model.pth --weights finetune \
        --epochs 10 --exp-dir exp/eurosat_vicreg

prints top-1 and top-5 after each epoch, then precision, recall and F1 of each class, and writes ``result.json``,
``confusion.png``, ``examples.png``, ``best_model.pth``, ``model.pth`` (last) and ``trained_model.pth`` to the folder.
Started again on the same folder, the run resumes.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.eurosat_landcover_clsf_task import experiment
from downstream.eurosat_landcover_clsf_task.config import EurosatConfig
from vicreg.augmentations.presets import PRESETS
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.engine.arguments import add_alias, add_aug_override
from vicreg.engine.finetune import add_arguments, add_pixel_arguments
from vicreg.eval.lr_sweep import DEFAULT_LRS

DEFAULTS = {"finetune": {"epochs": 10, "weight_decay": 1e-4}, "freeze": {"epochs": 100, "weight_decay": 1e-6}}


def get_parser() -> argparse.ArgumentParser:
    """Build the parser: the arguments of downstream training, and those of this task."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=cli.HelpFormatter)
    groups = add_arguments(parser, epochs=None, batch_size=128, lr=0.002, weight_decay=None, grad_clip=0.1)
    groups["backbone"].add_argument(
        "--weights", choices=["finetune", "freeze", "frozen"], default="finetune",
        help="finetune: train all weights (10 epochs, weight decay 1e-4); freeze: a linear head on frozen features "
        "(100 epochs, 1e-6)",
    )  # fmt: skip
    optim = groups["optim"]
    optim.add_argument(
        "--optimizer", choices=["adam", "adamw", "sgd"], default="adam",
        help="finetune: adam has L2 regularization of all weights; adamw (--lr 0.001 --weight-decay 0.05) and sgd "
        "(momentum 0.9) do not decay biases and norms",
    )  # fmt: skip
    optim.add_argument("--label-smoothing", type=float, default=0.0, help="target probability spread over all classes")
    optim.add_argument(
        "--lr-head", type=float, nargs="+", default=list(DEFAULT_LRS), help="freeze: learning rates to select from"
    )
    add_alias(optim, "--wd-head", "weight_decay", float)
    data = parser.add_argument_group("data")
    data.add_argument("--data-dir", type=Path, required=True, help="folder of class folders, such as EuroSAT/2750")
    data.add_argument("--val-fraction", type=float, default=0.2, help="fraction of each class to validate on")
    add_alias(data, "--val-share", "val_fraction", float)
    data.add_argument("--split-seed", type=int, default=0, help="seed of the split, which does not depend on --seed")
    data.add_argument("--train-list", type=Path, help="text file with one image per line, in place of a random split")
    data.add_argument("--val-list", type=Path, help="the same for validation; suffixes need not agree")
    data.add_argument("--train-percent", type=int, default=100, help="percentage of each class's labels, 1 to 100")
    add_pixel_arguments(data)
    data.add_argument("--image-size", type=int, help="side of the views in pixels; None: the images'")
    data.add_argument(
        "--augment", choices=["turns", *PRESETS], default="turns", help="turns: flips and quarter turns; or a preset"
    )
    add_aug_override(data, "scale=0.3,1")
    data.add_argument(
        "--tta", action="store_true",
        help="evaluate the last weights also with probabilities averaged over eight flips and quarter turns (tta_top1)",
    )  # fmt: skip
    data.add_argument("--views", type=int, default=2, help="freeze: views of each sample, the first one unchanged")
    return parser


def main(args: argparse.Namespace) -> None:
    """Train on the training images, evaluate on the others, and write what the docstring names."""
    weights = "freeze" if args.weights == "frozen" else args.weights
    given = {name: getattr(args, name) for name in DEFAULTS[weights] if getattr(args, name) is not None}
    experiment.train(from_args(EurosatConfig, args, weights=weights, **{**DEFAULTS[weights], **given}))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
