#!/usr/bin/env python3
"""Convert a backbone to the format that Detectron2 loads, with the settings that belong to it.

    python convert_to_detectron2.py ../../exp/sn7/trained_model.pth r18.pkl

writes ``r18.pkl`` and ``r18.pkl.yaml`` and prints whether Detectron2, if it is installed, computes the same features.
It is for other Detectron2 projects: train_crowdai.py takes ``trained_model.pth`` itself.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from vicreg.common import cli
from vicreg.eval.config import add_normalization_arguments
from vicreg.exporters import detectron2
from vicreg.models.backbones import load_backbone


def get_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pretrained", help="trained_model.pth, imagenet, or a torchvision file")
    parser.add_argument("out", type=Path, help="file to write, ends in .pkl")
    parser.add_argument("--arch", help="resnet18, 34, 50 or 101, if the file does not name it")
    add_normalization_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Load, convert, write and verify."""
    backbone, info = load_backbone(args.pretrained, args.arch, mean=args.mean, std=args.std)
    print(info["report"])
    print(detectron2.save(args.out, backbone, info))
    print(f"{args.out}, and its settings for cfg.merge_from_file: {args.out}.yaml")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
