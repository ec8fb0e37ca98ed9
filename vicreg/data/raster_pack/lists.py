"""Patch lists and ``meta.json`` from the records of all shards."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vicreg.common import files
from vicreg.data.raster_pack.plan import FORMAT, Plan
from vicreg.data.raster_pack.scenes import FileProblem
from vicreg.data.raster_pack.shards import read_record, shard_name

COLUMNS = ["row", "image_id", "site", "location", "date", "grid", "column", "line", "valid", "label", "split"]


class Result(NamedTuple):
    """Rows of all shards, in order, and what was counted.

    Attributes:
        table: Patch list with ``COLUMNS`` but label and split, and ``digest``.
        records: Paths of the records, one for each shard.
        problems: Scenes that could not be read; they have no rows.
        counts: Plain values for ``meta.json``.
        shards: File, number of rows and SHA-256 of each shard.
    """

    table: pd.DataFrame
    records: list[Path]
    problems: list[FileProblem]
    counts: dict[str, Any]
    shards: list[dict[str, Any]]


def collect(plan: Plan, records: list[Path]) -> Result:
    """Read the records of all shards and build the patch list.

    Raises:
        FileNotFoundError: A shard is missing.
    """
    if missing := [path.name for path in records if not path.is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(records)} shards are missing, such as {missing[0]}; run the "
                                "other parts of --shard first")  # fmt: skip
    parts, shards, start = [], [], 0
    bad: dict[int, str] = {}
    dropped, clipped = 0, np.zeros(2, np.int64)
    for number, path in enumerate(records):
        info, arrays = read_record(path)
        bad |= {int(index): message for index, message in info["problems"].items()}
        dropped, clipped = dropped + info["dropped"], clipped + info["clipped"]
        shards.append({"file": shard_name(number), "rows": info["rows"], "sha256": info["sha256"]})
        if info["rows"]:
            part = {"row": start + np.arange(info["rows"]), "digest": arrays["digests"].view("S16").astype(object)}
            parts.append(pd.DataFrame(part | {name: arrays[name] for name in ("scene", "columns", "rows", "valid")}))
        start += info["rows"]
    problems = [FileProblem("unreadable pixels", plan.scenes[index].path, bad[index]) for index in sorted(bad)]
    if not parts:
        return Result(pd.DataFrame(), records, problems, {"nodata": dropped}, shards)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[~rows.scene.isin(list(bad))]
    by_scene = pd.DataFrame({
        "image_id": [scene.name for scene in plan.scenes], "date": [scene.date for scene in plan.scenes],
        "site": [place.site for place in plan.placements], "grid": [place.grid for place in plan.placements],
    }).loc[rows.scene].reset_index(drop=True)  # fmt: skip
    rows = rows.rename(columns={"columns": "column", "rows": "line"}).reset_index(drop=True)
    table = pd.concat([rows, by_scene], axis=1)
    table["location"] = table.site + "/" + table.column.astype(str) + "_" + table.line.astype(str)
    table["valid"] = table.valid / plan.cut.patch_size**2
    values = len(rows) * len(plan.scenes[0].bands) * plan.cut.patch_size**2
    counts = {
        "scenes": int(rows.scene.nunique()), "sites": int(table.site.nunique()),
        "locations": int(table.location.nunique()), "patches": len(table), "nodata": dropped,
        "duplicates": int(len(table) - table.digest.nunique()), "clipped": (clipped / max(1, values)).tolist(),
    }  # fmt: skip
    return Result(table, records, problems, counts, shards)


def channel_statistics(result: Result, used: np.ndarray, dtype: str) -> tuple[list[float], list[float]]:
    """Compute the channel mean and standard deviation over the pixels with data of some rows.

    The moments of the patches are combined as in Chan, Golub & LeVeque (1983), eq. 2.1.

    Args:
        result: Result of ``collect``.
        used: Bool array: the rows of the table to use.
        dtype: Type of the stored values, whose maximum is 1.

    Returns:
        Mean and standard deviation, of pixels in [0, 1]; the latter is at least one step of the type.
    """
    wanted, start = np.zeros(sum(shard["rows"] for shard in result.shards), bool), 0
    wanted[result.table.row[used]] = True
    count, mean, squares = 0.0, 0.0, 0.0
    for path, shard in zip(result.records, result.shards, strict=True):
        chosen = wanted[start : start + shard["rows"]]
        start += shard["rows"]
        if not chosen.any():
            continue
        arrays = read_record(path)[1]
        weights = arrays["valid"][chosen].astype(np.float64)
        total = weights.sum()
        part_mean = weights @ arrays["means"][chosen] / total
        part_squares = arrays["squares"][chosen].sum(0) + weights @ (arrays["means"][chosen] - part_mean) ** 2
        delta, both = part_mean - mean, count + total
        squares = squares + part_squares + delta**2 * count * total / both
        mean, count = mean + delta * total / both, both
    top = np.iinfo(dtype).max
    std = np.sqrt(np.maximum(np.asarray(squares) / count, 1))
    return (np.asarray(mean) / top).tolist(), (std / top).tolist()


def describe(plan: Plan, result: Result, classes: Sequence[str], split: dict[str, Any]) -> dict[str, Any]:
    """Build the content of ``meta.json``; the table has its labels and split."""
    table, first = result.table, plan.scenes[0]
    mean, std = channel_statistics(result, (table.split == "train").to_numpy(), plan.cut.dtype)
    dates = sorted(set(table.date) - {""})
    cells = Counter(table.drop_duplicates("location").grid)
    grid_list = [
        {"crs": grid.crs, "resolution": [grid.xres, grid.yres], "origin": [grid.x0, grid.y0],
         "locations": cells[number]}
        for number, grid in enumerate(plan.grids)
    ]  # fmt: skip
    sources = Counter(scene.date_source for scene in plan.scenes if scene.date)
    splits = {part: int((table.split == part).sum()) for part in ("train", "val", "unused")}
    return {
        "format": FORMAT, "classes": list(classes), "patch_size": plan.cut.patch_size,
        "patch_size_from": plan.size_rule, "rows": len(table),
        "dtype": plan.cut.dtype, "bands": list(first.band_names), "scale": plan.cut.scale, "mean": mean, "std": std,
        "split": split, "counts": result.counts | splits, "dates": [dates[0], dates[-1]] if dates else [],
        "date_sources": dict(sources), "grids": grid_list, "shards": result.shards, "fingerprint": plan.fingerprint,
    }  # fmt: skip


def publish(work: Path, out_dir: Path, table: pd.DataFrame, meta: dict[str, Any]) -> None:
    """Write the lists and ``meta.json``, and move them and the shards to the output folder."""
    for stale in work.glob("*.csv"):  # of a run with another split that was killed
        stale.unlink()
    for name, part in (("all", table), *table.groupby("split")):
        if name != "unused":
            part[COLUMNS].to_csv(work / f"{name}.csv", index=False)
    lists = {path.name: files.file_digest(path) for path in sorted(work.glob("*.csv"))}
    shards = {shard["file"]: shard["sha256"] for shard in meta["shards"]}
    files.write_json(work / "meta.json", meta | {"sha256": lists | shards})
    old = [path.name for path in out_dir.glob("patches*.npy")]
    names = dict.fromkeys([*(shard["file"] for shard in meta["shards"]), *old, "all.csv", "train.csv", "val.csv"])
    files.publish(work, out_dir, [*names, "meta.json"])
    shutil.rmtree(work)
