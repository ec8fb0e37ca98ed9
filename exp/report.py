#!/usr/bin/env python3
"""Read run folders: tables in the terminal, loss curves, and one HTML page with the pictures.

    python exp/report.py exp/quickstart

looks for runs at any depth, prints a line for each pretraining run and each evaluation, writes ``curves.png`` beside
each pretraining run's ``stats.txt`` and ``report.html`` in the first folder named.
"""

import argparse
import base64
import html
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from vicreg.common import cli
from vicreg.common.logger import read_stats

NOT_CURVES = ("step", "epoch", "lr", "data_time", "loss_lower_bound")  # and throughputs

FIGURES = ("top1", "tta_top1", "top5", "best_top1", "knn20_top1", "lr_head", "train_samples", "mean_iou", "accuracy")


def get_parser():
    """Arguments of the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", help="run folders, or folders of runs")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first folder)")
    return parser


def pretraining_runs(folders):
    """One row per pretraining run: what it was, and its last figures."""
    rows = []
    names = ("config.json", "args.json")  # args.json was written by earlier versions
    found = {path.parent: path for name in reversed(names) for folder in folders for path in folder.rglob(name)}
    for path in sorted(found.values()):
        lines = read_stats(path.parent / "stats.txt")
        losses = [line for line in lines if "embedding_std" in line]
        if not losses:
            continue
        plan, last = json.loads(path.read_text())["plan"], losses[-1]
        probes = [line["knn20_top1"] for line in lines if "knn20_top1" in line]
        row = {"run": str(path.parent), "what": plan["source"], "batch": plan["batch_size"]}
        row |= {"steps": f"{last['step']}/{plan['steps']}", "loss": last["loss"]}
        row |= {"lower bound": last.get("loss_lower_bound"), "rank": last["effective_rank"]}
        row |= {"kNN-20": probes[-1] if probes else None}
        rows.append(row | {"pairs/s": last["pairs_per_second"], "data wait": last["data_time"]})
    return pd.DataFrame(rows)


def evaluations(folders):
    """One row per ``result.json``."""
    rows = []
    for path in sorted({path for folder in folders for path in folder.rglob("result.json")}):
        found = json.loads(path.read_text())
        row = {
            "evaluation": str(path.parent),
            "backbone": found.get("source") or found.get("backbone", {}).get("source"),
        }
        row |= {key: found.get(key) for key in FIGURES}
        rows.append(row | {"box AP": found.get("val", {}).get("box", {}).get("AP")})
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table.columns[2:] if table[name].isna().all()])


def draw_curves(folder):
    """Draw a run's curves over its steps to ``curves.png``; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = pd.DataFrame(read_stats(folder / "stats.txt"))
    shown = [key for key in lines if key not in NOT_CURVES and not key.endswith("_per_second")]
    figure, axes = pyplot.subplots(2, -(-len(shown) // 2), figsize=(3.2 * -(-len(shown) // 2), 5), squeeze=False)
    for axis, key in zip(axes.flat, shown, strict=False):
        curve = lines[["step", key]].dropna()
        axis.plot(curve.step, curve[key], marker="." if len(curve) < 40 else None)
        if key == "loss" and "loss_lower_bound" in lines:
            axis.axhline(lines.loss_lower_bound.dropna().iloc[0], linestyle="--", color="gray", label="lower bound")
            axis.legend()
        axis.set_title(key)
        axis.set_xlabel("step")
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=100)
    pyplot.close(figure)
    return folder / "curves.png"


def write_page(path, tables, pictures):
    """Write tables and pictures as one file that needs no other."""
    parts = ["<!doctype html><meta charset='utf-8'><title>Runs</title>"]
    parts.append("<style>body{font:14px sans-serif;margin:2em} td,th{padding:.3em .8em;text-align:left}</style>")
    for title, table in tables.items():
        parts.append(
            f"<h2>{html.escape(title)}</h2>{table.to_html(index=False, na_rep='', float_format='{:.4g}'.format)}"
        )
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f"<h3>{html.escape(str(picture))}</h3><img src='data:image/png;base64,{data}'>")
    path.write_text("\n".join(parts))


def main(args):
    """Print the tables, draw the curves, write the page."""
    for folder in args.folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    tables = {"Pretraining": pretraining_runs(args.folders), "Evaluation": evaluations(args.folders)}
    tables = {title: table for title, table in tables.items() if len(table)}
    if not tables:
        raise ValueError(f"no runs in {', '.join(map(str, args.folders))}: neither stats.txt nor result.json")
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False, na_rep='', float_format='{:.4g}'.format)}")
    runs = [Path(run) for run in tables["Pretraining"].run] if "Pretraining" in tables else []
    pictures = [draw_curves(run) for run in runs] + [run / "views.png" for run in runs]
    page = args.out or args.folders[0] / "report.html"
    write_page(page, tables, [picture for picture in pictures if picture.is_file()])
    print(f"\n{page}")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
