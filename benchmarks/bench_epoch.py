#!/usr/bin/env python3
"""Time one epoch of main_vicreg_sn7.py and watch its memory against the number of patches.

    python benchmarks/bench_epoch.py --patches 4096 16384 65536 262144

writes random patches, starts the script for one epoch of each number of them, and prints the seconds of the process,
the peak of its own memory (``RssAnon`` of Linux, which leaves out the pages of the memory-mapped pack), and the line
seconds = start + patches / rate, fitted to all of them.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.processes import script_command
from benchmarks.random_patches import write_pack
from benchmarks.step_profile import describe_machine
from vicreg.common import cli
from vicreg.models.backbones import create_backbone
from vicreg.models.vicreg import parse_mlp


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--arch", default="test_resnet", help="backbone, any timm name (default: test_resnet, small)")
    parser.add_argument("--mlp", default="256-256", help="widths of the expander")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs of a step")
    parser.add_argument("--patch-size", type=int, default=32, help="side of patches and views in pixels")
    parser.add_argument("--patches", type=int, nargs="+", default=[4096, 16384, 65536, 262144], metavar="N")
    return parser


def own_memory(process: int) -> float:
    """Return the anonymous memory of a process in GB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e9


def run_epoch(args: argparse.Namespace, csv_dir: Path, exp_dir: Path) -> tuple[float, float]:
    """Run the script for one epoch and return the seconds of the process and the peak of its own memory in GB.

    Raises:
        ValueError: The script failed; the message has the end of its output.
    """
    options = {
        "csv-dir": csv_dir, "exp-dir": exp_dir, "arch": args.arch, "mlp": args.mlp, "image-size": args.patch_size,
        "batch-size": args.batch_size, "epochs": 1, "probe-every": 0, "precision": "fp32", "workers": 0,
    }  # fmt: skip
    command = script_command("vicreg/main_vicreg_sn7.py", options)
    started, peak = time.perf_counter(), 0.0
    with (exp_dir.parent / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        output.seek(0)
        if process.returncode:
            raise ValueError(f"main_vicreg_sn7.py failed: {output.read().strip()[-500:]}")
    return seconds, peak


def main(args: argparse.Namespace) -> None:
    """Run one epoch for each number of patches and print a line for each."""
    cli.check_positive(args, "batch_size", "patch_size", "patches")
    parse_mlp(args.mlp)
    create_backbone(args.arch)
    counts = sorted(set(args.patches))
    if len(counts) < 2:
        raise ValueError("--patches: two numbers or more are needed")
    if counts[0] < args.batch_size:
        raise ValueError(f"--patches {counts[0]}: less than the {args.batch_size} of --batch-size")
    print(
        f"{args.arch}, patches and views of {args.patch_size} px, batch {args.batch_size}, expander {args.mlp}, "
        f"{describe_machine()}",
        flush=True,
    )
    seconds = []
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_pack(folder / "csv", count, args.patch_size)
            spent, peak = run_epoch(args, folder / "csv", folder / "run")
        seconds.append(spent)
        print(f"{count:9} patches {spent:9.1f} s  own memory {peak:5.2f} GB", flush=True)
    slope, start = np.polyfit(counts, seconds, 1)
    print(f"seconds = {start:.1f} + patches / {1 / slope:.0f}")
    exponent = np.polyfit(np.log(counts), np.log(np.maximum(np.subtract(seconds, start), 1e-3)), 1)[0]
    print(f"seconds without the start ~ patches^{exponent:.2f}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
