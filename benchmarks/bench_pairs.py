#!/usr/bin/env python3
"""Time the choice of a temporal positive from the index against a search of the patch list for each sample.

    python benchmarks/bench_pairs.py

builds a table of SpaceNet-7's size (60 AOIs x 16 patches x 24 months), chooses positives of the same samples both ways,
alternating, with and without --max-months-apart, and prints microseconds per sample and the ratio. No image is read.
"""

import argparse
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from vicreg.common import cli
from vicreg.data.pairs import TemporalPairs, month_number


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--aois", type=int, default=60, help="AOIs")
    parser.add_argument("--months", type=int, default=24, help="mosaics per AOI")
    parser.add_argument("--max-months-apart", type=int, default=3, help="of the limited pairs")
    parser.add_argument("--samples", type=int, default=100, help="samples of one timing")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each; medians are reported")
    return parser


def make_table(aois: int, months: int) -> pd.DataFrame:
    """Build the columns of a patch list that pairs depend on: 16 patches of every AOI in every month."""
    index = pd.MultiIndex.from_product([[f"L15-{n:04d}E" for n in range(aois)], range(months), range(16)])
    table = index.to_frame(index=False, name=["aoi", "time", "patch"])
    return table.assign(year=2018 + table.time // 12, month=1 + table.time % 12)


def search(table: pd.DataFrame, index: int, draw: int, max_months: int | None = None) -> int:
    """Search the table for the other months of a sample's patch, and choose one of them."""
    row = table.iloc[index]
    rows = table[(table.aoi == row.aoi) & (table.patch == row.patch)].drop(index)
    if max_months is not None:
        rows = rows[(month_number(rows.year, rows.month) - month_number(row.year, row.month)).abs() <= max_months]
    return int(rows.index[draw % len(rows)])


def microseconds(choose: Callable[[int, int], int], keys: Sequence[tuple[int, int]]) -> float:
    """Time a function of (index, draw) and return microseconds per sample."""
    started = time.perf_counter()
    for index, draw in keys:
        choose(index, draw)
    return (time.perf_counter() - started) * 1e6 / len(keys)


def main(args: argparse.Namespace) -> None:
    """Print one line per limit, and the result as a JSON line."""
    cli.check_positive(args, "aois", "max_months_apart", "samples", "repeats")
    if args.months < 2:
        raise ValueError(f"--months {args.months}: temporal pairs need at least 2")
    table, random = make_table(args.aois, args.months), np.random.default_rng(0)
    location_ids = table.groupby(["aoi", "patch"], sort=False).ngroup().to_numpy()
    months = month_number(table.year, table.month).to_numpy()
    print(
        f"{platform.machine()}, {len(table)} patches of {location_ids.max() + 1} locations, medians of {args.repeats}"
    )
    result = {"patches": len(table)}
    limits = {"any month": None, f"at most {args.max_months_apart} months apart": args.max_months_apart}
    for name, max_months in limits.items():
        started = time.perf_counter()
        pairs = TemporalPairs(location_ids, months, max_months)
        built = time.perf_counter() - started
        draws = random.integers(2**63 - 1, size=(50 * args.samples,)).tolist()
        keys = list(zip(random.integers(len(table), size=len(draws)).tolist(), draws, strict=True))
        for index, draw in keys[:20]:  # both ways choose from the same months
            choices = {search(table, index, n, max_months) for n in range(2 * args.months)}
            assert pairs.positive_index(index, draw) in choices
        indexed, searched = [], []
        for _ in range(args.repeats):
            indexed.append(microseconds(pairs.positive_index, keys))
            by_search = functools.partial(search, table, max_months=max_months)
            searched.append(microseconds(by_search, keys[: args.samples]))
        ratio = statistics.median(slow / fast for fast, slow in zip(indexed, searched, strict=True))
        fast, slow = statistics.median(indexed), statistics.median(searched)
        print(f"{name}: index {fast:.2f} us per sample, built once in {1000 * built:.1f} ms; search {slow:.0f} us, "
              f"{ratio:.0f} times as long")  # fmt: skip
        result[name] = {"index_us": fast, "search_us": slow, "ratio": ratio}
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
