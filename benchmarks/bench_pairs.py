"""Finding a temporal positive from the index against searching the table of patches for it, sample by sample.

    python benchmarks/bench_pairs.py

makes a table of SpaceNet-7's size (60 places x 16 patches x 24 months), finds a partner for the same samples both ways,
alternating, with and without --max-months-apart, and prints microseconds per sample and the ratio. No image is read.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from vicreg.data.pairs import (
    TemporalPairs,
    month_number,
)


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aois", type=int, default=60, help="places (default: 60)")
    parser.add_argument("--months", type=int, default=24, help="mosaics per place (default: 24)")
    parser.add_argument("--max-months-apart", type=int, default=3, help="of the limited pairs (default: 3)")
    parser.add_argument("--samples", type=int, default=100, help="searched in one timing (default: 100)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each kind; medians count (default: 7)")
    return parser


def make_table(aois, months):
    """A patch list's columns that pairs depend on: 16 patches of every place in every month, in a list's order."""
    index = pd.MultiIndex.from_product([[f"L15-{n:04d}E" for n in range(aois)], range(months), range(16)])
    table = index.to_frame(index=False, name=["aoi", "time", "patch"])
    return table.assign(year=2018 + table.time // 12, month=1 + table.time % 12)


def search(table, index, draw, most=None):
    """Look through the table for the other months of a sample's patch, and take one of them."""
    row = table.iloc[index]
    found = table[(table.aoi == row.aoi) & (table.patch == row.patch)].drop(index)
    if most is not None:
        found = found[(month_number(found.year, found.month) - month_number(row.year, row.month)).abs() <= most]
    return int(found.index[draw % len(found)])


def microseconds(find, keys):
    """Time a function of (index, draw) -> microseconds per sample."""
    started = time.perf_counter()
    for index, draw in keys:
        find(index, draw)
    return (time.perf_counter() - started) * 1e6 / len(keys)


def main(args):
    """Print one line per way and limit, and the result as a JSON line."""
    table, random = make_table(args.aois, args.months), np.random.default_rng(0)
    places = table.groupby(["aoi", "patch"], sort=False).ngroup().to_numpy()
    months = month_number(table.year, table.month).to_numpy()
    print(f"{platform.machine()}, {len(table)} patches of {places.max() + 1} places, medians of {args.repeats}")
    result = {"patches": len(table)}
    for name, most in (("any month", None), (f"at most {args.max_months_apart} months apart", args.max_months_apart)):
        started = time.perf_counter()
        pairs = TemporalPairs(places, months, most)
        built = time.perf_counter() - started
        draws = random.integers(2**63 - 1, size=(50 * args.samples,)).tolist()
        keys = list(zip(random.integers(len(table), size=len(draws)).tolist(), draws, strict=True))
        for index, draw in keys[:20]:  # the same work: partners are among those that the search can find
            there = {search(table, index, n, most) for n in range(2 * args.months)}
            assert pairs.positive_index(index, draw) in there
        ours, theirs = [], []
        for _ in range(args.repeats):
            ours.append(microseconds(pairs.positive_index, keys))
            theirs.append(microseconds(lambda index, draw: search(table, index, draw, most), keys[: args.samples]))  # noqa: B023
        ratio = statistics.median(other / mine for mine, other in zip(ours, theirs, strict=True))
        print(f"{name}: index {statistics.median(ours):.2f} us a sample, made once in {1000 * built:.1f} ms; "
              f"search {statistics.median(theirs):.0f} us, {ratio:.0f} times as long")  # fmt: skip
        result[name] = {"index_us": statistics.median(ours), "search_us": statistics.median(theirs), "ratio": ratio}
    print(json.dumps(result))


if __name__ == "__main__":
    main(get_parser().parse_args())
