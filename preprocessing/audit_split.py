#!/usr/bin/env python3
"""Measure how much of a validation set is already in the training set.

    python preprocessing/audit_split.py data/sn7
    python preprocessing/audit_split.py images/train images/val --picture pairs.png
    python preprocessing/audit_split.py --coco train.json val.json --max-overlap 1

The input is a folder with train.csv and val.csv, two lists, two folders of images, or two COCO files. The report gives
equal pixels, near duplicates, shared locations and class counts, in numbers and percent of the validation samples.
Exit code 0; 1 if --max-overlap is exceeded; 2 if there is nothing to audit.
"""

import argparse
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.audit import compare, phash, samples, text_report
from vicreg.common import cli, files

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input").add_argument
    add("paths", type=Path, nargs="*", metavar="PATH", help="a folder of lists; or two lists or folders of images")
    add("--parts", nargs=2, default=["train", "val"], metavar="NAME", help="lists of the folder (default: train val)")
    add("--data-dir", type=Path, help="folder of the images or mosaics (default: source of the lists' meta.json)")
    add("--coco", type=Path, nargs=2, metavar="JSON", help="COCO files for training and validation")
    add("--coco-images", type=Path, nargs=2, metavar="DIR",
        help="folders of their images (default: images/ in the JSON's folder, or that folder)")  # fmt: skip
    add = parser.add_argument_group("near duplicates").add_argument
    add("--max-bits", type=int, default=phash.MAX_BITS,
        help=f"bits of {phash.HASH_SIZE**2} in which two hashes may differ (default: {phash.MAX_BITS})")  # fmt: skip
    add("--min-contrast", type=float, default=phash.MIN_CONTRAST,
        help="exclude images with less contrast (gray levels of 255, in half of their area), such as water and cloud "
        f"(default: {phash.MIN_CONTRAST:g})")  # fmt: skip
    add("--no-turns", action="store_true", help="do not try flips and rotations (8 times as fast)")
    add("--no-shifts", action="store_true", help="do not try shifts up to 1/16 of the side (25 times as fast)")
    add("--no-pixels", action="store_true", help="locations and classes only")
    add = parser.add_argument_group("output").add_argument
    add("--max-overlap", type=float, metavar="P",
        help="exit code 1 if more than P %% of the validation samples overlap")  # fmt: skip
    add("--examples", type=int, default=3, help="pairs shown of each kind (default: 3)")
    add("--json", metavar="FILE", help="write the result as JSON; - prints it instead of the text")
    add("--picture", type=Path, metavar="FILE.png", help="plot the first pairs side by side")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads (default: CPUs, at most 8)")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage error if the arguments do not name two subsets."""
    if bool(args.coco) == bool(args.paths) or len(args.paths) > 2:
        parser.error("name a folder of lists, two lists, two folders of images, or --coco JSON JSON")
    if args.coco_images and not args.coco:
        parser.error("--coco-images requires --coco")
    if args.workers < 1 or args.min_contrast < 0:
        parser.error("--min-contrast must be 0 or more, --workers 1 or more")
    if args.max_overlap is not None and not 0 <= args.max_overlap <= 100:
        parser.error("--max-overlap is a percentage, 0 to 100")
    if args.no_pixels and args.picture:
        parser.error("--picture cannot be combined with --no-pixels")


def open_subsets(args: argparse.Namespace) -> list[samples.Subset]:
    """Return the training and the validation subset that the arguments name."""
    if args.coco:
        return [samples.from_coco(*pair) for pair in zip(args.coco, args.coco_images or (None, None), strict=True)]
    paths = [args.paths[0] / f"{name}.csv" for name in args.parts] if len(args.paths) == 1 else args.paths
    return [
        samples.from_list(path, args.data_dir) if path.suffix == ".csv" else samples.from_folder(path) for path in paths
    ]


def check_not_input(path: Path, *subsets: samples.Subset) -> None:
    """Raise ValueError if a file to write is one of the subsets, their ``meta.json``, or an image of them."""
    for subset in subsets:
        name = Path(subset.name)
        if name.is_dir():
            files.check_outside(path, name, "the output")
        inputs = (name, name.with_name("meta.json"), *map(Path, subset.samples))
        if path.exists() and os.path.abspath(path) in {os.path.abspath(each) for each in inputs}:
            raise ValueError(f"{path} is an input of the audit; choose another name")


def main(args: argparse.Namespace) -> int:
    """Audit the split, print the report, and return the exit code."""
    json_file = Path(args.json) if args.json and args.json != "-" else None
    for path, suffixes in ((args.picture, PICTURES), (json_file, (".json",))):
        if path:
            files.check_writable(path, suffixes)
    train, val = open_subsets(args)
    for path in filter(None, (args.picture, json_file)):
        check_not_input(path, train, val)
    shifts = (0,) if args.no_shifts else phash.SHIFTS
    result = compare.compare(train, val, not args.no_pixels, args.max_bits, args.min_contrast, shifts,
                             not args.no_turns, args.workers)  # fmt: skip
    result = compare.limit_pairs(result, args.examples)
    named = compare.name_pairs(result, train, val)
    if args.json == "-":
        print(json.dumps(named, indent=1))
    else:
        if args.json:
            files.write_text(args.json, json.dumps(named, indent=1) + "\n")
        print(files.printable(text_report.format_report(named, not args.no_turns, not args.no_shifts)))
    if args.picture and not text_report.plot_pairs(args.picture, result, train, val):
        print("no pairs to plot", file=sys.stderr)
    if args.max_overlap is not None and result["overlap"]["fraction"] * 100 > args.max_overlap:
        print(f"audit_split: more than --max-overlap {args.max_overlap:g} % overlap", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    the_parser = get_parser()
    the_args = cli.parse(the_parser)
    check(the_parser, the_args)
    try:
        sys.exit(main(the_args))
    except (ValueError, OSError) as error:
        print(files.printable(f"audit_split: {error}"), file=sys.stderr)
        sys.exit(2)  # 1 means that --max-overlap is exceeded
    except KeyboardInterrupt:
        sys.exit("audit_split: interrupted")
