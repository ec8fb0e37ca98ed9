"""Outputs of make_sn7_csv.py: patch lists, meta.json and summary."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from preprocessing.problems import Problem, count_kinds
from preprocessing.sn7.index import Mosaic
from preprocessing.sn7.pack import Packed, channel_statistics
from preprocessing.sn7.places import Place
from preprocessing.sn7.splits import split_facts, split_parts
from vicreg.common.files import file_digest
from vicreg.data.sn7_format import COLUMNS
from vicreg.data.tables import FORMAT

_FAR_KM = 20  # a town at this distance says little about the AOI
OUTPUTS = ("patches.npy", "all.csv", "train.csv", "val.csv", "test.csv", "meta.json")


def describe(
    packed: Packed, places: dict[str, Place], label: str, grid: int, split: dict[str, Any], source: str | Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Build the patch list, and the content of meta.json; ``split`` has rule, fraction and seed of ``split_parts``."""
    mosaics = packed.mosaics
    names = [places[mosaic.name.aoi].class_name(label) for mosaic in mosaics]
    iso = {name: places[mosaic.name.aoi].iso for name, mosaic in zip(names, mosaics, strict=True)}
    classes = sorted(iso)
    labels = np.searchsorted(classes, names)
    parts, record = split_parts(aois=[mosaic.name.aoi for mosaic in mosaics], labels=labels, grid=grid, **split)
    table = _patch_table(mosaics, places, labels, parts)
    mean, std = channel_statistics(packed, parts == "train")
    counts = {"aois": table.aoi.nunique(), "mosaics": len(mosaics), "patches": len(table), **split_facts(table)}
    months = table.year * 100 + table.month
    town_km = {aoi: round(km, 1) for aoi in table.aoi.unique() if (km := places[aoi].town_km) is not None}
    meta = {
        "format": FORMAT, "label": label, "classes": classes, "iso_codes": [iso[name] for name in classes],
        "grid": grid, "patch_size": packed.patch_size, "rows": len(table), "mean": mean, "std": std, "split": record,
        "counts": counts, "town_km": town_km,
        "months": [f"{month // 100}-{month % 100:02d}" for month in (months.min(), months.max())],
        "source": str(Path(source).resolve()),
    }  # fmt: skip
    return table, meta


def _patch_table(
    mosaics: Sequence[Mosaic], places: dict[str, Place], labels: Sequence[int], parts: np.ndarray
) -> pd.DataFrame:
    """Build the patch list from parts (mosaics, patches): one row per patch, in the order of the pack."""
    patches = parts.shape[1]
    rows = [
        (mosaic.path.name, mosaic.name.aoi, mosaic.name.year, mosaic.name.month, *places[mosaic.name.aoi][:3], label)
        for mosaic, label in zip(mosaics, labels, strict=True)
    ]
    columns = ["image_id", "aoi", "year", "month", "city", "state", "country", "label"]
    table = pd.DataFrame(rows, columns=columns).loc[np.repeat(np.arange(len(mosaics)), patches)]
    table["row"] = np.arange(len(table))
    table["patch"] = np.tile(np.arange(patches), len(mosaics))
    table["split"] = parts.ravel()
    return table[COLUMNS].reset_index(drop=True)


def write_lists(table: pd.DataFrame, meta: dict[str, Any], folder: str | Path) -> None:
    """Write all.csv, train.csv, val.csv, test.csv if the split has one, and meta.json with the digests of all files."""
    folder = Path(folder)
    table.to_csv(folder / "all.csv", index=False)
    for name, part in table.groupby("split"):
        if name != "unused":
            part.to_csv(folder / f"{name}.csv", index=False)
    meta["sha256"] = {name: file_digest(folder / name) for name in OUTPUTS if (folder / name).is_file()}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(meta: dict[str, Any], problems: Sequence[Problem], out_dir: str | Path, seconds: float) -> str:
    """Format what make_sn7_csv.py prints at the end."""
    counts, split = meta["counts"], meta["split"]
    requested = "" if split["val_fraction"] is None else f", {split['val_fraction']:g} requested"
    rows = f"{counts['train']} training and {counts['val']} validation"
    if "test" in counts:
        rows = rows.replace(" and", ",") + f" and {counts['test']} test"
    mean, std = (" ".join(f"{value:.4f}" for value in meta[key]) for key in ("mean", "std"))
    lines = [
        f"{counts['aois']} AOIs, {counts['mosaics']} mosaics from {meta['months'][0]} to {meta['months'][1]}, "
        f"{counts['patches']} patches of {meta['patch_size']} x {meta['patch_size']} pixels",
        f"{len(meta['classes'])} classes ({meta['label']})",
        *_format_towns(meta["town_km"]),
        f"split {split['rule']}: {rows} patches ({split['achieved']:.3f} held out{requested}): {split['description']}",
        *_format_unused(counts, split),
        f"validation locations also in training: {counts['location_overlap']:.1%}; validation classes without training "
        f"patches: {counts['classes_unseen']} of {counts['val_classes']}",
        f"problems left out: {count_kinds(problems) or 'none'}",
        f"channel mean {mean}, std {std} (training patches)",
        f"written to {out_dir} in {seconds:.1f} s; next:",
        f"  python vicreg/main_vicreg_sn7.py --csv-dir {shlex.quote(str(Path(out_dir).resolve()))} "
        "--exp-dir exp/sn7 --arch resnet18",
    ]
    return "\n".join(lines)


def _format_towns(town_km: dict[str, float]) -> list[str]:
    """Return a line about the distances to the towns that give city and state, if any were looked up."""
    if not town_km:
        return []
    far = sorted(((km, aoi) for aoi, km in town_km.items() if km > _FAR_KM), reverse=True)
    line = f"city and state of the nearest town: at {np.median(list(town_km.values())):.1f} km (median)"
    if far:
        line += f", farther than {_FAR_KM} km for {len(far)} AOI{'s' * (len(far) > 1)}: "
        line += ", ".join(f"{aoi} {km:.0f} km" for km, aoi in far[:5]) + ", …" * (len(far) > 5)
    return [line]


def _format_unused(counts: dict[str, Any], split: dict[str, Any]) -> list[str]:
    """Return a line about the AOIs that are in none of the split's lists, if there are any."""
    if "unused" not in counts:
        return []
    names = split["held_out"]["unused"]
    listed = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    aois = f"{len(names)} AOI{'s' * (len(names) > 1)}"
    return [f"in none of the published lists, so in all.csv only: {aois}, {counts['unused']} patches ({listed})"]
