"""What make_fmow_csv.py finds in an fMoW tree, and what it writes and says about it."""

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.problems import Problem
from vicreg.data.broken_files import find_broken, map_in_threads
from vicreg.data.fmow import COLUMNS, UNKNOWN, parse_image_name, read_timestamp
from vicreg.data.image_dataset import ImageDataset

FORMAT = 1
NEAR = 0.02  # degrees, about 2 km: images of one place are not framed alike, places of one name in two splits are far
_SUFFIXES = (".jpg", ".jpeg")
_OTHER_KIND = "_msrgb"  # of the same moment, from the multispectral bands


def scan_tree(data_dir, splits, workers, progress):
    """Find the images of a tree, their months, and what is wrong.

    Args:
        data_dir: folder with <split>/<class>/<class>_<place>/<class>_<place>_<k>_rgb.jpg. splits: names of folders.
        workers: threads. progress: function (iterator, total=…) -> iterator.

    Returns:
        DataFrame (path, class, location, k, year, month, split, position), in the order of splits and paths; list of
        Problem.

    Raises:
        FileNotFoundError: there is no tree, or one of the splits is not in it.
    """
    data_dir, rows, problems = Path(data_dir), [], []
    for split in splits:
        if not (data_dir / split).is_dir():
            inside = sorted(path.name for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else []
            there = f"; there are {', '.join(inside[:5])}" if inside else ""
            raise FileNotFoundError(f"no folder {data_dir / split}{there}; name others with --splits")
        found, wrong = _list_split(data_dir / split, split)
        rows += found
        problems += wrong
    paths = [row[0] for row in rows]
    broken = find_broken(paths, workers, progress)
    problems += [Problem("broken image", Path(paths[index]), what) for index, what in broken.items()]
    rows = [row for index, row in enumerate(rows) if index not in broken]
    moments = list(map_in_threads(_moment, [row[0] for row in rows], workers, progress))
    problems += [moment for moment in moments if isinstance(moment, Problem)]
    moments = [(UNKNOWN, UNKNOWN, None) if isinstance(moment, Problem) else moment for moment in moments]
    table = pd.DataFrame(rows, columns=["path", "class", "location", "k", "split"])
    table["year"], table["month"] = ([moment[n] for moment in moments] for n in (0, 1))
    table["position"] = pd.Series([moment[2] for moment in moments], dtype=object)
    table["path"] = [os.path.relpath(path, data_dir) for path in table.path]
    return table, problems


def _list_split(folder, split):
    """One split's images -> rows (path, class, location, k, split), list of Problem."""
    rows, problems = [], []
    for kind in _folders(folder):
        for place in _folders(kind):
            found = sorted(path for path in place.iterdir() if path.suffix.lower() in _SUFFIXES)
            found = [path for path in found if not path.name.startswith(".")]
            images = [path for path in found if not path.stem.lower().endswith(_OTHER_KIND)]
            if not images:
                problems.append(Problem("empty folder", place, "no <class>_<place>_<k>_rgb.jpg in it"))
            for path in images:
                try:
                    name = parse_image_name(path.name)
                except ValueError as error:
                    problems.append(Problem("unreadable name", path, str(error).partition(": ")[2]))
                    continue
                if (name.class_name, name.location) != (kind.name, place.name):
                    what = f"named for {name.location}, but in the folder {kind.name}/{place.name}"
                    problems.append(Problem("other place", path, what))
                else:
                    rows.append((str(path), name.class_name, name.location, name.k, split))
        if not _folders(kind):
            problems.append(Problem("empty folder", kind, "no folders of places in it"))
    return rows, problems


def _folders(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _moment(path):
    """(year, month, position) of an image by its JSON; or Problem."""
    beside = Path(path).with_suffix(".json")
    try:
        return read_timestamp(beside)
    except ValueError as error:
        return Problem("JSON without time", beside, str(error).partition(": ")[2])


def describe(table, data_dir, stats_images, seed):
    """Number the classes, estimate the channels' statistics, and sum up.

    Args:
        table: of ``scan_tree``. data_dir: the tree. stats_images: how many training images (those of the first split)
            are read for mean and standard deviation. seed: of that sample.

    Returns:
        DataFrame with ``COLUMNS``, and the content of meta.json.
    """
    classes = sorted(set(table["class"]))
    splits = list(dict.fromkeys(table.split))
    labels = np.searchsorted(classes, table["class"])
    first = table[table.split == splits[0]]
    chosen = np.random.default_rng(seed).permutation(len(first))[:stats_images]
    sample = ImageDataset(
        [Path(data_dir) / path for path in first.path.iloc[np.sort(chosen)]], np.zeros(len(chosen)), []
    )
    mean, std = channel_statistics(sample)
    meta = {
        "format": FORMAT, "classes": classes, "mean": mean, "std": std, "stats_images": len(sample), "seed": seed,
        "splits": {split: _counts(table[table.split == split]) for split in splits},
        "shared": {split: _shared(first, table[table.split == split]) for split in splits[1:]},
        "source": str(Path(data_dir).resolve()),
    }  # fmt: skip
    return table.assign(label=labels)[COLUMNS], meta


def channel_statistics(dataset, chunk=64):
    """Mean and standard deviation of each channel over the images' middle squares, of pixels in [0, 1].

    A constant channel gets 1/255, not 0: training divides by it.
    """
    sums, squares, count = np.zeros(3), np.zeros(3), 0
    for begin in range(0, len(dataset), chunk):
        pixels = dataset.images(list(range(begin, min(begin + chunk, len(dataset))))).numpy().astype(np.float64)
        sums, squares = sums + pixels.sum((0, 2, 3)), squares + np.square(pixels).sum((0, 2, 3))
        count += pixels[:, 0].size
    mean = sums / count
    return (mean / 255).tolist(), (np.sqrt(np.maximum(squares / count - mean**2, 1)) / 255).tolist()


def _counts(part):
    known = part[part.year != UNKNOWN]
    months = (known.year * 100 + known.month).agg(["min", "max"]) if len(known) else []
    images = part.groupby("location").size()
    return {
        "images": len(part), "locations": len(images), "classes": part["class"].nunique(),
        "alone": int((images == 1).sum()), "timestamps": len(known),
        "months": [f"{month // 100}-{month % 100:02d}" for month in months],
    }  # fmt: skip


def _shared(train, part):
    """Places of ``part`` whose name is in training too, by their positions: the same place, another one, unknown."""
    positions = [dict(zip(each.location, each.position, strict=True)) for each in (train, part)]
    names = sorted(positions[0].keys() & positions[1].keys())
    pairs = [(positions[0][name], positions[1][name]) for name in names]
    apart = [np.abs(np.subtract(a, b)).max() for a, b in pairs if a is not None and b is not None]
    same = int(sum(degrees <= NEAR for degrees in apart))
    return {"names": len(names), "same": same, "other": len(apart) - same, "unknown": len(names) - len(apart)}


def write_lists(table, meta, folder):
    """Write <split>.csv and meta.json; returns their names in the order in which they may appear."""
    folder = Path(folder)
    for split, part in table.groupby("split"):
        part.to_csv(folder / f"{split}.csv", index=False)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*(f"{split}.csv" for split in meta["splits"]), "meta.json"]


def summary(meta, problems, out_dir, seconds):
    """The closing lines of make_fmow_csv.py."""
    lines = []
    for split, found in meta["splits"].items():
        lines.append(
            f"{split}: {found['images']} images of {found['locations']} locations ({found['alone']} with one image "
            f"only) in {found['classes']} classes; {found['timestamps']} with a timestamp"
            + (f", {found['months'][0]} to {found['months'][1]}" if found["months"] else "")
        )
    first = next(iter(meta["splits"]))
    for split, found in meta["shared"].items():
        of = meta["splits"][split]["locations"]
        lines.append(
            f"location names of {split} that {first} has too: {found['names']} of {of}; by the positions in the JSON "
            f"{found['same']} are the same place, {found['other']} another one, {found['unknown']} unknown"
        )
    kinds = sorted(Counter(problem.kind for problem in problems).items())
    mean, std = (" ".join(f"{value:.4f}" for value in meta[key]) for key in ("mean", "std"))
    lines += [
        "problems left out: " + (", ".join(f"{count} x {kind}" for kind, count in kinds) or "none"),
        f"channel mean {mean}, std {std} (middle squares of {meta['stats_images']} images of {first})",
        f"written to {out_dir} in {seconds:.1f} s; next:",
        "  cd vicreg && python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_fmow.py "
        f"--csv-dir {shlex.quote(str(Path(out_dir).resolve()))} --exp-dir exp/fmow",
    ]
    return "\n".join(lines)
