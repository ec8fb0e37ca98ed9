#!/usr/bin/env python3
"""Measure how many planted duplicates audit_split.py finds, and how many unrelated images it reports.

    python benchmarks/bench_audit.py --eurosat EuroSAT/2750 --sn7 data/sn7

changes copies of real training images (re-encoded, rotated, shifted), audits them against their originals, and prints
the fraction found at several thresholds. It also audits the untouched validation images and prints the fraction
reported, and the time. EuroSAT is split at random; SN7 needs lists without common locations (--split block).
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.processes import run, script_command
from vicreg.common import cli
from vicreg.data.image_listing import list_images
from vicreg.data.sn7 import SN7Patches


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add = parser.add_argument
    add("--eurosat", type=Path, help="folder of class folders")
    add("--sn7", type=Path, help="folder of make_sn7_csv.py with --split block")
    add("--planted", type=int, default=1000, help="training images that are planted")
    add("--max-bits", type=int, nargs="+", default=[20, 24, 28], help="thresholds of the hash (default: 20 24 28)")
    add("--min-contrast", type=float, default=2.0, help="see audit_split.py (default: 2)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: CPUs)")
    return parser


def jpeg(pixels: np.ndarray, quality: int = 60) -> np.ndarray:
    """Encode an image as JPEG and decode it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def shift(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift an image by whole pixels; the new border repeats the edge."""
    padded = np.pad(pixels, ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0)), mode="edge")
    return padded[max(-down, 0) :, max(-right, 0) :][: pixels.shape[0], : pixels.shape[1]]


def rotate_flip(pixels: np.ndarray) -> np.ndarray:
    """Rotate an image by 90 degrees and flip it."""
    return np.ascontiguousarray(np.rot90(pixels)[:, ::-1])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded (JPEG, quality 60)": jpeg,
    "rotated and flipped": rotate_flip,
    "shifted by 1 px down, 1 px right": lambda pixels: shift(pixels, 1, 1),
    "shifted by 2 px up": lambda pixels: shift(pixels, -2, 0),
    "shifted by 2 px down, 2 px left": lambda pixels: shift(pixels, 2, -2),
    "rotated, shifted 1 + 1 px, re-encoded": lambda pixels: jpeg(shift(rotate_flip(pixels), 1, -1)),
    "shifted by 1/8 of the side (too far)": lambda pixels: shift(pixels, pixels.shape[0] // 8, 0),
}


def audit(*arguments: object) -> dict:
    """Run audit_split.py and return its JSON."""
    return json.loads(run(script_command("preprocessing/audit_split.py", {"json": "-"}, *arguments)))


def measure_planted(images: list[np.ndarray], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the fraction of planted copies that are matched to their originals, at each threshold.

    Originals without enough contrast are excluded.
    """
    fractions: dict[str, list[float]] = {name: [] for name in CHANGES}
    with tempfile.TemporaryDirectory() as folder:
        for kind, change in {"train": np.asarray, **CHANGES}.items():
            target = Path(folder, kind) if kind == "train" else Path(folder, "val", str(list(CHANGES).index(kind)))
            target.mkdir(parents=True)
            for number, pixels in enumerate(images):
                Image.fromarray(change(pixels)).save(target / f"{number}.png")
        for max_bits in args.max_bits:
            result = audit(f"{folder}/train", f"{folder}/val", "--max-bits", max_bits, "--workers", args.workers,
                           "--min-contrast", args.min_contrast, "--examples", len(images) * len(CHANGES))  # fmt: skip
            pairs = [(Path(p["val"]), Path(p["train"])) for kind in ("exact", "near") for p in result[kind]["pairs"]]
            found = Counter(val.parent.name for val, train in pairs if val.name == train.name)
            for number, name in enumerate(CHANGES):
                fractions[name].append(found[str(number)] / max(1, len(images) - result["near"]["excluded_train"]))
    return fractions


def measure_unrelated(paths: list[object], args: argparse.Namespace) -> list[float]:
    """Return the fraction of untouched validation images that are reported, at each threshold."""
    fractions = []
    for max_bits in args.max_bits:
        started = time.perf_counter()
        result = audit(*paths, "--max-bits", max_bits, "--min-contrast", args.min_contrast, "--workers", args.workers)
        fractions.append(result["near"]["fraction"])
        print(f"{result['train']['samples']} training, {result['val']['samples']} validation images, "
              f"{result['near']['excluded_val']} validation images excluded by contrast; {max_bits} bits: "
              f"{time.perf_counter() - started:.1f} s, {args.workers} threads")  # fmt: skip
    return fractions


def print_table(rows: dict[str, list[float]], thresholds: list[int]) -> None:
    """Print fractions as a Markdown table with a column per threshold."""
    print("| | " + " | ".join(f"{bits} bits" for bits in thresholds) + " |")
    print("|---" * (len(thresholds) + 1) + "|")
    for name, fractions in rows.items():
        print(f"| {name} | " + " | ".join(f"{fraction:.2%}" for fraction in fractions) + " |")


def main(args: argparse.Namespace) -> None:
    """Print a table for each data set, and the fractions as a JSON line."""
    cli.check_positive(args, "planted", "workers")
    cli.check_not_negative(args, "max_bits", "min_contrast")
    if not (args.sn7 or args.eurosat):
        raise ValueError("name data with --sn7, --eurosat or both")
    listing = list_images(args.eurosat) if args.eurosat else None
    rng, results = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        if args.sn7:
            train = SN7Patches(args.sn7 / "train.csv")
            chosen = np.sort(rng.permutation(len(train))[: args.planted]).tolist()
            images = [np.ascontiguousarray(image) for image in train.images(chosen).numpy().transpose(0, 2, 3, 1)]
            results["SN7"] = measure_planted(images, args) | {"unrelated": measure_unrelated([args.sn7], args)}
        if listing:
            order = rng.permutation(len(listing.paths))
            table = pd.DataFrame({"path": [os.path.abspath(listing.paths[n]) for n in order], "location": order})
            val_rows = max(1, len(table) // 5)
            table[val_rows:].to_csv(f"{folder}/train.csv", index=False)
            table[:val_rows].to_csv(f"{folder}/val.csv", index=False)
            images = [np.asarray(Image.open(path).convert("RGB")) for path in table.path[val_rows:][: args.planted]]
            results["EuroSAT"] = measure_planted(images, args) | {"unrelated": measure_unrelated([folder], args)}
    for name, rows in results.items():
        print(f"\n{name}, up to {args.planted} planted copies of each kind")
        print_table(rows, args.max_bits)
    print(json.dumps(results))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
