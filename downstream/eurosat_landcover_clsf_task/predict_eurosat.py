#!/usr/bin/env python3
"""Say what is on images with a checkpoint of train_eurosat.py; of a large GeoTIFF, make a map of classes.

    python predict_eurosat.py --checkpoint exp/eurosat_vicreg/best_model.pth --image FILE|FOLDER|GEOTIFF --out predicted

prints the likeliest classes and writes ``predictions.csv`` with the probability of each class; for a TIFF that is much
larger than what the network was trained on, ``<name>_classes.tif`` (georeferenced) and ``<name>_classes.png``.
"""

import argparse
import collections
import csv
import functools
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task import (
    class_map,
    inference,
)
from vicreg import distributed
from vicreg.common import (
    cli,
    files,
)
from vicreg.common.logger import log
from vicreg.data.image_io import (
    IMAGE_SUFFIXES,
    WHOLE,
    error_reason,
    read_crops,
)
from vicreg.engine import checkpoint
from vicreg.engine.config import use_bf16
from vicreg.inference import rasters as raster_io
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import (
    Classifier,
    LinearHeads,
)

TASK = "EuroSAT"
SHOWN = 20  # images named on the screen


def get_parser():
    """Arguments of prediction."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="best_model.pth or model.pth of train_eurosat.py"
    )
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="image files, folders of them, GeoTIFFs")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--batch-size", type=int, default=256, help="images or windows at a time")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    parser.add_argument(
        "--tta", action="store_true",
        help="average the probabilities over the eight flips and quarter turns: surer, and eight times as slow",
    )  # fmt: skip
    rasters = parser.add_argument_group("GeoTIFFs")
    rasters.add_argument(
        "--treat-as", choices=["auto", "image", "map"], default="auto", help="auto: TIFFs of two windows are mapped"
    )
    rasters.add_argument("--window", type=int, help="side of the window in pixels (default: the training images')")
    rasters.add_argument("--stride", type=int, help="pixels between windows (default: a window), a cell of the map")
    rasters.add_argument(
        "--bands", type=int, nargs=3, default=list(raster_io.RGB), help="red, green, blue, counted from 1"
    )
    rasters.add_argument("--levels", type=float, nargs=2, metavar=("LOW", "HIGH"), help="values of black and white")
    return parser


def main(args):
    """Classify each image, map each large TIFF."""
    cli.check_positive(args, "batch_size", "window", "stride", "bands")
    if args.levels and args.levels[0] >= args.levels[1]:
        raise ValueError(f"--levels {args.levels[0]:g} {args.levels[1]:g}: the second must be larger")
    device = distributed.init(args.device)
    model, task = read_model(args.checkpoint, device)
    look = {"size": task["image_size"], "mean": task["mean"], "std": task["std"], "device": device}
    bf16, window = use_bf16(args.precision, device), args.window or task.get("window", task["patch_size"])
    sliding = class_map.Sliding(window, args.stride or window, tuple(args.bands), args.levels and tuple(args.levels))
    paths = image_paths(args.image)
    mapped = [path for path in paths if as_map(args.treat_as, path, window)]
    twice = [name for name, count in collections.Counter(path.stem for path in mapped).items() if count > 1]
    if twice:
        raise ValueError(f"several rasters are named {twice[0]}, and their maps would be too; give them one at a time")
    args.out.mkdir(parents=True, exist_ok=True)

    def shares_of(images):
        return inference.shares_of(model, torch.from_numpy(images), look, bf16, args.tta)

    def classify(windows):
        return shares_of(class_map.resized(windows, task["patch_size"])).argmax(1).numpy()

    for path in mapped:
        bar = tqdm(desc=path.name, leave=False, disable=None)
        out = args.out / f"{path.stem}_classes"
        found = class_map.write_map(
            path, out, sliding, classify, task["classes"], args.batch_size, lambda rows, bar=bar: with_bar(rows, bar)
        )
        shares = sorted(found.items(), key=lambda item: -item[1])
        log(f"{path}: {', '.join(f'{name} {share:.1%}' for name, share in shares if share)}; {out}.tif, .png")
    if loose := [path for path in paths if path not in set(mapped)]:
        read = functools.partial(read_image, side=task["patch_size"], sliding=sliding)
        found = shares_of_files(loose, shares_of, read, args.batch_size)
        write_table(args.out / "predictions.csv", loose, torch.cat(found), task["classes"])
    distributed.destroy()


def read_model(path, device):
    """A classifier and what its checkpoint says of the task.

    Raises:
        FileNotFoundError, ValueError: no such file, or no checkpoint of train_eurosat.py.
    """
    weights, about = checkpoint.load_task(path, TASK, device)
    backbone, task = create_backbone(about["backbone"]["arch"], about["backbone"]["in_chans"]), about["task"]
    model = Classifier(backbone, LinearHeads(1, backbone.num_features, len(task["classes"])), frozen=True)
    model.load_state_dict(weights)
    log(f"{about['backbone']['arch']} from {path}: {len(task['classes'])} classes, {task['image_size']} px")
    return model.eval().to(device, memory_format=torch.channels_last), task


def image_paths(given):
    """Image files, and those of folders at any depth, in order.

    Raises:
        FileNotFoundError, ValueError: no such file or folder, or none in it.
    """
    found = []
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"no image or folder {path}")
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            raise ValueError(f"no image in {path}")
        found += inside
    return found


def as_map(treat_as, path, window):
    """Whether a file is to be mapped."""
    return raster_io.is_map(path, window) if treat_as == "auto" else treat_as == "map"


def with_bar(rows, bar):
    """Iterate over rows, and show how far it is."""
    bar.reset(total=len(rows))
    for row in rows:
        yield row
        bar.update()
    bar.close()


def read_image(path, side, sliding):
    """The largest square in the middle of an image: uint8 (3, side, side).

    TIFFs that are no 8-bit colors, or of which other ``--bands`` or ``--levels`` are wanted, are read as rasters.

    Raises:
        ValueError: it cannot be read, or the raster does not fit ``sliding``.
    """
    if path.suffix.lower() in raster_io.TIFF:
        asked = sliding.bands != raster_io.RGB or sliding.levels is not None
        if asked or raster_io.dtype_of(path) != "uint8":
            return class_map.read_square(path, sliding, side)
    try:
        return read_crops(path, [(WHOLE, 0)], side)[0]
    except MemoryError:
        raise
    except Exception as error:  # every decoder of PIL has its own
        raise ValueError(f"{path} cannot be read ({error_reason(error, path)})") from error


def shares_of_files(paths, shares_of, read, batch_size):
    """Probabilities of image files, as a list of tensors (n, classes), a batch at a time.

    Args:
        shares_of: function (uint8 (n, 3, side, side)) -> float (n, classes). read: function (path) -> uint8 (3, S, S).

    Raises:
        ValueError: one cannot be read.
    """
    found = []
    for begin in tqdm(range(0, len(paths), batch_size), "images", leave=False, disable=None):
        found.append(shares_of(np.stack([read(path) for path in paths[begin : begin + batch_size]])))
    return found


def write_table(path, images, shares, classes):
    """Write ``predictions.csv``, and print the first rows and the number of images of each class."""
    sure, ranked = shares.sort(1, descending=True)

    def save(beside):
        with beside.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "class", *classes])
            for name, best, row in zip(images, ranked[:, 0].tolist(), shares.tolist(), strict=True):
                table.writerow([name, classes[best], *(f"{share:.6f}" for share in row)])

    files.atomic_write(path, save)
    for name, row, codes in list(zip(images, sure.tolist(), ranked.tolist(), strict=True))[:SHOWN]:
        log(f"{name}  " + "  ".join(f"{classes[code]} {p:.3f}" for code, p in list(zip(codes, row, strict=True))[:3]))
    if len(images) > SHOWN:
        log(f"… and {len(images) - SHOWN} more")
    counts = collections.Counter(classes[code] for code in ranked[:, 0].tolist())
    log(f"{len(images)} images: {', '.join(f'{name} {n}' for name, n in counts.most_common())}; {path}")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
