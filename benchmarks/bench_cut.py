#!/usr/bin/env python3
"""Time cutting a large scene into patches against plain reading, and against reading it and writing the same bytes.

    python benchmarks/bench_cut.py --size 30000

writes a tiled GeoTIFF of random uint8 to a folder in $TMPDIR (30,000 x 30,000 x 4: 3.6 GB, and twice as much for what
is written), and alternates the commands. Prints the medians of seconds and of processor time, for the script without
those of ``--help``, their ratios to plain reading and writing, and the peak memory of the script.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from rasterio import Affine
from rasterio import open as open_raster
from rasterio.windows import Window

from benchmarks.processes import measure, script_command
from vicreg.common import cli

SCRIPT = "make_imagery_csv.py"
_ROWS = 512  # of a tile
_READ = """
import os, sys, rasterio
from rasterio.windows import Window
with rasterio.open(sys.argv[1]) as raster, open(sys.argv[2] or os.devnull, "wb") as file:
    for top in range(0, raster.height, 512):
        file.write(raster.read(window=Window(0, top, raster.width, min(512, raster.height - top))).data)
    if sys.argv[2]:
        os.fsync(file.fileno())
"""


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--size", type=int, default=12000, help="side of the scene in pixels")
    parser.add_argument("--bands", type=int, default=4, help="bands of the scene")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each; medians are reported")
    return parser


def write_scene(path: Path, size: int, bands: int) -> None:
    """Write a scene of random pixels, one row of tiles after another."""
    profile = {"driver": "GTiff", "width": size, "height": size, "count": bands, "dtype": "uint8", "tiled": True,
               "blockxsize": _ROWS, "blockysize": _ROWS, "crs": "EPSG:32633", "BIGTIFF": "YES",
               "photometric": "MINISBLACK", "transform": Affine(10, 0, 500000, 0, -10, 5600000)}  # fmt: skip
    random = np.random.default_rng(0)
    with open_raster(path, "w", **profile) as raster:
        for top in range(0, size, _ROWS):
            rows = min(_ROWS, size - top)
            raster.write(random.integers(1, 255, (bands, rows, size), np.uint8), window=Window(0, top, size, rows))


def main(args: argparse.Namespace) -> None:
    """Print a line for each of the three."""
    cli.check_positive(args, "size", "bands", "repeats")
    results: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder, "scenes", "scene.tif")
        scene.parent.mkdir()
        write_scene(scene, args.size, args.bands)
        read, out = [sys.executable, "-c", _READ, str(scene)], Path(folder, "out")
        script = script_command(f"preprocessing/{SCRIPT}", {"workers": 2})
        cut = [*script, "--data-dir", str(scene.parent), "--patch-size", str(min(256, args.size)), "--split", "none"]
        for number in range(args.repeats):
            runs = {"reading": [*read, ""], "reading and writing": [*read, f"{out}.bin"], "--help": [*script, "--help"],
                    SCRIPT: [*cut, "--out-dir", f"{out}{number}"]}  # fmt: skip
            for name, command in runs.items():
                seconds, _, usage = measure(command)
                processor, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
                results.setdefault(name, []).append((seconds, processor, megabytes))
            for path in [Path(f"{out}.bin"), *Path(f"{out}{number}").glob("*.npy")]:
                path.unlink()
    medians = {
        name: [statistics.median(value) for value in zip(*values, strict=True)] for name, values in results.items()
    }
    start, limit = medians["--help"], medians["reading and writing"]
    for name, (seconds, processor, _) in medians.items():
        if name == SCRIPT:
            seconds, processor = seconds - start[0], processor - start[1]
        print(f"{name:20}{seconds:7.2f} s ({seconds / limit[0]:.2f} x), {processor:.2f} s of processor time "
              f"({processor / limit[1]:.2f} x)")  # fmt: skip
    print(f"peak memory {medians[SCRIPT][2]:.0f} MB")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
