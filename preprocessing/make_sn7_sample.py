#!/usr/bin/env python3
"""Write a synthetic SN7 tree at the positions of the real AOIs, to try everything before any download.

    python preprocessing/make_sn7_sample.py --out data/sn7_sample

writes 12 AOIs x 6 months in SpaceNet-7's layout, images in EPSG:3857 and footprints in longitude and latitude,

    data/sn7_sample/train/<AOI>/images/global_monthly_YYYY_MM_mosaic_<AOI>.tif
    data/sn7_sample/train/<AOI>/labels/global_monthly_YYYY_MM_mosaic_<AOI>_Buildings.geojson

and prints (in about five seconds on two cores)

    12 AOIs x 6 months: 72 mosaics of 256 x 256 pixels and 50838 footprints in data/sn7_sample/train
    next: python preprocessing/make_sn7_csv.py --data-dir data/sn7_sample/train --out-dir data/sn7

As in real imagery, the structure of the land says more about the AOI than its color, which varies within the AOI and
with the season. Otherwise the mean color of a patch would rank above any learned feature.
"""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing.sn7.sample import AOIS, write_aoi
from vicreg.common import cli
from vicreg.data.georeference import check_proj

MONTHS = 25  # January 2018 to January 2020, as most of the real AOIs
LIMITS = {"aois": (1, len(AOIS)), "months": (1, MONTHS), "size": (32, 4096), "seed": (0, 2**63)}


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write; the tree is OUT/train")
    add("--aois", type=int, default=12, help=f"AOIs, 1..{len(AOIS)}; the first 12 are in 12 countries (default: 12)")
    add("--months", type=int, default=6, help=f"mosaics per AOI from January 2018, 1..{MONTHS} (default: 6)")
    add("--size", type=int, default=256, help="side in pixels, a multiple of 4; 1024 is full size, and the first AOI "
        "then has 1023 rows (default: 256)")  # fmt: skip
    add("--seed", type=int, default=0, help="random seed of the images (default: 0)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the tree to a partial folder, then rename it."""
    for option, (low, high) in LIMITS.items():
        if not low <= (value := getattr(args, option)) <= high:
            raise ValueError(f"--{option} {value}: choose {low} to {high}")
    if args.size % 4:
        raise ValueError(f"--size {args.size}: choose a multiple of 4, for the 4 x 4 grid of patches")
    check_proj()
    partial, done, footprints = args.out / "train.partial", args.out / "train", 0
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"{args.out} exists; delete it or choose another --out")
    with tqdm(total=args.aois * args.months, desc="mosaics", unit="", disable=None) as bar:
        for k, (tile, cover) in enumerate(AOIS[: args.aois]):
            rows = args.size - (args.size == 1024 and k == 0)
            for written in write_aoi(partial, tile, cover, args.months, args.size, rows, args.seed):
                footprints += written
                bar.update()
    os.replace(partial, done)  # the tree is complete or absent
    print(
        f"{args.aois} AOIs x {args.months} months: {args.aois * args.months} mosaics of {args.size} x {args.size}"
        f" pixels and {footprints} footprints in {done}"
    )
    print(f"next: python preprocessing/make_sn7_csv.py --data-dir {shlex.quote(str(done))} --out-dir data/sn7")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
