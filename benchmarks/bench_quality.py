#!/usr/bin/env python3
r"""Measure the quality of a backbone against minutes of pretraining, for this repository and for lightly's recipes.

    python preprocessing/make_imagery_csv.py --data-dir EuroSAT/2750 --patch-size 64 --labels folders \
        --out-dir data/eurosat
    python benchmarks/bench_quality.py --csv-dir data/eurosat --minutes 10

pretrains from scratch with each recipe for the same time on the same patches, without their labels, then trains linear
classifiers on the frozen features, with all labels and with 1 % of them. Quality is measured ``--points`` times along
each run. The time is that of the training loop: starts of processes and evaluations are left out. A recipe is one of

- ``ours``: the pretraining script with OPTIONS of this file;
- ``lightly_vicreg``, ``lightly_simclr``: lightly's transform (PIL), loss and projection head with ``--workers`` loading
  processes, and the optimizer, schedule, batch size, image size and precision of ``ours``. VICReg's head has the widths
  of ``ours``, SimCLR's has lightly's output of 128;
- ``NAME: OPTIONS``: ours with other options, such as ``"growing: --image-size 32:64"``.

The number of steps of ours is computed from a short run before it, for each size of the views, and for 95 % of the
time. Results are kept in ``--exp-dir``, and recipes that are there are not run again.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(ROOT)

import numpy as np
import torch

from benchmarks.lightly_recipe import RECIPES as LIGHTLY
from benchmarks.lightly_recipe import pretrain_for
from benchmarks.step_profile import describe_machine
from vicreg.common import cli, files
from vicreg.common.json_files import read_json
from vicreg.common.logger import read_stats
from vicreg.common.plots import new_figure
from vicreg.data.imagery import ImageryPatches
from vicreg.data.sn7 import SN7Patches
from vicreg.engine import pretrain_config
from vicreg.engine.precision import MIN_SPEEDUP, measure_precisions
from vicreg.eval import benchmark_metrics, metrics
from vicreg.eval.features import build_input_spec, extract_features
from vicreg.eval.splits import train_val_split
from vicreg.models.backbones import load_backbone

OPTIONS = (
    "--arch resnet18 --image-size 64 --augment overhead --aug-override jitter=0.2,0.2,0.2,0.05 gray_p=0 solarize_p=0 "
    "--mlp 1024-1024-1024 --batch-size 256 --optimizer adamw --lr 0.002 --weight-decay 0.01"
)
RESERVE = 0.95  # of the time is planned, since the speed of a machine varies
COLUMNS = {"top1": "linear, all labels", "label1_top1": "linear, 1 %", "knn20_top1": "kNN-20"}


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--csv-dir", type=Path, required=True, help="prepared folder with labels")
    parser.add_argument("--exp-dir", type=Path, default=Path("exp/quality"), help="default: exp/quality")
    parser.add_argument("--recipes", nargs="+", default=["ours", *LIGHTLY], help="default: ours and lightly's")
    parser.add_argument("--options", default=OPTIONS, help=f"options of ours (default: {OPTIONS})")
    parser.add_argument("--minutes", type=float, default=10, help="of each recipe")
    parser.add_argument("--points", type=int, default=4, help="evaluations along a run")
    parser.add_argument("--pilot-steps", type=int, default=30, help="of runs that measure the speed")
    parser.add_argument("--workers", type=int, default=2, help="loading processes of lightly's recipes")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="of all")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--plot", type=Path, help="write a plot of quality against minutes (SVG or PNG)")
    return parser


def _is_imagery(csv_dir: Path) -> bool:
    return "shards" in read_json(csv_dir / "meta.json")


def _patches(csv_dir: Path, part: str) -> SN7Patches:
    path = csv_dir / f"{part}.csv"
    return ImageryPatches(path, labeled=True) if _is_imagery(csv_dir) else SN7Patches(path)


def our_config(args: argparse.Namespace, options: str) -> tuple[list[str], pretrain_config.PretrainConfig]:
    """Return the command of the pretraining script without ``--exp-dir``, and its settings."""
    script = f"main_vicreg_{'imagery' if _is_imagery(args.csv_dir) else 'sn7'}.py"
    words = [*shlex.split(args.options), *shlex.split(options), "--seed", str(args.seed), "--probe-every", "0"]
    words += ["--precision", args.precision]
    parsed, _ = pretrain_config.get_parser("").parse_known_args([*words, "--exp-dir", "."])  # without those of the data
    data = ["--csv-dir", str(args.csv_dir.resolve())]
    return [sys.executable, str(ROOT / "vicreg" / script), *words, *data], pretrain_config.build_config(parsed)


def _run(command: list[str], exp_dir: Path, points: list[Path] | None = None) -> list[tuple[int, float]]:
    """Run the script, and keep each new checkpoint in ``points``.

    Returns:
        Steps and seconds of training at each log line; the start and checkpoints are not in the time.
    """
    with open(exp_dir.with_suffix(".log"), "a") as log:
        process = subprocess.Popen([*command, "--exp-dir", str(exp_dir)], stdout=log, stderr=log)
        seen, left, running = None, iter(points or ()), True
        while running:
            time.sleep(0.2)
            running = process.poll() is None  # once more after the end
            checkpoint = exp_dir / "model.pth"
            if points and checkpoint.exists() and (found := checkpoint.stat().st_ino) != seen:
                seen, path = found, next(left)
                path.unlink(missing_ok=True)
                os.link(checkpoint, path)
    if process.returncode:
        lines = exp_dir.with_suffix(".log").read_text().strip().splitlines() or ["no output"]
        raise ValueError(f"{shlex.join(command)} failed: {lines[-1]}")
    batch_size = read_json(exp_dir / "config.json")["plan"]["batch_size"]
    times, step, seconds = [(0, 0.0)], 0, 0.0
    for line in read_stats(exp_dir / "stats.txt"):
        seconds += (line["step"] - step) * batch_size / line["pairs_per_second"]
        times.append((step := line["step"], seconds))
    return times


def plan_steps(seconds: float, samples: int, batch_size: int, paces: dict[int, float], config: Any, side: int) -> int:
    """Return the number of steps that fit into a time: all epochs of a schedule, but for the end of the last one.

    ``paces`` are the seconds of a step by the side of the views, which ``config.view_sizes(side, epochs)`` gives.
    """
    per_epoch, epochs = samples // batch_size, 0
    while True:
        epochs += 1
        sizes = config.view_sizes(side, epochs)
        before = per_epoch * sum(paces[size] for size in sizes[:-1])
        if before + per_epoch * paces[sizes[-1]] >= seconds:
            return max(1, (epochs - 1) * per_epoch + int((seconds - before) / paces[sizes[-1]]))


def run_ours(args: argparse.Namespace, name: str, options: str, train: SN7Patches) -> list[dict[str, Any]]:
    """Measure the speed, pretrain, and return the checkpoints with their minutes and pairs."""
    command, config = our_config(args, options)
    command, paces = [*command, "--log-freq-time", "1"], {}
    for size in sorted(set(config.view_sizes(train.patch_size, 100))):
        pilot = ["--image-size", str(size), "--epochs", "1000", "--max-steps", str(args.pilot_steps)]
        times = _run([*command, *pilot], args.exp_dir / f"{name}_pilot_{size}")
        (start, begun), (stop, ended) = times[len(times) > 2], times[-1]  # the first line has the first, slow step
        paces[size] = (ended - begun) / (stop - start)
    steps = plan_steps(RESERVE * args.minutes * 60, len(train), config.batch_size, paces, config, train.patch_size)
    every = -(-steps // args.points)
    run = ["--epochs", str(-(-steps // (len(train) // config.batch_size))), "--max-steps", str(steps)]
    points = [args.exp_dir / f"{name}_{number}.pth" for number in range(1, args.points + 1)]
    times = _run([*command, *run, "--checkpoint-every", str(every)], args.exp_dir / name, points)
    reached = [min(number * every, steps) for number in range(1, args.points + 1)]
    minutes = np.interp(reached, *zip(*times, strict=True)) / 60
    return [
        {"file": str(path), "minutes": float(at), "pairs": step * config.batch_size}
        for path, at, step in zip(points, minutes, reached, strict=True)
    ]


def evaluate(path: str, train: SN7Patches, val: SN7Patches, size: int, arch: str) -> dict[str, Any]:
    """Evaluate the frozen features of a checkpoint: linear with all and with 1 % of the labels, and kNN-20."""
    backbone, info = load_backbone(path, arch)
    spec, split = build_input_spec(info, train, size), train_val_split(train, val)
    features = [extract_features(backbone, dataset, spec, torch.device("cpu")) for dataset in (train, val)]
    result, correct = {}, {}
    for found, hit in (
        benchmark_metrics.linear_probe_metrics(split, *features),
        benchmark_metrics.label_fraction_metrics(split, *features, percents=[1], repeats=5),
        benchmark_metrics.knn_metrics(split, *features, neighbors=[20]),
    ):
        result |= {key: value for key, value in found.items() if key in COLUMNS}
        correct |= {key: value for key, value in hit.items() if key in COLUMNS}
    return {**result, **metrics.intervals(correct, val.location_ids)}


def pretrain_recipe(args: argparse.Namespace, recipe: str, train: SN7Patches) -> dict[str, Any]:
    """Pretrain with a recipe and write its record, with the points to evaluate; a record that is there is returned."""
    name, _, options = (part.strip() for part in recipe.partition(":"))
    wanted = {"recipe": recipe, "minutes": args.minutes, "seed": args.seed, "options": args.options}
    path = args.exp_dir / f"{name}.json"
    record = read_json(path) if path.exists() else {}
    if record and any(record.get(key) != value for key, value in wanted.items()):
        raise ValueError(f"{path} is of other settings; choose another --exp-dir")
    if not record:
        if name in LIGHTLY:
            config = our_config(args, options)[1]
            points = pretrain_for(args, name, config, lambda index: train.images([index])[0].numpy(), len(train))
        else:
            points = run_ours(args, name, options, train)
        record = {**wanted, "machine": describe_machine(), "points": points}
        files.write_json(path, record)
    return record


def evaluate_points(args: argparse.Namespace, name: str, record: dict[str, Any], *data: SN7Patches) -> None:
    """Evaluate the points of a record that are left, with views of the size of ours, and write it."""
    config = our_config(args, "")[1]
    for point in record["points"]:
        if "top1" not in point:
            point |= evaluate(point["file"], *data, config.final_image_size or data[0].patch_size, config.arch)
            files.write_json(args.exp_dir / f"{name}.json", record)
            print(f"{name}: {_format(point)}", flush=True)


def _format(point: dict[str, Any]) -> str:
    values = (f"{label} {point[key]:.3f} [{low:.3f} {high:.3f}]" for key, label in COLUMNS.items()
              for low, high in [point["intervals"][key]])  # fmt: skip
    return f"{point['minutes']:.1f} min, {point['pairs']:,} pairs, {', '.join(values)}"


def plot(path: Path, records: dict[str, dict[str, Any]]) -> None:
    """Plot linear accuracy with all and with 1 % of the labels against minutes, with intervals."""
    figure, axes = new_figure(1, 2, (10, 4))
    for axis, key in zip(axes[0], ("top1", "label1_top1"), strict=True):
        for name, record in records.items():
            minutes = [point["minutes"] for point in record["points"]]
            low, high = zip(*(point["intervals"][key] for point in record["points"]), strict=True)
            axis.plot(minutes, [point[key] for point in record["points"]], "o-", label=name.replace("_", " "))
            axis.fill_between(minutes, low, high, alpha=0.2)
        axis.set(xlabel="minutes of pretraining", ylabel=COLUMNS[key])
        axis.legend()
    files.atomic_write(path, figure.savefig)


def main(args: argparse.Namespace) -> None:
    """Pretrain with all recipes, one after another, evaluate them, and print their last points as a table."""
    cli.check_positive(args, "minutes", "points", "pilot_steps")
    for name in (names := [recipe.partition(":")[0].strip() for recipe in args.recipes]):
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"--recipes {name!r}: a name of letters, digits and _ is needed before ':'")
    if len(set(names)) < len(names):
        raise ValueError("--recipes names a recipe twice")
    if args.plot:
        files.check_writable(args.plot, (".svg", ".png"))
    if args.precision == "auto":
        fp32, bf16 = measure_precisions()
        args.precision = "bf16" if fp32 >= MIN_SPEEDUP * bf16 else "fp32"
    args.exp_dir.mkdir(parents=True, exist_ok=True)
    train, val = (_patches(args.csv_dir, part) for part in ("train", "val"))
    records = {name: pretrain_recipe(args, recipe, train) for name, recipe in zip(names, args.recipes, strict=True)}
    for name, record in records.items():
        evaluate_points(args, name, record, train, val)
    print(f"\n{describe_machine()}; the last point of each run")
    for name, record in sorted(records.items(), key=lambda item: -item[1]["points"][-1]["top1"]):
        print(f"{name:16} {_format(record['points'][-1])}")
    if args.plot:
        plot(args.plot, records)


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
