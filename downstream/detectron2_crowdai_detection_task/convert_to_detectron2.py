#!/usr/bin/env python3
"""Write a backbone in the form that Detectron2 loads by itself, with the settings that go with it.

    python convert_to_detectron2.py ../../exp/sn7/trained_model.pth r18.pkl

writes ``r18.pkl`` and ``r18.pkl.yaml`` and says whether Detectron2, where it is installed, finds the same features.
For other people's Detectron2 projects; train_crowdai.py takes ``trained_model.pth`` as it is.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from vicreg.common import cli
from vicreg.exporters import detectron2
from vicreg.models.backbones import load_backbone


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("pretrained", help="trained_model.pth, imagenet, or a torchvision file")
    parser.add_argument("out", type=Path, help="file to write, ends in .pkl")
    parser.add_argument("--arch", help="resnet18, 34, 50 or 101, where the file does not say it")
    return parser


def main(args):
    """Load, write, and say what was verified."""
    backbone, info = load_backbone(args.pretrained, args.arch)
    print(info["report"])
    print(detectron2.save(args.out, backbone, info))
    print(f"{args.out}, and its settings for cfg.merge_from_file: {args.out}.yaml")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
