#!/usr/bin/env python3
"""Prepare an fMoW-rgb tree for training: image lists with classes, locations and months.

    python preprocessing/make_fmow_csv.py --data-dir FMOW --out-dir data/fmow

reads <data-dir>/<split>/<class>/<class>_<location>/<class>_<location>_<k>_rgb.jpg and the _rgb.json of the same name,
if present, and writes train.csv, val.csv and meta.json. It prints a summary: images, locations, classes and months of
each split, and the next command. Nothing in --out-dir changes before everything is ready.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.fmow import index
from preprocessing.problems import check_problems
from vicreg.common import cli, files

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input").add_argument
    add("--data-dir", type=Path, required=True, help="the fMoW-rgb tree, with a folder for each split")
    add("--splits", nargs="+", default=["train", "val"], help="folders to list, training first (default: train val)")
    add("--on-error", choices=["stop", "skip"], default="stop",
        help="bad files: list all and end with exit code 1, or leave them out and count them; an image with a bad JSON "
        "is kept, without a month (default: stop)")  # fmt: skip
    add = parser.add_argument_group("channel statistics").add_argument
    add("--stats-images", type=int, default=1000, help="training images read for mean and std (default: 1000)")
    add("--seed", type=int, default=0, help="seed of that sample (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out-dir", type=Path, default=DEFAULT_OUT, help="folder to write (default: data/fmow of this repository)")
    add("--workers", type=int, default=min(16, 4 * (os.cpu_count() or 1)), help="threads (default: 4 per CPU)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Scan the tree, write the lists, print the summary."""
    started = time.perf_counter()
    cli.check_positive(args, "workers", "stats_images")
    if len(set(args.splits)) < len(args.splits):
        raise ValueError(f"--splits {' '.join(args.splits)}: every name must occur once")
    table, problems = index.scan_tree(args.data_dir, args.splits, args.workers)
    check_problems(problems, args.on_error, args.data_dir)
    if empty := [split for split in args.splits if not (table.split == split).any()]:
        raise ValueError(f"no usable image in {args.data_dir / empty[0]}")
    table, meta = index.describe(table, args.data_dir, args.stats_images, args.seed)
    with files.partial_folder(args.out_dir) as partial:
        names = index.write_lists(table, meta, partial)
        files.publish(partial, args.out_dir, names)
    print(index.summary(meta, problems, args.out_dir, time.perf_counter() - started))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make_fmow_csv: ended by SIGTERM"))  # removes partial files
    cli.run(main, cli.parse(get_parser()))
