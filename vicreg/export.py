#!/usr/bin/env python3
"""Write a backbone for another library: torchvision, timm, Detectron2, SMP, safetensors, ONNX, Hugging Face Hub.

    python export.py --pretrained exp/trained_model.pth --to detectron2 --out exp/r18.pkl

prints what was loaded, reads the new file with that library's own loader, compares features on the same images, and
prints the lines of Python that load it:

    resnet18 from exp/trained_model.pth: 120 tensors matched, 0 missing, 0 unused
    exp/r18.pkl (44.8 MB): verified with detectron2 0.7.2: 5 stages on 2 images, largest difference 0.0e+00
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from vicreg.common import cli
from vicreg.common.checkpoint_io import BACKBONE_FILE, MODEL_FILE
from vicreg.engine.checkpoint import BEST_FILE, PREVIOUS_FILE
from vicreg.eval.config import add_backbone_arguments
from vicreg.exporters import detectron2 as detectron2_exporter
from vicreg.exporters import formats, hugging_face
from vicreg.models.backbones import PARAMETER_FREE, feature_dim, format_normalization, load_backbone


def get_parser() -> argparse.ArgumentParser:
    """Build the parser of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=cli.HelpFormatter)
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--pretrained", required=True, metavar="FILE",
        help="trained_model.pth, a model.pth of a run, a checkpoint of another library, hf-hub:<repository>, "
        "local-dir:<folder>; or imagenet, random",
    )  # fmt: skip
    add_backbone_arguments(weights)
    weights.add_argument(
        "--bands", dest="weight_bands", type=int, nargs="+", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--to", required=True, choices=formats.NAMES,
        help="torchvision, detectron2 and smp know ResNets (wide ones and ResNeXt too); the others any timm backbone",
    )  # fmt: skip
    output.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="ends in .pth or .pt (torchvision, timm, smp), .pkl (detectron2), .safetensors or .onnx; a folder for hf; "
        "an existing file is replaced once the new one is verified",
    )  # fmt: skip
    output.add_argument(
        "--image-size", type=int, metavar="N",
        help="onnx: fix the images to N x N pixels; None: any size (vision transformers need a fixed one)",
    )  # fmt: skip
    hub = parser.add_argument_group("--to hf")
    hub.add_argument(
        "--license", metavar="ID", help="license in the model card, by its name on the Hub: cc-by-4.0, mit"
    )
    hub.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="result.json of evaluations, for the card"
    )
    hub.add_argument("--push", metavar="USER/NAME", help="upload the folder to this repository of the Hub")
    return parser


def main(args: argparse.Namespace) -> None:
    """Load, write and verify; print how to load the file."""
    cli.check_positive(args, "image_size", "in_chans")
    if args.image_size and args.to != "onnx":
        raise ValueError(f"--image-size is for --to onnx; --to {args.to} holds weights, which take any size")
    if args.to != "hf" and (args.push or args.license or args.results):
        raise ValueError("--push, --license and --results are for --to hf")
    if args.pretrained in PARAMETER_FREE:
        raise ValueError(f"--pretrained {args.pretrained}: there are no weights to export")
    if args.out.exists() and Path(args.pretrained).exists() and args.out.samefile(args.pretrained):
        raise ValueError(f"--out {args.out} is the file to export; choose another name")
    if args.out.exists() and args.out.name in (MODEL_FILE, PREVIOUS_FILE, BEST_FILE, BACKBONE_FILE):
        raise ValueError(f"--out {args.out} is a checkpoint of a run; choose another name")
    backbone, info = load_backbone(
        args.pretrained, args.arch, args.in_chans, mean=args.mean, std=args.std, bands=args.weight_bands
    )
    print(info["report"], flush=True)
    card = ""
    if args.to == "hf" and info["mean"] and info["std"]:
        card = hugging_face.model_card(info, feature_dim(backbone), args.pretrained, args.license, args.results)
    report, recipe = formats.export(args.to, args.out, backbone, info, args.image_size, card)
    weights = args.out / "model.safetensors" if args.to == "hf" else args.out
    print(f"{args.out} ({weights.stat().st_size / 1e6:.1f} MB): {report}")
    if args.push:
        print(f"uploaded to {hugging_face.push(args.out, args.push)}")
    if info["mean"] is not None and info["std"] is not None:
        normalization = format_normalization(info["mean"], info["std"], info["normalization"] or "")
        print(f"images: RGB order, pixels in [0, 1], normalized with {normalization}")
    else:
        written = "ImageNet's are written" if args.to == "detectron2" else "and the new file has none"
        print(f"mean and std of the images are not known, {written}; name them with --mean and --std")
    print("\nload it with\n  " + "\n  ".join(recipe))
    if args.to == "detectron2":
        print(f"\nconfiguration that it needs, {args.out}.yaml:")
        print(detectron2_exporter.as_yaml(detectron2_exporter.config(info, args.out)), end="")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
