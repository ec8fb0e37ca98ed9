"""Reading a patch from the pack against decoding its 1024-pixel mosaic and cutting it: the same dataset, both ways.

    python benchmarks/bench_patches.py

makes a small full-size SN7 tree in a temporary folder, prepares it twice (with and without patches.npy), and prints
milliseconds per patch, one at a time and in batches, and the ratio (target: at least 500 for single patches).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from vicreg.data.sn7 import SN7Patches

TARGET = 500


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aois", type=int, default=3, help="places in the tree (default: 3)")
    parser.add_argument("--months", type=int, default=2, help="mosaics per place (default: 2)")
    parser.add_argument("--size", type=int, default=1024, help="side of a mosaic in pixels (default: 1024)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each kind; medians count (default: 7)")
    parser.add_argument("--patches", type=int, default=40, help="random patches decoded in one timing (default: 40)")
    parser.add_argument("--batch", type=int, default=256, help="patches of a batch (default: 256)")
    return parser


def machine():
    """Name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} CPUs" if names else platform.processor() or platform.machine()


def prepare(folder, args):
    """Write the tree and both prepared folders -> dataset with a pack, dataset without one."""

    def script(name, *arguments):
        subprocess.run([sys.executable, ROOT / "preprocessing" / name, *map(str, arguments)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    script("make_sn7_sample.py", "--out", folder / "sample", "--aois", args.aois, "--months", args.months,
           "--size", args.size)  # fmt: skip
    for name, options in (("packed", []), ("unpacked", ["--no-pack"])):
        script("make_sn7_csv.py", "--data-dir", folder / "sample" / "train", "--out-dir", folder / name, *options)
    return SN7Patches(folder / "packed" / "all.csv"), SN7Patches(folder / "unpacked" / "all.csv")


def milliseconds(dataset, batches):
    """Time ``dataset.images`` over lists of indices -> milliseconds per patch."""
    started = time.perf_counter()
    for indices in batches:
        dataset.images(indices)
    return (time.perf_counter() - started) * 1000 / sum(map(len, batches))


def main(args):
    """Print one line per way of reading, and the result as a JSON line."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        packed, unpacked = prepare(Path(folder), args)
        every = list(range(len(packed)))
        for index in every[:: len(every) // 8]:  # the same work: the same patches come out
            assert torch.equal(packed.images([index]), unpacked.images([index]))
        packed.images(every)  # both ways read from the page cache
        single, batch, decoded = [], [], []
        for _ in range(args.repeats):
            decoded.append(milliseconds(unpacked, rng.integers(len(every), size=(args.patches, 1)).tolist()))
            single.append(milliseconds(packed, rng.integers(len(every), size=(25 * args.patches, 1)).tolist()))
            batch.append(milliseconds(packed, [rng.integers(len(every), size=args.batch).tolist()]))
        size = packed.patch_size
    single, batch, decoded = (statistics.median(times) for times in (single, batch, decoded))
    print(f"{machine()}; patches of {size} x {size} from mosaics of {args.size} x {args.size}, medians")
    print(f"decode the mosaic and cut      {decoded:10.4f} ms a patch")
    print(f"pack, one at a time            {single:10.4f} ms a patch, {decoded / single:6.0f} x as fast")
    print(f"pack, {args.batch:4d} at a time          {batch:10.4f} ms a patch, {decoded / batch:6.0f} x as fast")
    print(json.dumps({"decode_ms": decoded, "single_ms": single, "batch_ms": batch, "ratio": decoded / single,
                      "target": TARGET, "machine": machine()}))  # fmt: skip


if __name__ == "__main__":
    main(get_parser().parse_args())
