#!/usr/bin/env python3
"""Find buildings with a detector of train_crowdai.py: masks drawn on images, and polygons of GeoTIFFs.

    python predict_crowdai.py --checkpoint ../../exp/crowdai --image mosaic.tif --out predictions

writes ``mosaic.png`` with what was found and, for a GeoTIFF with a georeference, ``mosaic.geojson`` with polygons in
longitude and latitude. ``--image`` may be a folder. Large images are searched in overlapping windows.
"""

import argparse
import functools
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from tqdm import tqdm

from downstream.detectron2_crowdai_detection_task import detectron2_setup
from vicreg import distributed
from vicreg.common import (
    cli,
    files,
)
from vicreg.engine.config import use_bf16

LARGEST = 4096  # side of the pictures that are written, in pixels


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run folder of train_crowdai.py, or model.pth")
    parser.add_argument("--image", type=Path, required=True, help="image, GeoTIFF, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score, 0 to 1")
    parser.add_argument("--window", type=int, help="side of a window in pixels (default: that of the training images)")
    parser.add_argument("--overlap", type=float, default=0.25, help="of windows, as a share of their side")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="fp32", help="auto: bf16 on GPUs")
    return parser


def main(args):
    """Search every image, one after the other."""
    detectron2_setup.need()
    from downstream.detectron2_crowdai_detection_task import model as detection_model
    from downstream.detectron2_crowdai_detection_task import tiled_detection

    if not 0 <= args.overlap < 1 or (args.window is not None and args.window < 1):
        raise ValueError("--overlap is a share from 0 to less than 1, --window a number of pixels")
    paths = find_images(args.image, tiled_detection.SUFFIXES)
    device = distributed.init(args.device)
    model, cfg, state = detection_model.load(args.checkpoint, device)
    window = args.window or min(state["image_size"])
    args.out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        picture = tiled_detection.open_picture(path)
        bar = functools.partial(tqdm, desc=path.name, unit="window", leave=False, disable=None)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(args.precision, device)):
            found = tiled_detection.search(model, picture, cfg, window, int(args.overlap * window), args.threshold, bar)
        written = [draw(args.out / f"{path.stem}.png", picture, found)]
        if picture.crs:
            written.append(args.out / f"{path.stem}.geojson")
            tiled_detection.write_geojson(written[-1], found, picture)
        elif path.suffix.lower() in tiled_detection.GEOTIFF:
            print(f"note: {path} has no georeference, so there are no polygons of it")
        print(f"{path}: {len(found)} buildings -> {', '.join(map(str, written))}", flush=True)


def find_images(path, suffixes):
    """The image, or those of a folder, sorted.

    Raises:
        FileNotFoundError: there is none. ValueError: two would be written to the same name.
    """
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"no image at {path} (known: {' '.join(suffixes)})")
    stems = [p.stem for p in found]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"{path}: several images are named {twice[0]}; their results would overwrite each other")
    return found


def draw(path, picture, found):
    """Write the picture, made smaller where it is very large, with what was found; returns the path."""
    import numpy as np
    from PIL import Image

    from vicreg.inference import polygons

    shrink = -(-max(picture.height, picture.width) // LARGEST)
    strips = [
        picture.read(top, 0, min(256 * shrink, picture.height - top), picture.width)[::shrink, ::shrink]
        for top in range(0, picture.height, 256 * shrink)
    ]
    image = polygons.draw(np.concatenate(strips), [one.shape for one in found], scale=1 / shrink)
    files.atomic_write(path, Image.fromarray(image).save)
    return path


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
