#!/usr/bin/env python3
"""Detect buildings with a detector of train_crowdai.py: masks drawn on images, and polygons of GeoTIFFs.

    python predict_crowdai.py --checkpoint ../../exp/crowdai --image mosaic.tif --out predictions

writes ``mosaic.png`` with the detections and, for a georeferenced GeoTIFF, ``mosaic.geojson`` with polygons in
longitude and latitude, with class and score. ``--image`` may be a folder. Large images are processed in overlapping
windows. Files that cannot be read are skipped and listed, and the exit status is then 1.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from downstream.detectron2_crowdai_detection_task import detectron2_setup
from vicreg.common import cli, files
from vicreg.common.logger import log
from vicreg.data.images import add_levels_argument, check_levels, open_reader
from vicreg.data.rasters import TIFF
from vicreg.engine.precision import use_bf16
from vicreg.inference.image_files import check_outputs, find_images, process_images, raise_failures

MAX_SIZE = 4096  # longer side of the written images, pixels


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder of train_crowdai.py, or a .pth in it"
    )
    parser.add_argument("--image", type=Path, required=True, help="image, GeoTIFF, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, other than --image")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score, 0 to 1")
    text = "side of a window in pixels, enlarged as the training images were; None: that of the training images"
    parser.add_argument("--window", type=int, help=text)
    parser.add_argument("--overlap", type=float, default=0.25, help="overlap of neighboring windows, 0 to 0.9")
    add_levels_argument(parser, "default: such files are refused")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    return parser


def main(args: argparse.Namespace) -> None:
    """Process the images one after the other."""
    cli.check_positive(args, "window")
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold {args.threshold:g}: 0 to 1 is needed")
    if not 0 <= args.overlap <= 0.9:
        raise ValueError(f"--overlap {args.overlap:g}: 0 to 0.9 is needed")
    check_levels(args.levels)
    images = find_images([args.image], args.out)
    check_outputs(images, lambda path: [args.out / f"{path.stem}{suffix}" for suffix in (".png", ".geojson")])
    detectron2_setup.require()
    import torch
    from PIL import Image

    from downstream.detectron2_crowdai_detection_task import config, experiment, tiled_detection
    from downstream.detectron2_crowdai_detection_task.model import autocast_backbone, find_checkpoint, load_model
    from vicreg.inference import polygons

    checkpoint = find_checkpoint(args.checkpoint)
    run = experiment.load_run(checkpoint)
    device = torch.device(detectron2_setup.choose_device(args.device))
    cfg = config.load_config(checkpoint.parent, [], {}, device.type)
    model, _ = load_model(checkpoint, cfg)
    if use_bf16(args.precision, device):
        autocast_backbone(model)
    size, classes = min(run["image_size"]), run["classes"]
    window = args.window or size
    for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST"):  # windows are enlarged as the training images were
        cfg.INPUT[key] = round(cfg.INPUT[key] * window / size)
    args.out.mkdir(parents=True, exist_ok=True)

    def process(path: Path) -> None:
        with open_reader(path, levels=args.levels) as reader:
            detections = tiled_detection.detect_tiled(model, reader, cfg, window, args.overlap, args.threshold)
            written = [args.out / f"{path.stem}.png"]
            image = reader.preview(MAX_SIZE).transpose(1, 2, 0)
            scale = image.shape[1] / reader.width
            image = polygons.draw(image, [detection.shape for detection in detections], scale=scale)
            files.atomic_write(written[0], Image.fromarray(image).save)
            if reader.crs or reader.gcps:
                written.append(args.out / f"{path.stem}.geojson")
                tiled_detection.write_geojson(written[-1], detections, reader, classes)
            elif path.suffix.lower() in TIFF:
                log(f"note: {path} has no georeference, so no polygons are written")
            counts = Counter(classes[detection.label] for detection in detections)
            found = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no detections"
            log(f"{path}: {found} -> {', '.join(map(str, written))}")

    raise_failures(process_images(images, process), len(images))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
