"""How many planted duplicates audit_split.py's perceptual hash finds, and how often it takes other images for one.

    python benchmarks/bench_audit.py --eurosat EuroSAT/2750 --sn7 data/sn7

plants re-encoded, turned and shifted copies of training images among validation images, all real, and prints the share
found for several thresholds, the share of untouched validation images for which a training image is reported, and the
time of the search. EuroSAT (64 px) is split at random; of SN7 the lists of the folder are used, so a split without
common places is needed.
"""

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from preprocessing.audit import (
    phash,
    samples,
)
from preprocessing.audit.compare import fingerprint

THRESHOLDS = (20, 24, 28)
CONTRASTS = (0.0, 2.0, 3.0)


def jpeg(pixels, quality=60):
    """Encode as JPEG and decode again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def shifted(pixels, down, right):
    """Move an image by whole pixels; what comes in at the edges repeats the edge."""
    moved = np.pad(pixels, ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)), mode="edge")
    return moved[max(-down, 0) :, max(-right, 0) :][: pixels.shape[0], : pixels.shape[1]]


def turned(pixels):
    """A quarter turn and a flip."""
    return np.ascontiguousarray(np.rot90(pixels)[:, ::-1])


PLANTS = {
    "re-encoded (JPEG, quality 60)": jpeg,
    "turned and flipped": turned,
    "shifted by 1 px down, 1 px right": lambda pixels: shifted(pixels, 1, 1),
    "shifted by 2 px up": lambda pixels: shifted(pixels, -2, 0),
    "shifted by 2 px down, 2 px left": lambda pixels: shifted(pixels, 2, -2),
    "turned, shifted 1 + 1 px, re-encoded": lambda pixels: jpeg(shifted(turned(pixels), 1, -1)),
    "shifted by 1/8 of the side (too far)": lambda pixels: shifted(pixels, pixels.shape[0] // 8, 0),
}


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eurosat", type=Path, help="folder with a folder of images for each class")
    parser.add_argument("--sn7", type=Path, help="folder of make_sn7_csv.py with --split block")
    parser.add_argument("--planted", type=int, default=3000, help="training images that are planted (default: 3000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: CPUs)")
    return parser


def random_halves(part, share=0.2):
    """A random split of one part -> training part, validation part (no classes)."""
    order = np.random.default_rng(0).permutation(len(part.samples))
    sizes = np.split(order, [len(order) - round(share * len(order))])
    return [part._replace(samples=[part.samples[i] for i in chosen], pixels=lambda n, c=chosen: part.pixels(c[n]))
            for chosen in sizes]  # fmt: skip


def plain(iterator, _):
    return iterator


def measure(train, val, planted, workers):
    """Print the tables of one data set; returns the rates at the default thresholds."""
    clock = time.perf_counter()
    stored = fingerprint(train, (0,), False, workers, plain)
    queries = fingerprint(val, phash.SHIFTS, True, workers, plain)
    hashed = time.perf_counter()
    words = stored.words[:, 0]
    usable, asked = stored.contrast >= phash.MIN_CONTRAST, queries.contrast >= phash.MIN_CONTRAST
    phash.nearest(queries.words[asked], words[usable], phash.MOST, workers)
    searched = time.perf_counter()
    pairs = len(val.samples) * len(train.samples)
    print(
        f"{len(train.samples)} training, {len(val.samples)} validation images; {pairs * 200 / 1e9:.1f} G comparisons; "
        f"{hashed - clock:.1f} s to decode and hash, {searched - hashed:.1f} s to compare, {workers} threads"
    )
    rates = {}
    print("| untouched validation images reported, contrast at least | kept | " +
          " | ".join(f"{most} bits" for most in THRESHOLDS) + " |")  # fmt: skip
    print("|---" * (len(THRESHOLDS) + 2) + "|")
    for contrast in CONTRASTS:
        kept, rows = stored.contrast >= contrast, queries.contrast >= contrast
        found = [phash.nearest(queries.words[rows], words[kept], most, workers)[0] for most in THRESHOLDS]
        shares = [float((index >= 0).mean()) for index in found]
        print(f"| {contrast:g} | {rows.mean():.1%} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
        if contrast == phash.MIN_CONTRAST:
            rates["unrelated"] = shares[THRESHOLDS.index(phash.MOST)]
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(np.flatnonzero(usable), min(planted, int(usable.sum())), replace=False))
    print("| planted copies found | " + " | ".join(f"{most} bits" for most in THRESHOLDS) + " |")
    print("|---" * (len(THRESHOLDS) + 1) + "|")
    for name, change in PLANTS.items():
        copies = samples.Part("", [""] * len(chosen), lambda n, c=change: c(train.pixels(chosen[n])), None, None)
        prints = fingerprint(copies, phash.SHIFTS, True, workers, plain)
        own = words[chosen][:, None] ^ prints.words
        bits = phash.ones(own).sum(-1, dtype=np.int64)
        low = phash.ones(own[..., 0])
        seen = prints.contrast >= phash.MIN_CONTRAST  # the copy has to pass, too
        shares = [float((seen & ((bits <= most) & (low <= most // 2)).any(1)).mean()) for most in THRESHOLDS]
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
        rates[name] = shares[THRESHOLDS.index(phash.MOST)]
    return rates


def main(args):
    """Print the tables, and the rates as a JSON line."""
    rates = {}
    if args.sn7:
        print(f"\nSN7, {args.sn7}")
        train, val = (samples.from_list(args.sn7 / f"{name}.csv") for name in ("train", "val"))
        rates["sn7"] = measure(train, val, args.planted, args.workers)
    if args.eurosat:
        print(f"\nEuroSAT, {args.eurosat}")
        rates["eurosat"] = measure(*random_halves(samples.from_folder(args.eurosat)), args.planted, args.workers)
    print(json.dumps(rates))


if __name__ == "__main__":
    main(get_parser().parse_args())
