"""What make_sn7_csv.py writes, from the rows of the lists to the moment the finished folder replaces the old one."""

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.sn7.pack import channel_statistics
from preprocessing.sn7.splits import split_facts, split_parts
from vicreg.data.sn7_format import COLUMNS

FORMAT = 1
OUTPUTS = (
    "patches.npy",
    "all.csv",
    "train.csv",
    "val.csv",
    "test.csv",
    "meta.json",
)  # in the order in which they appear


def describe(packed, places, label, grid, split, source):
    """Lists and their description.

    Args:
        packed: pack.Packed. places: dict AOI -> Place. label: "country", "state" or "city".
        grid: patches per side. split: dict of rule, fraction and seed. source: the tree.

    Returns:
        DataFrame of all rows, and the content of meta.json.
    """
    mosaics = packed.mosaics
    names = [places[mosaic.name.aoi].class_name(label) for mosaic in mosaics]
    iso = {name: places[mosaic.name.aoi].iso for name, mosaic in zip(names, mosaics, strict=True)}
    classes = sorted(iso)
    labels = np.searchsorted(classes, names)
    parts, record = split_parts(aois=[mosaic.name.aoi for mosaic in mosaics], labels=labels, grid=grid, **split)
    table = patch_table(mosaics, places, labels, parts)
    mean, std = channel_statistics(packed, parts == "train")
    facts = split_facts(table)
    counts = {"aois": table.aoi.nunique(), "mosaics": len(mosaics), "patches": len(table), **facts}
    months = table.year * 100 + table.month
    meta = {
        "format": FORMAT, "label": label, "classes": classes, "iso_codes": [iso[name] for name in classes],
        "grid": grid, "patch_size": packed.patch_size, "rows": len(table), "mean": mean, "std": std, "split": record,
        "counts": counts, "months": [f"{month // 100}-{month % 100:02d}" for month in (months.min(), months.max())],
        "source": str(Path(source).resolve()),
    }  # fmt: skip
    return table, meta


def patch_table(mosaics, places, labels, parts):
    """One row per patch, in the order of the pack.

    Args:
        mosaics: list of n Mosaic. places: dict AOI -> Place. labels: class index of each mosaic, (n,).
        parts: (n, G), of splits.PARTS.

    Returns:
        DataFrame with the columns of a patch list.
    """
    patches = parts.shape[1]
    columns = [
        (mosaic.path.name, mosaic.name.aoi, mosaic.name.year, mosaic.name.month, *places[mosaic.name.aoi][:3], label)
        for mosaic, label in zip(mosaics, labels, strict=True)
    ]
    names = ["image_id", "aoi", "year", "month", "city", "state", "country", "label"]
    table = pd.DataFrame(columns, columns=names).loc[np.repeat(np.arange(len(mosaics)), patches)]
    table["row"] = np.arange(len(table))
    table["patch"] = np.tile(np.arange(patches), len(mosaics))
    table["split"] = parts.ravel()
    return table[COLUMNS].reset_index(drop=True)


def write_lists(table, meta, folder):
    """Write all.csv, train.csv, val.csv, test.csv where the split has one, and meta.json."""
    folder = Path(folder)
    table.to_csv(folder / "all.csv", index=False)
    for name, part in table.groupby("split"):
        if name != "unused":
            part.to_csv(folder / f"{name}.csv", index=False)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(meta, problems, out_dir, seconds):
    """The closing lines of make_sn7_csv.py."""
    counts, split = meta["counts"], meta["split"]
    skipped = Counter(problem.kind for problem in problems)
    asked = "" if split["val_fraction"] is None else f", {split['val_fraction']:g} asked for"
    test = "test" in counts
    rows = f"{counts['train']} training{',' if test else ' and'} {counts['val']} validation"
    rows += f" and {counts['test']} test" if test else ""
    lines = [
        f"{counts['aois']} AOIs, {counts['mosaics']} mosaics from {meta['months'][0]} to {meta['months'][1]}, "
        f"{counts['patches']} patches of {meta['patch_size']} x {meta['patch_size']} pixels",
        f"{len(meta['classes'])} classes ({meta['label']})",
        f"split {split['rule']}: {rows} patches ({split['achieved']:.3f} held out{asked}): {split['description']}",
        *_unused(counts, split),
        f"validation places also seen in training: {counts['location_overlap']:.1%}; validation classes never seen in "
        f"training: {counts['classes_unseen']} of {counts['val_classes']}",
        "problems left out: " + (", ".join(f"{n} x {kind}" for kind, n in sorted(skipped.items())) or "none"),
        f"channel mean {_rounded(meta['mean'])}, std {_rounded(meta['std'])} (training patches)",
        f"written to {out_dir} in {seconds:.1f} s; next:",
        "  cd vicreg && python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_sn7.py "
        f"--csv-dir {shlex.quote(str(Path(out_dir).resolve()))} --exp-dir exp/sn7 --arch resnet18",
    ]
    return "\n".join(lines)


def _unused(counts, split):
    """A line on the AOIs that the split's lists do not know, or none."""
    if "unused" not in counts:
        return []
    names = split["held_out"]["unused"]
    listed = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    aois = f"{len(names)} AOI{'s' * (len(names) > 1)}"
    return [f"in none of the published lists, so in all.csv only: {aois}, {counts['unused']} patches ({listed})"]


def _rounded(values):
    return " ".join(f"{value:.4f}" for value in values)


def publish(partial, out_dir, names=OUTPUTS):
    """Move finished outputs from ``partial`` into ``out_dir``, replacing the old ones of these names.

    meta.json goes first and comes back last: a folder without one is half replaced, and readers refuse it.
    """
    partial, out_dir = Path(partial), Path(out_dir)
    (out_dir / "meta.json").unlink(missing_ok=True)
    for name in names:
        if (partial / name).exists():
            os.replace(partial / name, out_dir / name)
        else:  # --no-pack: an old pack would not fit the new lists
            (out_dir / name).unlink(missing_ok=True)
