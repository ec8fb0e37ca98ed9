"""Prepare an fMoW-rgb tree for training: image lists with classes, places and months.

    python preprocessing/make_fmow_csv.py --data-dir FMOW --out-dir data/fmow

reads <data-dir>/<split>/<class>/<class>_<place>/<class>_<place>_<k>_rgb.jpg (and the _rgb.json beside each, where there
is one) and writes train.csv, val.csv and meta.json. It ends with a summary: images, locations, classes and months of
each split, places that are in both, and what to run next. Nothing in --out-dir changes before everything is ready.
"""

import argparse
import functools
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing import problems as problem_report
from preprocessing.fmow import index
from preprocessing.sn7 import writer
from vicreg.common import files

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "data" / "fmow"


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input").add_argument
    add("--data-dir", type=Path, required=True, help="the fMoW-rgb tree, with a folder for each split")
    add("--splits", nargs="+", default=["train", "val"], help="folders to list, training first (default: train val)")
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="bad files: list them all and end with exit code 1, or leave them out and count them; an image whose JSON "
        "is bad stays, without a month (default: stop)",
    )
    add = parser.add_argument_group("channel statistics").add_argument
    add("--stats-images", type=int, default=1000, help="training images to estimate mean and std on (default: 1000)")
    add("--seed", type=int, default=0, help="decides which images these are (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out-dir", type=Path, default=DEFAULT_OUT, help="folder to write (default: data/fmow of this repository)")
    add("--workers", type=int, default=min(16, 4 * (os.cpu_count() or 1)), help="threads that read (default: 4 a CPU)")
    return parser


def main(args):
    started = time.perf_counter()
    for flag in ("workers", "stats_images"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: at least 1 is needed")
    if args.seed < 0 or len(set(args.splits)) < len(args.splits):
        raise ValueError("--seed must be 0 or more, and every one of --splits another")
    bar = functools.partial(tqdm, desc="checking files", disable=None)  # none without a terminal
    table, problems = index.scan_tree(args.data_dir, args.splits, args.workers, bar)
    if problems:
        print(problem_report.report(problems), file=sys.stderr)
    if problems and args.on_error == "stop":
        raise ValueError(f"nothing written: the problems in {args.data_dir} are listed above; mend them, or leave "
                         "the bad files out with --on-error skip")  # fmt: skip
    empty = [split for split in args.splits if not (table.split == split).any()]
    if empty:
        raise ValueError(f"no usable image in {args.data_dir / empty[0]}")
    table, meta = index.describe(table, args.data_dir, args.stats_images, args.seed)
    with files.partial_folder(args.out_dir) as partial:
        names = index.write_lists(table, meta, partial)
        writer.publish(partial, args.out_dir, names)
    print(index.summary(meta, problems, args.out_dir, time.perf_counter() - started))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make_fmow_csv: ended by SIGTERM"))  # so that we tidy up
    try:
        main(get_parser().parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"make_fmow_csv: {error}")
    except KeyboardInterrupt:
        sys.exit("make_fmow_csv: interrupted")
