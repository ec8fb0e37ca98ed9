#!/usr/bin/env python3
"""Write a backbone for another library: torchvision, timm, Detectron2, SMP, safetensors, ONNX.

    python export.py --pretrained exp/trained_model.pth --to detectron2 --out exp/r18.pkl

prints what was loaded, reads the new file back with that library's own loader, compares features on the same images,
and ends with the lines of Python that load it:

    resnet18 from exp/trained_model.pth: 120 tensors matched, 0 missing, 0 unused
    exp/r18.pkl (44.8 MB): verified with detectron2 0.7.2: 5 stages on 2 images, largest difference 0.0e+00
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.exporters import detectron2 as detectron2_exporter
from vicreg.exporters import formats
from vicreg.models.backbones import (
    PARAMETER_FREE,
    load_backbone,
)


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--pretrained", required=True, metavar="FILE",
        help="trained_model.pth, a model.pth of pretraining, a state dict of torchvision or timm; or imagenet, random",
    )  # fmt: skip
    weights.add_argument("--arch", help="timm name, where the file does not say it")
    weights.add_argument("--in-chans", type=int, default=3, help="channels of random and imagenet")
    weights.add_argument(
        "--mean", type=float, nargs="+", metavar="M",
        help="of each channel, of pixels in [0, 1], where the file does not say it",
    )  # fmt: skip
    weights.add_argument("--std", type=float, nargs="+", metavar="S", help="standard deviation, likewise")
    file = parser.add_argument_group("what is written")
    file.add_argument(
        "--to", required=True, choices=formats.NAMES,
        help="torchvision, detectron2 and smp know ResNets (wide ones and ResNeXt too); the others anything of timm",
    )  # fmt: skip
    file.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="ends in .pth or .pt (torchvision, timm, smp), .pkl (detectron2), .safetensors or .onnx; one that exists "
        "is replaced once the new one is whole and verified",
    )  # fmt: skip
    file.add_argument(
        "--image-size", type=int, metavar="N",
        help="onnx: fix the images to N x N pixels (default: any size; vision transformers need one)",
    )  # fmt: skip
    return parser


def main(args):
    """Load, write, verify, and say how to go on."""
    cli.check_positive(args, "image_size", "in_chans", "std")
    if args.image_size and args.to != "onnx":
        raise ValueError(f"--image-size is for --to onnx; --to {args.to} holds weights, which take any size")
    if args.pretrained in PARAMETER_FREE:
        raise ValueError(f"--pretrained {args.pretrained}: there are no weights to export")
    if args.out.exists() and Path(args.pretrained).exists() and args.out.samefile(args.pretrained):
        raise ValueError(f"--out {args.out} is the file that is to be exported; choose another name")
    backbone, info = load_backbone(args.pretrained, args.arch, args.in_chans)
    print(info["report"], flush=True)
    info |= normalization(info, args.mean, args.std)
    verified, recipe = formats.export(args.to, args.out, backbone, info, args.image_size)
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB): {verified}")
    print(pixels(args.to, info))
    print("\nload it with\n  " + "\n  ".join(recipe))
    if args.to == "detectron2":
        print(f"\nsettings that it needs, {args.out}.yaml:")
        print(detectron2_exporter.as_yaml(detectron2_exporter.config(info, args.out)), end="")


def pixels(to, info):
    """A line on how images must be normalized."""
    if info["mean"] is None:
        assumed = "ImageNet's are written" if to == "detectron2" else "nor does the new one"
        return f"the mean and std of its pixels are not known, {assumed}; --mean and --std tell it"
    mean, std = (" ".join(f"{value:.4g}" for value in info[key]) for key in ("mean", "std"))
    return f"images: RGB order, pixels in [0, 1], less the mean {mean}, over the deviation {std}"


def normalization(info, mean, std):
    """Mean and standard deviation of the pixels, from the file or, where that says nothing, the command line.

    Args:
        info: of ``load_backbone``. mean, std: lists of a number a channel, or None.

    Returns:
        dict of ``mean`` and ``std``.

    Raises:
        ValueError: both say it, or it does not fit the channels.
    """
    if mean is None and std is None:
        return {"mean": info["mean"], "std": info["std"]}
    if info["mean"] is not None:
        raise ValueError(f"{info['source']} says its mean and std; leave --mean and --std out")
    if not len(mean or ()) == len(std or ()) == info["in_chans"]:
        raise ValueError(f"--mean and --std: {info['in_chans']} numbers each are needed, one a channel")
    return {"mean": mean, "std": std}


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
