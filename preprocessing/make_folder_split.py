#!/usr/bin/env python3
"""Split a folder of class folders into training and validation lists.

    python preprocessing/make_folder_split.py --data-dir EuroSAT/2750 --out-dir data/eurosat --split image
    python preprocessing/make_folder_split.py --data-dir scenes --out-dir data/scenes --split location \
        --location-pattern '_(\\d+)_\\d+\\.'

writes ``train.txt`` and ``val.txt`` (a path a line, below --data-dir), ``train.csv`` and ``val.csv`` (path, location,
class, label), which audit_split.py reads, and ``meta.json``. Rules:

    image      images at random, the same share of each class; images of one place may come into both parts
    location   whole locations; what a location is, the pattern's group says of a path such as Forest/Forest_12_3.jpg
    block      the eastern part of the world, by longitude, as EuroSAT-Spatial does; needs georeferenced images
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
from tqdm import tqdm

from preprocessing.sn7 import writer
from vicreg.common import files
from vicreg.data import subsets
from vicreg.data.image_folder import list_images
from vicreg.inference.rasters import quiet_georeference

RULES = ("image", "location", "block")
NAMES = ("train.txt", "val.txt", "train.csv", "val.csv", "meta.json")


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=RULES, default="image", help="rule (default: image)")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share to hold out (default: 0.2)")
    parser.add_argument("--location-pattern", help="regular expression whose group (or groups) name a path's location")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    return parser


def locations_of(paths, pattern):
    """Location of each path: what the pattern's groups find, joined; the whole match where it has none.

    Raises:
        ValueError: no pattern, a broken one, or paths that it does not fit.
    """
    if not pattern:
        raise ValueError("--split location needs --location-pattern, such as '_(\\d+)_\\d+\\.' for Forest_12_3.jpg")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--location-pattern {pattern!r} is no regular expression: {error}") from error
    found = [compiled.search(path) for path in paths]
    if missed := [path for path, match in zip(paths, found, strict=True) if not match]:
        raise ValueError(f"--location-pattern {pattern!r} fits {len(paths) - len(missed)} of {len(paths)} paths; "
                         f"not {missed[0]}")  # fmt: skip
    return ["/".join(match.groups() or [match.group()]) for match in found]


def longitudes_of(data_dir, paths):
    """Longitude of each image's center in degrees.

    Raises:
        ValueError: an image without a georeference.
    """
    import rasterio
    from rasterio.warp import transform

    found = []
    with quiet_georeference():
        for path in tqdm(paths, "reading positions", disable=None):
            try:
                with rasterio.open(data_dir / path) as raster:
                    if raster.crs is None:
                        raise ValueError(f"{data_dir / path}: no georeference, and --split block is by longitude; use "
                                         "--split location or image")  # fmt: skip
                    middle = raster.xy(raster.height / 2, raster.width / 2)
                    found.append(transform(raster.crs, "EPSG:4326", [middle[0]], [middle[1]])[0][0])
            except rasterio.errors.RasterioIOError as error:
                raise ValueError(f"{data_dir / path}: cannot be read ({error})") from error
    return np.array(found)


def hold_out(rule, paths, labels, locations, longitudes, fraction, seed):
    """Which images to validate on: bool array (n,).

    Args:
        rule: of ``RULES``. paths, labels: (n,). locations: (n,) for location. longitudes: (n,) for block.
        fraction: share of the images (of the locations for location). seed: of the draw.
    """
    if rule == "image":
        return subsets.held_out_images(labels, fraction, seed)
    if rule == "location":
        held_out = subsets.held_out_groups(locations, fraction, seed)
        if not held_out.any():
            raise ValueError("--split location holds out whole locations, and there is only one; use --split image")
        return held_out
    border = np.quantile(longitudes, 1 - fraction)
    held_out = longitudes > border
    if not held_out.any():
        raise ValueError("--split block: all images have the same longitude; use --split location or image")
    return held_out


def main(args):
    """List, split, write."""
    started = time.perf_counter()
    subsets.check_fraction(args.val_fraction)
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; 0 or more is needed")
    if not args.data_dir.is_dir():
        raise FileNotFoundError(f"no folder {args.data_dir}")
    listing = list_images(args.data_dir)
    paths = [Path(path).relative_to(args.data_dir).as_posix() for path in listing.paths]
    locations = locations_of(paths, args.location_pattern) if args.split == "location" else paths
    longitudes = longitudes_of(args.data_dir, paths) if args.split == "block" else None
    held_out = hold_out(args.split, paths, listing.labels, locations, longitudes, args.val_fraction, args.seed)
    names = [listing.classes[label] for label in listing.labels]
    table = pd.DataFrame({"path": paths, "location": locations, "class": names, "label": listing.labels})
    parts = {"train": table[~held_out], "val": table[held_out]}
    lost = [name for name in listing.classes if name not in set(parts["train"]["class"])]
    split = {"rule": args.split, "val_fraction": args.val_fraction, "achieved": float(held_out.mean())}
    split |= {"seed": None if args.split == "block" else args.seed, "location_pattern": args.location_pattern}
    meta = {"classes": listing.classes, "source": str(args.data_dir.resolve()), "split": split}
    with files.partial_folder(args.out_dir) as partial:
        for name, part in parts.items():
            part.to_csv(partial / f"{name}.csv", index=False)
            (partial / f"{name}.txt").write_text("".join(f"{path}\n" for path in part.path), encoding="utf-8")
        (partial / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        writer.publish(partial, args.out_dir, NAMES)
    places = len(set(parts["val"].location) & set(parts["train"].location))
    print(f"{len(table)} images of {len(listing.classes)} classes; split {args.split}: {len(parts['train'])} to train, "
          f"{len(parts['val'])} to validate ({held_out.mean():.3f})")  # fmt: skip
    if args.split == "location":
        print(f"{len(set(locations))} locations, {places} in both parts")
    if lost:
        print(f"classes without a training image: {', '.join(lost)}")
    print(f"written to {args.out_dir} in {time.perf_counter() - started:.1f} s; what the parts share: "
          f"python preprocessing/audit_split.py {args.out_dir}")  # fmt: skip


if __name__ == "__main__":
    try:
        main(get_parser().parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"make_folder_split: {error}")
