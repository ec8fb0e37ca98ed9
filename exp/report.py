#!/usr/bin/env python3
"""Summarize run folders: tables in the terminal, loss curves, and one HTML page with the plots.

    python exp/report.py exp/quickstart

searches for runs at any depth, prints a line for each pretraining run and each evaluation, and writes ``curves.png``
into each pretraining run and ``report.html`` into the first folder. Files that cannot be read are listed.
"""

import argparse
import base64
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from vicreg.common import cli, files
from vicreg.common.logger import read_stats

CONFIG_FILES = ("config.json", "args.json")  # args.json is that of older runs
METRICS = ("top1", "tta_top1", "top5", "best_top1", "knn20_top1", "lr_head", "train_samples", "mean_iou", "accuracy")
BOOKKEEPING = {"step", "epoch", "lr", "data_time", "loss_lower_bound", "image_size"}  # not plotted


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="run folders, or folders of runs")
    parser.add_argument("--out", type=Path, help="HTML page to write (default: report.html in the first folder)")
    return parser


def find(folders: Sequence[Path], *names: str) -> list[Path]:
    """List the files of these names below folders, each once."""
    return sorted({path for folder in folders for name in names for path in folder.rglob(name)})


def read_object(path: Path, errors: list[str]) -> dict[str, Any]:
    """Read a JSON object; append to ``errors`` and return {} if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        return content
    except (ValueError, OSError) as error:
        errors.append(f"{path}: {error}")
        return {}


def pretraining_runs(folders: Sequence[Path], errors: list[str]) -> pd.DataFrame:
    """Return one row per pretraining run: its settings and its last log line."""
    rows = []
    for folder in dict.fromkeys(path.parent for path in find(folders, *CONFIG_FILES)):
        lines = [line for line in read_stats(folder / "stats.txt") if isinstance(line, dict)]
        losses = [line for line in lines if "loss" in line and "pairs_per_second" in line]
        if not losses:
            continue
        contents = [read_object(folder / name, errors) for name in CONFIG_FILES if (folder / name).is_file()]
        plan = next((content["plan"] for content in contents if isinstance(content.get("plan"), dict)), {})
        last, probes = losses[-1], [line["knn20_top1"] for line in lines if "knn20_top1" in line]
        row = {"run": str(folder), "data": plan.get("source"), "batch": plan.get("batch_size")}
        row |= {"steps": f"{last.get('step', '?')}/{plan.get('steps', '?')}", "loss": last["loss"]}
        row |= {"lower bound": last.get("loss_lower_bound")}
        row |= {key: value for key, value in last.items() if key.endswith("_loss")}
        row |= {"rank": last.get("effective_rank"), "kNN-20": probes[-1] if probes else None}
        rows.append(row | {"pairs/s": last["pairs_per_second"], "data time": last.get("data_time")})
    return pd.DataFrame(rows)


def evaluations(folders: Sequence[Path], errors: list[str]) -> pd.DataFrame:
    """Return one row per ``result.json``."""
    rows = []
    for path in find(folders, "result.json"):
        if result := read_object(path, errors):
            row = {
                "evaluation": str(path.parent),
                "backbone": result.get("source") or nested(result, "backbone", "source"),
            }
            row |= {key: result.get(key) for key in METRICS}
            rows.append(row | {"box AP": nested(result, "val", "box", "AP")})
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table.columns[2:] if table[name].isna().all()])


def nested(content: Any, *keys: str) -> Any:
    """Return a value of nested dicts, None if it is not there."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def plot_curves(folder: Path) -> Path:
    """Plot the losses and metrics of a run over its steps to ``curves.png`` and return its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = pd.DataFrame([line for line in read_stats(folder / "stats.txt") if isinstance(line, dict)])
    numbers = lines.select_dtypes("number").columns
    keys = [key for key in numbers if key not in BOOKKEEPING and not key.endswith("_per_second")]
    columns = -(-len(keys) // 2)
    figure, axes = pyplot.subplots(2, columns, figsize=(3.2 * columns, 5), squeeze=False)
    for axis, key in zip(axes.flat, keys, strict=False):
        curve = lines[["step", key]].dropna()
        axis.plot(curve.step, curve[key], marker="." if len(curve) < 40 else None)
        if key == "loss" and "loss_lower_bound" in numbers:
            axis.axhline(lines.loss_lower_bound.dropna().iloc[0], linestyle="--", color="gray", label="lower bound")
            axis.legend()
        axis.set_title(key)
        axis.set_xlabel("step")
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    figure.tight_layout()
    files.atomic_write(folder / "curves.png", lambda path: figure.savefig(path, dpi=100))
    pyplot.close(figure)
    return folder / "curves.png"


def write_page(path: Path, tables: dict[str, pd.DataFrame], plots: Sequence[Path], errors: Sequence[str]) -> None:
    """Write tables and plots as one self-contained HTML file."""
    parts = ["<!doctype html><meta charset='utf-8'><title>Runs</title>"]
    parts.append("<style>body{font:14px sans-serif;margin:2em} td,th{padding:.3em .8em;text-align:left}</style>")
    for title, table in tables.items():
        parts.append(
            f"<h2>{html.escape(title)}</h2>{table.to_html(index=False, na_rep='', float_format='{:.4g}'.format)}"
        )
    for error in errors:
        parts.append(f"<p>Unreadable: {html.escape(error)}</p>")
    for plot in plots:
        data = base64.b64encode(plot.read_bytes()).decode()
        parts.append(f"<h3>{html.escape(str(plot))}</h3><img src='data:image/png;base64,{data}'>")
    files.write_text(path, "\n".join(parts))


def main(args: argparse.Namespace) -> None:
    """Print the tables, plot the curves, write the page."""
    for folder in args.folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    errors: list[str] = []
    tables = {"Pretraining": pretraining_runs(args.folders, errors), "Evaluation": evaluations(args.folders, errors)}
    tables = {title: table for title, table in tables.items() if len(table)}
    for error in errors:
        print(f"unreadable: {error}", file=sys.stderr)
    if not tables:
        raise ValueError(f"no runs in {', '.join(map(str, args.folders))}: neither stats.txt nor result.json")
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False, na_rep='', float_format='{:.4g}'.format)}")
    runs = [Path(run) for run in tables["Pretraining"].run] if "Pretraining" in tables else []
    plots = [plot_curves(run) for run in runs] + [run / "views.png" for run in runs]
    page = args.out or args.folders[0] / "report.html"
    write_page(page, tables, [plot for plot in plots if plot.is_file()], errors)
    print(f"\n{page}")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
