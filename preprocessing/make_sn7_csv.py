#!/usr/bin/env python3
"""Prepare a SpaceNet-7 tree for training: patch lists, places and classes, and the packed patches.

    python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir data/sn7

reads <data-dir>/<AOI>/images/*.tif (and labels/*_Buildings.geojson, if present) and writes all.csv, train.csv,
val.csv (with --split published test.csv too), meta.json and patches.npy. It prints a summary: AOIs, mosaics, patches,
classes, distances to the towns that name cities, the split, and the next command. Nothing in --out-dir changes before
everything is ready.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.problems import check_problems
from preprocessing.sn7 import index, pack, places, splits, writer
from vicreg.common import cli, files
from vicreg.data.georeference import check_proj

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "data" / "sn7"


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input").add_argument
    add("--data-dir", type=Path, required=True, help="folder with one folder per AOI, such as SN7/train")
    add("--labels-override", type=Path, metavar="FILE",
        help="CSV aoi,city,state,country that corrects the location of AOIs")  # fmt: skip
    add("--on-error", choices=["stop", "skip"], default="stop",
        help="bad files: list all and end with exit code 1, or leave them out and count them "
        "(default: stop)")  # fmt: skip
    add = parser.add_argument_group("patches and classes").add_argument
    add("--grid", type=int, default=4, help="patches per side of a mosaic (default: 4, so 16 patches)")
    add("--label", choices=places.LABELS, default="country", help="what the classes are (default: country)")
    add = parser.add_argument_group("split").add_argument
    add("--split", choices=splits.RULES, default="block",
        help="hold out a corner of every AOI in all months (block: no location is in both parts), whole AOIs "
        "(location), random mosaics (image: every location is in both parts), or the AOIs of a published split, with a "
        "test part (published) (default: block)")  # fmt: skip
    add("--val-fraction", type=float, help="fraction of the patches to hold out, 0..1; not for published "
        "(default: 0.25)")  # fmt: skip
    add("--seed", type=int, default=0, help="chooses the corner, AOIs or mosaics; not for published (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out-dir", type=Path, default=DEFAULT_OUT, help="folder to write (default: data/sn7 of this repository)")
    add("--no-pack", action="store_true", help="do not write patches.npy; training then reads the tree, much slower")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads (default: CPUs, at most 8)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Scan the tree, cut and split the patches, write the outputs, print the summary."""
    started = time.perf_counter()
    fraction = splits.check_arguments(args.split, args.grid, args.val_fraction)
    if args.val_fraction is not None and fraction is None:
        print("--val-fraction is ignored: the published lists define what is held out", file=sys.stderr)
    check_proj()
    mosaics, problems = index.scan_tree(args.data_dir, args.workers)
    known = {}
    if args.labels_override:
        known = places.read_places(args.labels_override, {path.name for path in index.list_aois(args.data_dir)})
    aoi_places, place_problems = index.locate_aois(mosaics, known)
    problems += place_problems
    mosaics = [mosaic for mosaic in mosaics if mosaic.name.aoi in aoi_places]
    if mosaics:
        pack.check_grid(args.grid, mosaics[0].width)
        if args.split == "published":  # before the pixels are read
            splits.published_parts([mosaic.name.aoi for mosaic in mosaics])
    with files.partial_folder(args.out_dir) as partial:
        no_pack = args.no_pack or (problems and args.on_error == "stop")
        packed = pack.pack_patches(mosaics, args.grid, args.workers, None if no_pack else partial / "patches.npy")
        problems += packed.problems
        check_problems(problems, args.on_error, args.data_dir)
        if not packed.mosaics:
            raise ValueError(f"no usable mosaic in {args.data_dir}")
        split = {"rule": args.split, "fraction": fraction, "seed": args.seed}
        table, meta = writer.describe(packed, aoi_places, args.label, args.grid, split, args.data_dir)
        writer.write_lists(table, meta, partial)
        files.publish(partial, args.out_dir, writer.OUTPUTS)
    print(writer.summary(meta, problems, args.out_dir, time.perf_counter() - started))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make_sn7_csv: ended by SIGTERM"))  # removes partial files
    cli.run(main, cli.parse(get_parser()))
