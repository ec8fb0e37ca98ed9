#!/usr/bin/env python3
"""Label images with a network of train_floodnet.py: photographs, a folder of them, or a GeoTIFF of any size.

    python downstream/FloodNet_segmentation_task/predict_floodnet.py --checkpoint exp/floodnet/best_model.pth \\
        --image FloodNet/test/test-org-img --out exp/floodnet/predictions

writes for each image ``<name>_overlay.png``, with the classes' colors and a legend, and ``<name>_labels.png``, a
palette image of class numbers at the image's own size. A TIFF is read a window at a time and gets
``<name>_labels.tif`` instead, with its georeference and a color table, on the pixels that the network worked on. It
prints a line for each image such as

    6279.jpg: 320 x 240 pixels, grass 58.1%, tree 20.4%, water 9.9% -> predictions/6279_labels.png
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from tqdm import tqdm

from downstream.FloodNet_segmentation_task import floodnet
from downstream.FloodNet_segmentation_task.image_mask_io import working_scale
from downstream.FloodNet_segmentation_task.model import Segmenter, predictor
from downstream.FloodNet_segmentation_task.plots import save_overlay
from vicreg import distributed
from vicreg.common import cli
from vicreg.common.logger import log
from vicreg.engine import checkpoint
from vicreg.engine.config import use_bf16
from vicreg.inference.rasters import ImageSource, RasterSource, find_images
from vicreg.inference.sliding_window import label_blocks

NAME = "flood segmentation"  # as train_floodnet.py's checkpoints have it


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description="Label images with a trained network.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth or model.pth of train_floodnet")
    parser.add_argument("--image", type=Path, required=True, help="a file, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--image-size", type=int, help="reduce to this long side in pixels (default: as in training)")
    size.add_argument("--scale", type=float, help="or by this factor (default for TIFFs: as in training)")
    parser.add_argument("--overlap", type=float, default=0.5, help="of neighboring windows, 0 to 0.9")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    return parser


def main(args):
    """Label all images; those that cannot be read are named at the end."""
    cli.check_positive(args, "image_size", "scale")
    if not 0 <= args.overlap <= 0.9:
        raise ValueError(f"--overlap {args.overlap:g}: 0 to 0.9 is needed")
    device = distributed.init(args.device)
    weights, about = checkpoint.load_task(args.checkpoint, NAME, device)
    task = about["task"]
    model = Segmenter(about["backbone"]["arch"], task["decoder"], len(task["classes"]), task["mean"], task["std"])
    model.load_state_dict(weights)
    predict = predictor(model.to(device), device, use_bf16(args.precision, device))
    files = find_images(args.image)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in tqdm(files, desc="images", disable=not sys.stderr.isatty()):
        try:
            label(path, args, task, predict)
        except ValueError as error:
            if len(files) == 1:
                raise
            failed.append(str(error))
            log(f"left out: {error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(files)} images could not be labeled; the first: {failed[0]}")


def label(path, args, task, predict):
    """Label one image, and say what is on it."""
    is_tiff = path.suffix.lower() in (".tif", ".tiff")

    def scale(size):
        if args.scale or (is_tiff and not args.image_size):  # a mosaic has no long side of a photograph
            return args.scale or task["scale"]
        return working_scale(size, args.image_size or task["image_size"], task["scale"])

    source = (RasterSource if is_tiff else ImageSource)(path, scale)
    try:
        blocks = label_blocks(source.read, source.height, source.width, predict, task["side"], args.overlap)
        file, image, labels = source.write(args.out, blocks, task["classes"], floodnet.palette(task["classes"]))
    finally:
        source.close()
    save_overlay(args.out / f"{path.stem}_overlay.png", image, labels, task["classes"], path.name)
    known = labels[labels < len(task["classes"])]
    shares = np.bincount(known, minlength=len(task["classes"])) / max(1, known.size)
    largest = ", ".join(f"{task['classes'][n]} {shares[n]:.1%}" for n in np.argsort(-shares)[:3] if shares[n] > 0)
    log(f"{path.name}: {source.width} x {source.height} pixels, {largest or 'no data'} -> {file}")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
