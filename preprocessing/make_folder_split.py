#!/usr/bin/env python3
r"""Split a folder of class folders into training and validation lists.

    python preprocessing/make_folder_split.py --data-dir EuroSAT/2750 --out-dir data/eurosat_lists --split image
    python preprocessing/make_folder_split.py --data-dir scenes --out-dir data/scenes --split location \
        --location-pattern '_(\d+)_\d+\.'

writes ``train.txt`` and ``val.txt`` (one path per line, relative to --data-dir), ``train.csv`` and ``val.csv`` (path,
location, class, label), which audit_split.py reads, and ``meta.json``. Split rules:

    image      random images, stratified by class; images of one location may be in both parts
    location   whole locations; the groups of --location-pattern name the location of a path such as Forest_12_3.jpg
    block      the eastern part by longitude, as in EuroSAT-Spatial; needs georeferenced images
"""

import argparse
import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from preprocessing import folder_split
from vicreg.common import cli, files
from vicreg.data import subsets
from vicreg.data.image_listing import list_images

OUTPUTS = ("train.txt", "val.txt", "train.csv", "val.csv", "meta.json")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=folder_split.RULES, default="image", help="split rule (default: image)")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="fraction to hold out, 0..1 (default: 0.2)")
    parser.add_argument("--location-pattern", help="regular expression whose groups name the location of a path")
    parser.add_argument("--seed", type=int, default=0, help="random seed; not for block (default: 0)")
    return parser


def main(args: argparse.Namespace) -> None:
    """List the images, split them, write the lists."""
    started = time.perf_counter()
    subsets.check_fraction(args.val_fraction)
    if args.location_pattern and args.split != "location":
        raise ValueError(f"--location-pattern is for --split location, not --split {args.split}")
    if not args.data_dir.is_dir():
        raise FileNotFoundError(f"no folder {args.data_dir}")
    files.check_outside(args.out_dir, args.data_dir, "--out-dir")
    listing = list_images(args.data_dir)
    paths = [Path(path).relative_to(args.data_dir).as_posix() for path in listing.paths]
    folder_split.check_names(paths)
    locations, rule = paths, args.split
    if rule == "image":
        held_out = subsets.held_out_images(listing.labels, args.val_fraction, args.seed)
    elif rule == "location":
        locations = folder_split.parse_locations(paths, args.location_pattern)
        held_out = subsets.held_out_groups(locations, args.val_fraction, args.seed)
        if not held_out.any():
            raise ValueError("--split location holds out whole locations, and there is only one; use --split image")
    else:
        longitudes = folder_split.read_longitudes(args.data_dir, paths)
        held_out = folder_split.eastern_part(longitudes, args.val_fraction)
    names = [listing.classes[label] for label in listing.labels]
    table = pd.DataFrame({"path": paths, "location": locations, "class": names, "label": listing.labels})
    parts = {"train": table[~held_out], "val": table[held_out]}
    split = {"rule": rule, "val_fraction": args.val_fraction, "achieved": float(held_out.mean())}
    split |= {"seed": None if rule == "block" else args.seed, "location_pattern": args.location_pattern}
    meta = {"classes": listing.classes, "source": str(args.data_dir.resolve()), "split": split}
    with files.partial_folder(args.out_dir) as partial:
        for name, part in parts.items():
            part.to_csv(partial / f"{name}.csv", index=False)
            (partial / f"{name}.txt").write_text("".join(f"{path}\n" for path in part.path), encoding="utf-8")
        (partial / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files.publish(partial, args.out_dir, OUTPUTS)
    print(folder_split.summary(parts, listing.classes, rule))
    print(f"written to {args.out_dir} in {time.perf_counter() - started:.1f} s; next, audit the split: "
          f"python preprocessing/audit_split.py {args.out_dir}")  # fmt: skip


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
