#!/usr/bin/env python3
r"""Train a U-Net whose encoder is our backbone: FloodNet's ten classes, buildings in two stages, or your own classes.

    python downstream/FloodNet_segmentation_task/train_floodnet.py --data-dir FloodNet --task floodnet \
        --pretrained exp/sn7/trained_model.pth --image-size 1000 --exp-dir exp/floodnet

docs/downstream/floods.md has the commands of the other tasks. Writes config.json, stats.txt, tensorboard/, model.pth,
best_model.pth, examples.png and result.json into --exp-dir. Started again on the same folder, the run resumes. It ends
with a line such as

    mean IoU 0.3537  mean Dice 0.4468  accuracy 0.7772  (everywhere "grass": mean IoU 0.0612); exp/floodnet/result.json
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.FloodNet_segmentation_task import experiment
from downstream.FloodNet_segmentation_task.config import FloodConfig, resolve_decoder
from downstream.FloodNet_segmentation_task.floodnet import TASKS, add_val_fraction
from downstream.FloodNet_segmentation_task.model import DECODERS
from downstream.FloodNet_segmentation_task.segmentation_folder import FOLDER, task_classes
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.engine.finetune import add_arguments, add_pixel_arguments


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=cli.HelpFormatter)
    groups = add_arguments(parser, epochs=40, batch_size=8, lr=1e-4, weight_decay=0.0, pretrained_required=False)
    groups["backbone"].add_argument(
        "--init-from", help="best_model.pth of another run of this script: all its weights, instead of --pretrained"
    )
    groups["backbone"].add_argument("--decoder", choices=list(DECODERS), help="default: unet, or --init-from's")
    optim = groups["optim"]
    optim.add_argument("--schedule", choices=["constant", "cosine"], default="constant", help="of the learning rate")
    optim.add_argument(
        "--cross-entropy", type=float, help="weight of cross-entropy; Dice has 1. None: 0 for two classes, 1 for more"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data-dir", type=Path, required=True, help="FloodNet, a folder of make_harvey_patches.py, or "
                      "images/, masks/ and classes.json")  # fmt: skip
    data.add_argument("--task", choices=[*TASKS, FOLDER], required=True,
                      help="ten classes, buildings, flooded buildings, or the classes of classes.json")  # fmt: skip
    add_val_fraction(data, "fraction held out if the data has no val")
    size = data.add_mutually_exclusive_group()
    size.add_argument("--image-size", type=int, help="reduce images to this long side in pixels")
    size.add_argument("--scale", type=float, default=1.0, help="or by this factor, 1 or less")
    add_pixel_arguments(data)
    data.add_argument("--crop", type=int, help="side of the crops, a multiple of 32; None: what fits, 512 at most")
    data.add_argument("--repeats", type=int, default=1, help="crops of each image per epoch")
    data.add_argument("--overlap", type=float, default=0.5, help="overlap of windows in evaluation, 0 to 0.9")
    data.add_argument("--cache-dir", type=Path, help="for the reduced images; None: <exp-dir>/working_copies")
    data.add_argument("--examples", type=int, default=4, help="validation images in examples.png")
    return parser


def main(args: argparse.Namespace) -> None:
    """Prepare data and network, train, evaluate."""
    num_classes = len(task_classes(args.task, args.data_dir).names)
    decoder = resolve_decoder(args.task, num_classes, args.init_from, args.arch, args.decoder)
    cross_entropy = float(num_classes > 2) if args.cross_entropy is None else args.cross_entropy
    experiment.train(from_args(FloodConfig, args, decoder=decoder, cross_entropy=cross_entropy))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
