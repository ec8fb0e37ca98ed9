#!/usr/bin/env python3
"""Time whole pretraining runs: main_vicreg_sn7.py on patches of SpaceNet-7's size, kept on the device or loaded.

    python benchmarks/bench_run.py --arch resnet18 --mlp 1024-1024-1024 --variants cached loader

writes random patches (as many and as large as those of SN7's training part), starts the script as a user would, and
prints for each variant the throughput, the fraction of time that a step waits for data, the ratio to the first
variant, and the time that 100 epochs take at this pace. Variants:

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

from benchmarks.processes import run, script_command
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
    parser.add_argument("--patches", type=int, default=17_076, help="training patches (default: 17076, as SN7)")
    parser.add_argument("--steps", type=int, default=133, help="steps of a run (default: 133, two epochs of SN7)")
    parser.add_argument("--workers", type=int, default=8, help="loading processes of the variant loader")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="default: auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2], help="default: cached loader")
    return parser


def run_variant(args: argparse.Namespace, variant: str, csv_dir: Path, exp_dir: Path) -> dict[str, float]:
    """Run the script and return the medians of its log lines after the first."""
    options = {
        "csv-dir": csv_dir, "exp-dir": exp_dir, "arch": args.arch, "mlp": args.mlp, "image-size": args.image_size,
        "batch-size": args.batch_size, "max-steps": args.steps, "precision": args.precision, "probe-every": 0,
        "device": args.device, "workers": args.workers, "log-freq-time": 3, "epochs": 100,
    }  # fmt: skip
    command = script_command("vicreg/main_vicreg_sn7.py", options)
    if variant == "torchrun":
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    command += [] if variant == "loader" else ["--cache-on-device"]
    command += [f"--{variant}"] if variant in ("compile", "deterministic") else []
    run(command)
    lines = read_stats(exp_dir / "stats.txt")
    keys = ("pairs_per_second", "data_time")
    return {key: statistics.median(line[key] for line in lines[1:] or lines) for key in keys}


def main(args: argparse.Namespace) -> None:
    """Write the patches, run the variants and print a line for each."""
    cli.check_positive(args, "batch_size", "image_size", "patch_size", "patches", "steps")
    cli.check_not_negative(args, "workers")
    parse_mlp(args.mlp)
    create_backbone(args.arch)
    if args.batch_size > args.patches:
        raise ValueError(f"--batch-size {args.batch_size}: there are {args.patches} patches; see --patches")
    print(
        f"{args.arch}, {args.patches} patches of {args.patch_size} px, views {args.image_size} px, batch "
        f"{args.batch_size}, expander {args.mlp}, {args.precision}, "
        f"{describe_machine(distributed.init(args.device))}",
        flush=True,
    )
    first = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pack(folder / "csv", args.patches, args.patch_size)
        for variant in args.variants:
            result = run_variant(args, variant, folder / "csv", folder / variant)
            speed = result["pairs_per_second"]
            first = first or speed
            minutes = 100 * (args.patches // args.batch_size) * args.batch_size / speed / 60
            print(f"{variant:14}{speed:9.0f} pairs/s  data {result['data_time']:6.1%}  {speed / first:5.2f} of "
                  f"{args.variants[0]}  100 epochs in {minutes:.1f} min", flush=True)  # fmt: skip


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
