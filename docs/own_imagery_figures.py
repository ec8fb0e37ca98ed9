#!/usr/bin/env python3
r"""Make the pictures of docs/own-imagery.md from SpaceNet 7 mosaics.

    OMP_NUM_THREADS=1 python docs/own_imagery_figures.py --data-dir data/sn7_128/train --work-dir exp/own_imagery

runs the commands of the page on some mosaics (a pretraining of a few minutes on one core; what is there already is
used again), and writes split-blocks.png, feature-map.png and temporal-pairs.png to --out-dir. Expects mosaics that are
reduced to 128 x 128 pixels (``preprocessing/reduce_sn7.py``).
"""

import argparse
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(ROOT)

import numpy as np
import rasterio
from PIL import Image

from vicreg.common import cli, files
from vicreg.common.plots import new_figure
from vicreg.data.imagery import ImageryPatches

SCENE = "L15-0586E-1127N_2345_3680_13"  # fields and a town
PAIRS = ("L15-1669E-1160N_6678_3548_13", "L15-1690E-1211N_6763_3346_13", "L15-0358E-1220N_1433_3310_13")  # they change
PRETRAINING_AOIS, CELL, PATCH = 38, 8, 16
COLORS = {"train": "#0072B2", "val": "#D55E00", "unused": "#999999"}
LABELS = {"train": "training", "val": "validation", "unused": "buffer, in neither"}
TRAINING = ["--arch", "resnet18", "--image-size", "16", "--mlp", "512-512-512", "--batch-size", "128", "--optimizer",
            "adamw", "--lr", "0.002", "--weight-decay", "0.01", "--epochs", "1", "--precision", "fp32", "--workers",
            "0"]  # fmt: skip


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of AOIs, as SpaceNet 7 has them")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of patches, run and feature map")
    parser.add_argument("--out-dir", type=Path, default=ROOT / "docs" / "assets", help="default: docs/assets")
    return parser


def run(script: str, *words: object) -> None:
    """Run a script of the repository."""
    subprocess.run([sys.executable, str(ROOT / script), *map(str, words)], check=True)


def prepare(folders: list[Path], out_dir: Path, *words: object) -> Path:
    """Cut scenes into patches, unless that has been done."""
    if not (out_dir / "meta.json").is_file():
        run("preprocessing/make_imagery_csv.py", "--data-dir", *folders, "--out-dir", out_dir, *words)
    return out_dir


def save(drawing: Any, path: Path) -> None:
    """Write a figure as PNG of 256 colors."""
    memory = BytesIO()
    drawing.savefig(memory)
    image = Image.open(memory).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    files.atomic_write(path, lambda tmp_path: image.save(tmp_path, optimize=True))


def read_scene(path: Path) -> np.ndarray:
    """Read a mosaic: uint8 array (height, width, 3)."""
    with rasterio.open(path) as raster:
        return raster.read([1, 2, 3]).transpose(1, 2, 0)


def plot_blocks(scene: Path, csv_dir: Path, path: Path) -> None:
    """Plot a scene, and its cells in the color of their part."""
    from matplotlib.patches import Patch, Rectangle

    table, pixels = ImageryPatches(csv_dir / "all.csv").table, read_scene(scene)
    cells = table.drop_duplicates("location")
    figure, ((plain, divided),) = new_figure(1, 2, (8, 4.3))
    for axes in (plain, divided):
        axes.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0), interpolation="bicubic")
        axes.set_axis_off()
    plain.set_title("a scene")
    divided.set_title("its cells and the split")
    for cell in cells.itertuples():
        corner = cell.column - cells.column.min(), cell.line - cells.line.min()
        color = COLORS[cell.split]
        divided.add_patch(Rectangle(corner, CELL, CELL, facecolor=color, alpha=0.45))
        divided.add_patch(Rectangle(corner, CELL, CELL, fill=False, edgecolor="white", linewidth=0.5))
    handles = [Patch(color=COLORS[part], label=label) for part, label in LABELS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def plot_map(scene: Path, feature_map: Path, path: Path) -> None:
    """Plot a scene beside three principal components of its features, without the half windows at the border."""
    with rasterio.open(feature_map) as raster:
        values = raster.read().transpose(1, 2, 0)
        stride = int(raster.tags()["stride"])
    border, cells = PATCH // 2, PATCH // 2 // stride
    values = values[cells:-cells, cells:-cells]
    low, high = np.percentile(values, [2, 98], axis=(0, 1))
    figure, ((left, right),) = new_figure(1, 2, (8, 4.2))
    left.imshow(read_scene(scene)[border:-border, border:-border], interpolation="bicubic")
    right.imshow(((values - low) / (high - low)).clip(0, 1), interpolation="nearest")
    for axes, title in ((left, "a scene"), (right, "its feature map")):
        axes.set_title(title)
        axes.set_axis_off()
    save(figure, path)


def plot_pairs(csv_dir: Path, path: Path) -> None:
    """Plot patches of some locations, each above the one that pretraining pairs it with."""
    dataset = ImageryPatches(csv_dir / "all.csv", "temporal")
    table = dataset.table
    firsts = [table.index[(table.site == site) & (table.date == date)][5 * number % 16]
              for number, site in enumerate(table.site.unique())
              for date in sorted(table[table.site == site].date.unique())[:2]]  # fmt: skip
    figure, axes = new_figure(2, len(firsts), (8, 3.2))
    for column, index in enumerate(firsts):
        for row, shown in enumerate((index, dataset.positive_index(index, column + 3))):
            axes[row, column].imshow(dataset.images([shown])[0].permute(1, 2, 0), interpolation="bicubic")
            axes[row, column].set_title(table.date[shown][:7], fontsize=9)
            axes[row, column].set_axis_off()
    save(figure, path)


def main(args: argparse.Namespace) -> None:
    """Run the commands, and write the pictures."""
    work, aois = args.work_dir, sorted(path for path in args.data_dir.iterdir() if path.is_dir())
    scenes = sorted((args.data_dir / SCENE / "images").glob("*.tif"))
    if not scenes:
        raise FileNotFoundError(f"no mosaics of {SCENE} in {args.data_dir}")
    none = ("--split", "none")
    patches = prepare(aois[-PRETRAINING_AOIS:], work / "patches", "--patch-size", PATCH, *none)
    run("vicreg/main_vicreg_imagery.py", "--csv-dir", patches, "--exp-dir", work / "run", *TRAINING)
    run("vicreg/embed.py", "--pretrained", work / "run" / "trained_model.pth", "--image", scenes[7], "--patch-size",
        PATCH, "--stride", 2, "--out", work / "features.tif")  # fmt: skip
    cells = prepare([args.data_dir / SCENE], work / "cells", "--patch-size", CELL)
    pairs = prepare([args.data_dir / name for name in PAIRS], work / "pairs", "--patch-size", 32, *none)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    plot_blocks(scenes[7], cells, args.out_dir / "split-blocks.png")
    plot_map(scenes[7], work / "features.tif", args.out_dir / "feature-map.png")
    plot_pairs(pairs, args.out_dir / "temporal-pairs.png")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
