#!/usr/bin/env python3
"""Time whole pretraining runs: main_vicreg_sn7.py on patches of SpaceNet-7's size, kept on the device or loaded.

    python benchmarks/bench_run.py --arch resnet18 --mlp 1024-1024-1024 --variants cached loader

writes random patches (as many and as large as those of SN7's training part), starts the script as a user would, and
prints for each variant the throughput, the fraction of time that a step waits for data, the ratio to the first
variant, the seconds of the process, the peak of its own memory (``RssAnon`` of Linux, which leaves out the pages of the
memory-mapped pack; of torchrun, that of the launcher), and the time that 100 epochs take at this pace. For several
numbers of patches, it fits the line seconds = start + patches / rate to each variant. Variants:

- ``cached``: ``--cache-on-device``; ``loader``: ``--workers`` loading processes;
- ``compile``, ``deterministic``: cached, with this option;
- ``torchrun``: cached, started by torchrun with one process, so that collectives go through NCCL (Gloo on a CPU).
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.processes import measure, script_command
from benchmarks.random_patches import write_pack
from benchmarks.step_profile import describe_machine
from vicreg import distributed
from vicreg.common import cli
from vicreg.common.logger import read_stats
from vicreg.models.backbones import create_backbone
from vicreg.models.vicreg import parse_mlp

VARIANTS = ("cached", "loader", "compile", "deterministic", "torchrun")


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    parser.add_argument("--mlp", default="1024-1024-1024", help="widths of the expander")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs of a step")
    parser.add_argument("--image-size", type=int, default=224, help="side of the views in pixels")
    parser.add_argument("--patch-size", type=int, default=256, help="side of the patches in pixels")
    parser.add_argument("--patches", type=int, nargs="+", default=[17_076], metavar="N", help="default: 17076, as SN7")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a run")
    parser.add_argument("--workers", type=int, default=8, help="loading processes of the variant loader")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="default: auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2], help="default: cached loader")
    return parser


def run_variant(args: argparse.Namespace, variant: str, csv_dir: Path, exp_dir: Path) -> dict[str, float]:
    """Run the script; return its seconds and memory, and the medians of its log lines after the first."""
    options = {
        "csv-dir": csv_dir, "exp-dir": exp_dir, "arch": args.arch, "mlp": args.mlp, "image-size": args.image_size,
        "batch-size": args.batch_size, "epochs": args.epochs, "precision": args.precision, "probe-every": 0,
        "device": args.device, "workers": args.workers, "log-freq-time": 3,
    }  # fmt: skip
    command = script_command("vicreg/main_vicreg_sn7.py", options)
    if variant == "torchrun":
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    command += [] if variant == "loader" else ["--cache-on-device"]
    command += [f"--{variant}"] if variant in ("compile", "deterministic") else []
    seconds, memory, _ = measure(command)
    lines = read_stats(exp_dir / "stats.txt")
    keys = ("pairs_per_second", "data_time")
    medians = {key: statistics.median(line[key] for line in lines[1:] or lines) for key in keys}
    return {"seconds": seconds, "memory": memory, **medians}


def main(args: argparse.Namespace) -> None:
    """Write the patches, run the variants and print a line for each."""
    cli.check_positive(args, "batch_size", "image_size", "patch_size", "patches", "epochs")
    cli.check_not_negative(args, "workers")
    parse_mlp(args.mlp)
    create_backbone(args.arch)
    counts = sorted(set(args.patches))
    if args.batch_size > counts[0]:
        raise ValueError(f"--batch-size {args.batch_size}: there are {counts[0]} patches; see --patches")
    print(
        f"{args.arch}, patches of {args.patch_size} px, views {args.image_size} px, batch {args.batch_size}, expander "
        f"{args.mlp}, {args.epochs} epochs, {args.precision}, {describe_machine(distributed.init(args.device))}",
        flush=True,
    )
    seconds: dict[str, list[float]] = {variant: [] for variant in args.variants}
    for count in counts:
        first = None
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_pack(folder / "csv", count, args.patch_size)
            for variant in seconds:
                result = run_variant(args, variant, folder / "csv", folder / variant)
                seconds[variant].append(result["seconds"])
                speed = result["pairs_per_second"]
                first = first or speed
                minutes = 100 * (count // args.batch_size) * args.batch_size / speed / 60
                print(f"{variant:14}{count:9} patches{speed:9.0f} pairs/s  data {result['data_time']:6.1%}  "
                      f"{speed / first:5.2f} of {args.variants[0]}  {result['seconds']:7.1f} s  own memory "
                      f"{result['memory']:5.2f} GB  100 epochs in {minutes:.1f} min", flush=True)  # fmt: skip
    for variant, times in seconds.items() if len(counts) > 1 else ():
        slope, start = np.polyfit(counts, times, 1)
        print(f"{variant:14}seconds = {start:.1f} + patches / {1 / slope:.0f}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
