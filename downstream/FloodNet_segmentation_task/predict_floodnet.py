#!/usr/bin/env python3
r"""Label images with a network of train_floodnet.py: photographs, a folder of them, or a GeoTIFF of any size.

    python downstream/FloodNet_segmentation_task/predict_floodnet.py --checkpoint exp/floodnet/best_model.pth \
        --image FloodNet/test/test-org-img --out exp/floodnet/predictions

writes for each image ``<name>_overlay.png``, with the classes' colors and a legend, and ``<name>_labels.png``, a
palette image of class numbers at the image's own size. A TIFF is read a window at a time and gets
``<name>_labels.tif`` instead, with its georeference and a color table, at the size that the network worked at. Pixels
without data (nodata, alpha 0, not finite) are 255. It prints a line for each image such as

    6279.jpg: 320 x 240 pixels, grass 58.1%, tree 20.4%, water 9.9% -> predictions/6279_labels.png

Files that cannot be read are skipped and listed, and the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.FloodNet_segmentation_task.floodnet import palette
from downstream.FloodNet_segmentation_task.image_mask_io import working_scale
from downstream.FloodNet_segmentation_task.labeling import label_files, label_image_file
from downstream.FloodNet_segmentation_task.model import load_segmenter, predictor
from downstream.FloodNet_segmentation_task.segmentation_folder import Classes
from vicreg import distributed
from vicreg.common import cli
from vicreg.data.images import check_levels, open_reader
from vicreg.data.raster_bands import resolve_bands
from vicreg.data.rasters import TIFF
from vicreg.engine.finetune import add_pixel_arguments
from vicreg.engine.precision import use_bf16
from vicreg.inference.image_files import check_outputs, find_images, process_images, raise_failures


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        description="Label images with a trained network.", formatter_class=cli.HelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth or model.pth of train_floodnet")
    parser.add_argument("--image", type=Path, required=True, help="an image file, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, other than --image")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--image-size", type=int, help="reduce to this long side in pixels; None: as in training")
    size.add_argument("--scale", type=float, help="or by this factor; TIFFs without it: as in training")
    parser.add_argument("--overlap", type=float, default=0.5, help="overlap of neighboring windows, 0 to 0.9")
    add_pixel_arguments(parser, "as in training")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    return parser


def main(args: argparse.Namespace) -> None:
    """Label all images."""
    cli.check_positive(args, "image_size", "scale")
    if not 0 <= args.overlap <= 0.9:
        raise ValueError(f"--overlap {args.overlap:g}: 0 to 0.9 is needed")
    check_levels(args.levels)
    device = distributed.init(args.device)
    model, task = load_segmenter(args.checkpoint, device)
    bands = resolve_bands(args.bands, task["channels"]) if args.bands else task.get("bands")
    classes = Classes(task["classes"], task.get("colors") or palette(task["classes"]).tolist())
    predict = predictor(model, device, use_bf16(args.precision, device))
    images = find_images([args.image], args.out)
    check_outputs(images, lambda path: label_files(args.out, path))
    args.out.mkdir(parents=True, exist_ok=True)

    def label(path: Path) -> None:
        def scale(size: tuple[int, int]) -> float:
            is_tiff = path.suffix.lower() in TIFF
            if args.scale or (is_tiff and not args.image_size):  # a mosaic is not reduced to the size of a photograph
                return args.scale or task["scale"]
            return working_scale(size, args.image_size or task["image_size"], task["scale"])

        with open_reader(path, scale, bands, args.levels or task.get("levels"), deep=bands is not None) as reader:
            label_image_file(args.out, reader, predict, classes, task["side"], args.overlap)

    failures = process_images(images, label)
    distributed.destroy()
    raise_failures(failures, len(images))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
