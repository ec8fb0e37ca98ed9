#!/usr/bin/env python3
"""How much of a validation set is already in the training set.

    python preprocessing/audit_split.py data/sn7
    python preprocessing/audit_split.py images/train images/val --picture pairs.png
    python preprocessing/audit_split.py --coco train.json val.json --max-overlap 1

takes a folder of patch lists (train.csv and val.csv), two lists, two folders of images, or two COCO files, and reports
equal pixels, near duplicates, shared places and the balance of the classes, in counts and percent of the validation
samples. Exit code 0; 1 where --max-overlap is exceeded; 2 where there is nothing to audit.
"""

import argparse
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing.audit import (
    compare,
    phash,
    samples,
    text_report,
)


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("the two parts").add_argument
    add("paths", type=Path, nargs="*", metavar="PATH", help="a folder of lists; or two lists or folders of images")
    add("--parts", nargs=2, default=["train", "val"], metavar="NAME", help="lists of the folder (default: train val)")
    add("--data-dir", type=Path, help="tree of the images or mosaics, where the lists' meta.json does not name it")
    add("--coco", type=Path, nargs=2, metavar="JSON", help="COCO files for training and validation")
    add("--coco-images", type=Path, nargs=2, metavar="DIR", help="their images (default: images/ beside, or beside)")
    add = parser.add_argument_group("what counts as near").add_argument
    add(
        "--max-bits",
        type=int,
        default=phash.MOST,
        help=f"bits of {phash.HASH_SIZE**2} in which the hashes may differ (default: {phash.MOST})",
    )
    add(
        "--min-contrast",
        type=float,
        default=phash.MIN_CONTRAST,
        help="images with less texture (gray levels of 255, in half of their area) are left out of the near "
        f"duplicates: water and cloud all look alike (default: {phash.MIN_CONTRAST:g})",
    )
    add("--no-turns", action="store_true", help="do not look for flips and quarter turns (8 times as fast)")
    add("--no-shifts", action="store_true", help="do not look for shifts up to 1/16 of the side (25 times as fast)")
    add("--no-pixels", action="store_true", help="places and classes only")
    add = parser.add_argument_group("output").add_argument
    add(
        "--max-overlap", type=float, metavar="P", help="exit code 1 if more than P %% of the validation samples overlap"
    )
    add("--examples", type=int, default=3, help="pairs shown of each kind (default: 3)")
    add("--json", metavar="FILE", help="write the findings there; - for the terminal, instead of the text")
    add("--picture", type=Path, metavar="FILE.png", help="draw the first pairs side by side")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads (default: CPUs, at most 8)")
    return parser


def check(parser, args):
    """End with a usage error where the arguments do not name two parts."""
    if bool(args.coco) == bool(args.paths) or len(args.paths) > 2:
        parser.error("name a folder of lists, two lists, two folders of images, or --coco JSON JSON")
    if args.coco_images and not args.coco:
        parser.error("--coco-images goes with --coco")
    if args.max_bits < 0 or args.workers < 1 or args.examples < 0 or args.min_contrast < 0:
        parser.error("--max-bits, --min-contrast and --examples must be 0 or more, --workers 1 or more")
    if args.max_overlap is not None and not 0 <= args.max_overlap <= 100:
        parser.error("--max-overlap is a percentage, 0 to 100")
    if args.no_pixels and args.picture:
        parser.error("--picture needs the pixels")


def open_parts(args):
    """Training and validation part, as the arguments name them."""
    if args.coco:
        return [samples.from_coco(*pair) for pair in zip(args.coco, args.coco_images or (None, None), strict=True)]
    paths = [args.paths[0] / f"{name}.csv" for name in args.parts] if len(args.paths) == 1 else args.paths
    return [
        samples.from_list(path, args.data_dir) if path.suffix == ".csv" else samples.from_folder(path) for path in paths
    ]


def main(args):
    """Audit, print, and return the exit code."""
    train, val = open_parts(args)
    shifts = (0,) if args.no_shifts else phash.SHIFTS

    def bar(iterator, description, total):
        return tqdm(iterator, description, total, disable=None)  # none without a terminal

    found = compare.compare(train, val, not args.no_pixels, args.max_bits, args.min_contrast, shifts,
                             not args.no_turns, args.workers, bar)  # fmt: skip
    found = compare.shorten(found, args.examples)
    named = compare.with_names(found, train, val)
    if args.json:
        content = json.dumps(named, indent=1, ensure_ascii=False)
        print(content) if args.json == "-" else Path(args.json).write_text(content + "\n", encoding="utf-8")
    if args.json != "-":
        print(text_report.text(named, not args.no_turns, not args.no_shifts))
    if args.picture and not text_report.draw(args.picture, found, train, val):
        print("nothing to draw: no pairs", file=sys.stderr)
    if args.max_overlap is not None and found["overlap"]["share"] * 100 > args.max_overlap:
        print(f"audit_split: more than --max-overlap {args.max_overlap:g} % overlap", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    the_parser = get_parser()
    the_args = the_parser.parse_args()
    check(the_parser, the_args)
    try:
        sys.exit(main(the_args))
    except (ValueError, OSError) as error:
        print(f"audit_split: {error}", file=sys.stderr)
        sys.exit(2)  # 1 is for what an audit found
    except KeyboardInterrupt:
        sys.exit("audit_split: interrupted")
