"""Index an fMoW tree: images, timestamps, locations and problems; and write the lists of make_fmow_csv.py."""

import functools
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from preprocessing.problems import Problem, count_kinds
from vicreg.common.files import file_digest
from vicreg.common.random_streams import rng
from vicreg.data.broken_files import find_broken, map_in_threads
from vicreg.data.fmow import COLUMNS, UNKNOWN, parse_image_name, read_timestamp
from vicreg.data.image_dataset import ImageDataset

FORMAT = 1
_SUFFIXES = (".jpg", ".jpeg")
_MULTISPECTRAL = "_msrgb"  # RGB images made from the multispectral bands, of the same time; not listed


def scan_tree(data_dir: Path, splits: Sequence[str], workers: int) -> tuple[pd.DataFrame, list[Problem]]:
    """List <split>/<class>/<class>_<location>/<class>_<location>_<k>_rgb.jpg of a tree, and its problems.

    Returns:
        DataFrame (path, class, location, k, split, year, month) in the order of splits and paths, and the problems.

    Raises:
        FileNotFoundError: There is no tree, or a split is not in it.
    """
    rows, problems = [], []
    for split in splits:
        if not (data_dir / split).is_dir():
            inside = sorted(path.name for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else []
            available = f"; there are {', '.join(inside[:5])}" if inside else ""
            raise FileNotFoundError(f"no folder {data_dir / split}{available}; name the folders with --splits")
        split_rows, split_problems = _list_split(data_dir / split, split)
        rows += split_rows
        problems += split_problems
    paths = [row[0] for row in rows]
    bar = functools.partial(tqdm, desc="checking files", disable=None)  # hidden without a terminal
    broken = find_broken(paths, workers, bar)
    problems += [Problem("broken image", Path(paths[index]), message) for index, message in broken.items()]
    rows = [row for index, row in enumerate(rows) if index not in broken]
    timestamps = list(map_in_threads(_read_timestamp, [row[0] for row in rows], workers, bar))
    problems += [timestamp for timestamp in timestamps if isinstance(timestamp, Problem)]
    content = [
        (os.path.relpath(path, data_dir), *name, *((UNKNOWN, UNKNOWN) if isinstance(time, Problem) else time))
        for (path, *name), time in zip(rows, timestamps, strict=True)
    ]
    columns = ["path", "class", "location", "k", "split", "year", "month"]
    return pd.DataFrame(content, columns=columns), problems


def _list_split(folder: Path, split: str) -> tuple[list[tuple], list[Problem]]:
    """List the images of one split as rows (path, class, location, k, split), and its problems."""
    rows, problems = [], []
    for class_folder in _subfolders(folder):
        locations = _subfolders(class_folder)
        if not locations:
            problems.append(Problem("empty folder", class_folder, "it contains no location folders"))
        for location in locations:
            images = sorted(path for path in location.iterdir() if path.suffix.lower() in _SUFFIXES)
            images = [path for path in images if not path.name.startswith(".")]
            images = [path for path in images if not path.stem.lower().endswith(_MULTISPECTRAL)]
            if not images:
                problems.append(Problem("empty folder", location, "it contains no <class>_<location>_<k>_rgb.jpg"))
            for path in images:
                try:
                    name = parse_image_name(path.name)
                except ValueError as error:
                    problems.append(Problem("unreadable name", path, str(error).partition(": ")[2]))
                    continue
                if (name.class_name, name.location) != (class_folder.name, location.name):
                    message = f"the name says {name.location}, the folder is {class_folder.name}/{location.name}"
                    problems.append(Problem("other location", path, message))
                else:
                    rows.append((str(path), name.class_name, name.location, name.k, split))
    return rows, problems


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_timestamp(path: str) -> tuple[int, int] | Problem:
    """Return (year, month) of an image from the JSON file of the same name."""
    json_file = Path(path).with_suffix(".json")
    try:
        return read_timestamp(json_file)[:2]
    except ValueError as error:
        return Problem("JSON without time", json_file, str(error).partition(": ")[2])


def describe(
    table: pd.DataFrame, data_dir: str | Path, stats_images: int, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the lists, with ``COLUMNS``, and the content of meta.json from the table of ``scan_tree``.

    A random sample of ``stats_images`` images of the first split gives the channel mean and standard deviation.
    """
    classes = sorted(set(table["class"]))
    splits = list(dict.fromkeys(table.split))
    labels = np.searchsorted(classes, table["class"])
    first = table[table.split == splits[0]]
    chosen = np.sort(rng(seed, "channel_statistics").permutation(len(first))[:stats_images])
    paths = [Path(data_dir) / path for path in first.path.iloc[chosen]]
    mean, std = channel_statistics(ImageDataset(paths, np.zeros(len(chosen)), []))
    meta = {
        "format": FORMAT, "classes": classes, "mean": mean, "std": std, "stats_images": len(paths), "seed": seed,
        "splits": {split: _count(table[table.split == split]) for split in splits},
        "source": str(Path(data_dir).resolve()),
    }  # fmt: skip
    meta["counts"] = {split: counts["images"] for split, counts in meta["splits"].items()}
    return table.assign(label=labels)[COLUMNS], meta


def channel_statistics(dataset: ImageDataset, batch_size: int = 64) -> tuple[list[float], list[float]]:
    """Compute the channel mean and standard deviation of the images' center crops without black pixels, in [0, 1].

    The standard deviation of a constant channel is 1/255, not 0, because training divides by it.
    """
    sums, squares, count = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(dataset), batch_size):
        indices = list(range(start, min(start + batch_size, len(dataset))))
        pixels = dataset.images(indices).numpy().astype(np.float64)
        sums, squares = sums + pixels.sum((0, 2, 3)), squares + np.square(pixels).sum((0, 2, 3))
        count += int(pixels.any(1).sum())  # black pixels hold no data
    mean = sums / max(1, count)
    return (mean / 255).tolist(), (np.sqrt(np.maximum(squares / max(1, count) - mean**2, 1)) / 255).tolist()


def _count(part: pd.DataFrame) -> dict[str, Any]:
    known = part[part.year != UNKNOWN]
    months = (known.year * 100 + known.month).agg(["min", "max"]) if len(known) else []
    images = part.groupby("location").size()
    return {
        "images": len(part), "locations": len(images), "classes": part["class"].nunique(),
        "single_image": int((images == 1).sum()), "timestamps": len(known),
        "months": [f"{month // 100}-{month % 100:02d}" for month in months],
    }  # fmt: skip


def write_lists(table: pd.DataFrame, meta: dict[str, Any], folder: str | Path) -> list[str]:
    """Write <split>.csv and meta.json, and return their names in the order in which to publish them."""
    folder = Path(folder)
    for split, part in table.groupby("split"):
        part.to_csv(folder / f"{split}.csv", index=False)
    names = [f"{split}.csv" for split in meta["splits"]]
    meta |= {"sha256": {name: file_digest(folder / name) for name in names}}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*names, "meta.json"]


def summary(meta: dict[str, Any], problems: Sequence[Problem], out_dir: str | Path, seconds: float) -> str:
    """Format what make_fmow_csv.py prints at the end."""
    lines = []
    for split, counts in meta["splits"].items():
        lines.append(
            f"{split}: {counts['images']} images of {counts['locations']} locations ({counts['single_image']} with a "
            f"single image) in {counts['classes']} classes; {counts['timestamps']} with a timestamp"
            + (f", {counts['months'][0]} to {counts['months'][1]}" if counts["months"] else "")
        )
    first = next(iter(meta["splits"]))
    mean, std = (" ".join(f"{value:.4f}" for value in meta[key]) for key in ("mean", "std"))
    lines += [
        f"problems left out: {count_kinds(problems) or 'none'}",
        f"channel mean {mean}, std {std} (center crops of {meta['stats_images']} images of {first})",
        f"written to {out_dir} in {seconds:.1f} s; next:",
        f"  python vicreg/main_vicreg_fmow.py --csv-dir {shlex.quote(str(Path(out_dir).resolve()))} --exp-dir exp/fmow",
    ]
    return "\n".join(lines)
