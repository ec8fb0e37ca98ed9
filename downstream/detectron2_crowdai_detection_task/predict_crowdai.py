#!/usr/bin/env python3
"""Detect buildings with a detector of train_crowdai.py: masks drawn on images, and polygons of GeoTIFFs.

    python predict_crowdai.py --checkpoint ../../exp/crowdai --image mosaic.tif --out predictions

writes ``mosaic.png`` with the detections and, for a georeferenced GeoTIFF, ``mosaic.geojson`` with polygons in
longitude and latitude. ``--image`` may be a folder. Large images are processed in overlapping windows.
"""

import argparse
import functools
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.detectron2_crowdai_detection_task import detectron2_setup
from vicreg.common import cli, files
from vicreg.engine.config import use_bf16
from vicreg.inference.rasters import TIFF, find_images

MAX_SIDE = 4096  # of the written images, pixels


def get_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder of train_crowdai.py, or a .pth in it"
    )
    parser.add_argument("--image", type=Path, required=True, help="image, GeoTIFF, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; not that of the images")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score, 0 to 1")
    parser.add_argument("--window", type=int, help="side of a window in pixels (default: that of the training images)")
    parser.add_argument("--overlap", type=float, default=0.25, help="of windows, as a fraction of their side")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="fp32", help="auto: bf16 on GPUs")
    return parser


def main(args: argparse.Namespace) -> None:
    """Process the images one after the other; a file that cannot be read does not stop the others."""
    if not 0 <= args.overlap < 1 or (args.window is not None and args.window < 1):
        raise ValueError("--overlap is a fraction from 0 to less than 1, --window a number of pixels")
    paths = find_images(args.image)
    if any(path.parent.resolve() == args.out.resolve() for path in paths):
        raise ValueError(f"--out {args.out} is the folder of the images; results would replace them: choose another")
    detectron2_setup.require()
    import torch
    from tqdm import tqdm

    from downstream.detectron2_crowdai_detection_task import config, experiment, tiled_detection
    from downstream.detectron2_crowdai_detection_task.model import find_checkpoint, load_model

    checkpoint = find_checkpoint(args.checkpoint)
    run = experiment.load_run(checkpoint.parent)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    cfg = config.load_config(checkpoint.parent, [], {}, device)
    model, _ = load_model(checkpoint, cfg)
    window = args.window or min(run["image_size"])
    settings = (window, int(args.overlap * window), args.threshold)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in paths:
        bar = functools.partial(tqdm, desc=path.name, unit="window", leave=False, disable=None)
        try:
            picture = tiled_detection.open_picture(path)
            with torch.autocast(device, torch.bfloat16, enabled=use_bf16(args.precision, torch.device(device))):
                detections = tiled_detection.detect_tiled(model, picture, cfg, *settings, bar)
            written = [draw(args.out / f"{path.stem}.png", picture, detections)]
            if picture.crs:
                written.append(args.out / f"{path.stem}.geojson")
                tiled_detection.write_geojson(written[-1], detections, picture)
            elif path.suffix.lower() in TIFF:
                print(f"note: {path} has no georeference, so no polygons are written")
            print(f"{path}: {len(detections)} buildings -> {', '.join(map(str, written))}", flush=True)
        except ValueError as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(path)
    if failed:
        raise ValueError(f"{len(failed)} of {len(paths)} images have no result: {', '.join(map(str, failed[:3]))}")


def draw(path, picture, detections):
    """Write the image, reduced if it is very large, with the detections; return the path."""
    import numpy as np
    from PIL import Image

    from vicreg.inference import polygons

    step = -(-max(picture.height, picture.width) // MAX_SIDE)
    strips = [
        picture.read(top, 0, min(256 * step, picture.height - top), picture.width)[::step, ::step]
        for top in range(0, picture.height, 256 * step)
    ]
    image = polygons.draw(np.concatenate(strips), [detection.shape for detection in detections], scale=1 / step)
    files.atomic_write(path, Image.fromarray(image).save)
    return path


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
