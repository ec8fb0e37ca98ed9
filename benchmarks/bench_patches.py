#!/usr/bin/env python3
"""Time reading a patch from the pack against decoding its 1024-pixel mosaic and cutting it.

    python benchmarks/bench_patches.py

writes a small full-size SN7 tree to a temporary folder, prepares it with and without patches.npy, and prints
milliseconds per patch, one at a time and in batches, and the ratio (target: at least 500 for single patches).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.processes import run, script_command
from benchmarks.step_profile import describe_machine
from vicreg.common import cli
from vicreg.data.sn7 import SN7Patches

TARGET = 500


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--aois", type=int, default=3, help="AOIs of the tree")
    parser.add_argument("--months", type=int, default=2, help="mosaics per AOI")
    parser.add_argument("--size", type=int, default=1024, help="side of a mosaic in pixels")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each; medians are reported")
    parser.add_argument("--patches", type=int, default=40, help="random patches decoded in one timing")
    parser.add_argument("--batch", type=int, default=256, help="patches of a batch")
    return parser


def prepare(folder: Path, aois: int, months: int, size: int) -> tuple[SN7Patches, SN7Patches]:
    """Write a tree and prepare it; return the data set with a pack and the one without."""
    options = {"out": folder / "sample", "aois": aois, "months": months, "size": size}
    run(script_command("preprocessing/make_sn7_sample.py", options))
    for name, words in (("packed", []), ("unpacked", ["--no-pack"])):
        options = {"data-dir": folder / "sample" / "train", "out-dir": folder / name}
        run(script_command("preprocessing/make_sn7_csv.py", options, *words))
    return SN7Patches(folder / "packed" / "all.csv"), SN7Patches(folder / "unpacked" / "all.csv")


def milliseconds(dataset: SN7Patches, batches: Sequence[Sequence[int]]) -> float:
    """Time ``dataset.images`` over lists of indices and return milliseconds per patch."""
    started = time.perf_counter()
    for indices in batches:
        dataset.images(indices)
    return (time.perf_counter() - started) * 1000 / sum(map(len, batches))


def main(args: argparse.Namespace) -> None:
    """Print one line per way of reading, and the result as a JSON line."""
    cli.check_positive(args, "aois", "months", "size", "repeats", "patches", "batch")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        packed, unpacked = prepare(Path(folder), args.aois, args.months, args.size)
        every = list(range(len(packed)))
        for index in every[:: len(every) // 8]:  # both ways read the same patches
            assert torch.equal(packed.images([index]), unpacked.images([index]))
        packed.images(every)  # into the page cache
        single, batch, decoded = [], [], []
        for _ in range(args.repeats):
            decoded.append(milliseconds(unpacked, rng.integers(len(every), size=(args.patches, 1)).tolist()))
            single.append(milliseconds(packed, rng.integers(len(every), size=(25 * args.patches, 1)).tolist()))
            batch.append(milliseconds(packed, [rng.integers(len(every), size=args.batch).tolist()]))
        size = packed.patch_size
    single, batch, decoded = (statistics.median(times) for times in (single, batch, decoded))
    print(f"{describe_machine()}; patches of {size} x {size} from mosaics of {args.size} x {args.size}, medians")
    print(f"decode the mosaic and cut      {decoded:10.4f} ms per patch")
    print(f"pack, one at a time            {single:10.4f} ms per patch, {decoded / single:6.0f} x as fast")
    print(f"pack, {args.batch:4d} at a time          {batch:10.4f} ms per patch, {decoded / batch:6.0f} x as fast")
    print(json.dumps({"decode_ms": decoded, "single_ms": single, "batch_ms": batch, "ratio": decoded / single,
                      "target": TARGET, "machine": describe_machine()}))  # fmt: skip


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
