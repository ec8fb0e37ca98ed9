#!/usr/bin/env python3
"""Classify images with a checkpoint of train_eurosat.py; map the classes of large GeoTIFFs.

    python predict_eurosat.py --checkpoint exp/eurosat_vicreg/best_model.pth --image FILE|FOLDER|GEOTIFF --out predicted

prints the most probable classes and writes ``predictions.csv`` with the probability of each class. A TIFF that is much
larger than the training images gets ``<name>_classes.tif`` (georeferenced) and ``<name>_classes.png`` instead. Files
that cannot be read are skipped and listed, and the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task import class_map, inference, predictions
from vicreg import distributed
from vicreg.common import cli
from vicreg.common.logger import log
from vicreg.data.base import InputSpec
from vicreg.data.images import check_levels, open_reader
from vicreg.data.raster_bands import resolve_bands
from vicreg.data.resampling import resize
from vicreg.engine.finetune import add_pixel_arguments
from vicreg.engine.precision import use_bf16
from vicreg.inference.embeddings import ImageFiles
from vicreg.inference.image_files import check_outputs, find_images, process_images, raise_failures


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=cli.HelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth or model.pth of train_eurosat")
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="image files, folders of them, GeoTIFFs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, outside of --image folders")
    parser.add_argument("--batch-size", type=int, default=256, help="images or windows in a batch")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    parser.add_argument(
        "--tta", action="store_true",
        help="test-time augmentation: average the probabilities of the eight flips and quarter turns",
    )  # fmt: skip
    rasters = parser.add_argument_group("rasters")
    rasters.add_argument(
        "--treat-as", choices=["auto", "image", "map"], default="auto", help="auto: map TIFFs of two windows or more"
    )
    rasters.add_argument("--window", type=int, help="side of the windows in pixels; None: the training images'")
    rasters.add_argument("--stride", type=int, help="pixels between windows, a cell of the map; None: --window")
    add_pixel_arguments(rasters, "as in training")
    return parser


def main(args: argparse.Namespace) -> None:
    """Map the large TIFFs, then classify the other images."""
    cli.check_positive(args, "batch_size", "window", "stride")
    check_levels(args.levels)
    device = distributed.init(args.device)
    model, task = inference.load_classifier(args.checkpoint, device)
    spec = InputSpec(task["image_size"], task["mean"], task["std"])
    bf16, size = use_bf16(args.precision, device), task["patch_size"]
    window = args.window or task.get("window", size)
    bands = resolve_bands(args.bands, task["channels"]) if args.bands else task.get("bands")
    levels = args.levels or task.get("levels")
    images = find_images(args.image, args.out, recursive=True)
    is_map = {
        path: args.treat_as == "map" or (args.treat_as == "auto" and class_map.is_map(path, window)) for path in images
    }
    check_outputs(images, lambda path: class_map.map_files(args.out, path) if is_map[path] else ())
    args.out.mkdir(parents=True, exist_ok=True)

    def predict(batch: np.ndarray) -> torch.Tensor:
        return inference.predict_proba(model, torch.from_numpy(batch), spec, bf16, args.tta)

    def classify(windows: np.ndarray) -> np.ndarray:
        return predict(np.stack([resize(pixels, (size, size)) for pixels in windows])).argmax(1).numpy()

    def write_map(path: Path) -> None:
        with open_reader(path, bands=bands, levels=levels, deep=True) as reader:
            fractions = class_map.write_class_map(
                args.out, reader, classify, task["classes"], window, args.stride or window, args.batch_size
            )
        ranked = sorted(fractions.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {fraction:.1%}" for name, fraction in ranked if fraction)
        log(f"{path}: {shown or 'no data'}; {', '.join(map(str, class_map.map_files(args.out, path)))}")

    failures = process_images([path for path in images if is_map[path]], write_map, "maps")
    if loose := [path for path in images if not is_map[path]]:
        files = ImageFiles(list(map(str, loose)), size, task["channels"], bands, levels)
        batches = tqdm(range(0, len(loose), args.batch_size), "images", leave=False, disable=None)
        parts = [predict(files.images(range(n, min(n + args.batch_size, len(loose)))).numpy()) for n in batches]
        failures += [files.failures[number] for number in sorted(files.failures)]
        if kept := [number for number in range(len(loose)) if number not in files.failures]:
            readable, probabilities = [loose[number] for number in kept], torch.cat(parts)[kept]
            predictions.write_predictions(args.out / "predictions.csv", readable, probabilities, task["classes"])
    distributed.destroy()
    raise_failures(failures, len(images))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
