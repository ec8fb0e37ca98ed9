"""Split rules: which patches are held out for validation.

`block`: a corner of every AOI in every month, so that no location is in both parts. `location`: whole AOIs. `image`:
random mosaics, so that every validation location is in the training part too. `published`: the AOI lists of doi
10.3390/rs15215135, with a test part, for comparison with other work.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vicreg.data.subsets import check_fraction, held_out_groups, held_out_images

RULES = ("block", "image", "location", "published")
PARTS = ("train", "val", "test", "unused")  # values of the column split; unused patches are in all.csv only
VAL_FRACTION = 0.25  # default of the random rules
PUBLISHED = Path(__file__).with_name("published_split.csv")


def check_arguments(rule: str, grid: int, fraction: float | None) -> float | None:
    """Return the fraction to use: ``VAL_FRACTION`` for None, and None for the published split.

    Raises:
        ValueError: An argument is out of range, whatever the tree.
    """
    if grid < 1:
        raise ValueError(f"--grid {grid}: must be at least 1")
    if rule == "published":
        return None
    fraction = VAL_FRACTION if fraction is None else fraction
    check_fraction(fraction)
    if rule == "block":
        block_positions(grid, fraction, seed=0)
    return fraction


def block_positions(grid: int, fraction: float, seed: int) -> list[int]:
    """Return the sorted patch numbers (row * grid + column) of one corner rectangle of a grid x grid division.

    The rectangle is the one whose area is nearest to ``fraction``; of equal areas, the one nearest to a square. The
    seed chooses the corner.

    Raises:
        ValueError: A 1 x 1 grid cannot be divided.
    """
    if grid == 1:
        raise ValueError("--split block holds out part of each AOI's grid, and a 1 x 1 grid has no parts; "
                         "use --grid 2 or more, or --split location or image")  # fmt: skip
    sizes = [(h, w) for h in range(1, grid + 1) for w in range(1, grid + 1) if h * w < grid * grid]
    target = fraction * grid * grid
    height, width = min(sizes, key=lambda size: (round(abs(size[0] * size[1] - target), 9), abs(size[0] - size[1])))
    # not a named stream: a seed gives the same split as in published results
    south, east = divmod(int(np.random.default_rng(seed).integers(4)), 2)
    top, left = south * (grid - height), east * (grid - width)
    return [row * grid + column for row in range(top, top + height) for column in range(left, left + width)]


def published_parts(aois: Sequence[str]) -> list[str]:
    """Return the part of each AOI in the published lists, of ``PARTS``; an AOI that is in no list is ``unused``.

    Raises:
        ValueError: The tree has no AOI of the training or of the validation list.
    """
    listed = dict(pd.read_csv(PUBLISHED, comment="#").itertuples(index=False))
    parts = [listed.get(aoi, "unused") for aoi in aois]
    if missing := [part for part in ("train", "val") if part not in parts]:
        known = len(set(aois) & set(listed))
        raise ValueError(f"--split published lists {len(listed)} AOIs, {known} of them in this tree and none in its "
                         f"{' or '.join(missing)} part; use --split block, location or image")  # fmt: skip
    return parts


def split_parts(
    rule: str, aois: Sequence[str], labels: Sequence[int], grid: int, fraction: float | None, seed: int | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Apply a split rule to mosaics.

    Args:
        rule: One of ``RULES``.
        aois: AOI name of each of the n mosaics.
        labels: Class of each mosaic.
        grid: Patches per side.
        fraction: Fraction to hold out; not used by ``published``.
        seed: Random seed; not used by ``published``.

    Returns:
        Array (n, grid * grid) of ``PARTS``, and a record of plain values: rule, requested and achieved fraction of
        the training and validation patches, seed, and what was held out.
    """
    parts = np.full((len(aois), grid * grid), "train", dtype="U6")
    if rule == "block":
        held_out = block_positions(grid, fraction, seed)
        parts[:, held_out] = "val"
        description = f"patch positions {held_out} of every AOI in every month"
    elif rule == "location":
        mask = held_out_groups(aois, fraction, seed)
        if not mask.any():
            raise ValueError("--split location holds out whole AOIs, and there is only one; use --split block or image")
        parts[mask] = "val"
        held_out = sorted(set(np.asarray(aois)[mask].tolist()))
        description = f"{len(held_out)} whole AOIs"
    elif rule == "image":
        if len(set(labels)) == len(labels):
            raise ValueError("--split image keeps a training mosaic of every class, and every class has only one; "
                             "use --split block")  # fmt: skip
        chosen = held_out_images(labels, fraction, seed)
        parts[chosen] = "val"
        held_out, description = int(chosen.sum()), f"{chosen.sum()} mosaics, stratified by class"
    else:
        listed = published_parts(aois)
        parts[:] = np.array(listed)[:, None]
        held_out = {part: sorted({aoi for aoi, each in zip(aois, listed, strict=True) if each == part})
                    for part in PARTS[1:]}  # fmt: skip
        description = f"{len(held_out['val'])} whole AOIs, and {len(held_out['test'])} for testing "
        description += "(doi 10.3390/rs15215135)"
        fraction = seed = None
    achieved = (parts == "val").sum() / np.isin(parts, ("train", "val")).sum()
    record = {"rule": rule, "val_fraction": fraction, "achieved": float(achieved), "seed": seed,
              "held_out": held_out, "description": description}  # fmt: skip
    return parts, record


def split_facts(table: pd.DataFrame) -> dict[str, Any]:
    """Count what a split separates in a patch list with the columns aoi, patch, label and split.

    Returns:
        dict: rows of train and val (test and unused if there are any), location_overlap (fraction of the validation
        locations (aoi, patch) that are in training too), val_classes, classes_unseen (those without a training row).
    """
    train, val = (table[table.split == name] for name in ("train", "val"))
    train_ids, val_ids = (set(zip(part.aoi, part.patch, strict=True)) for part in (train, val))
    classes = set(val.label)
    more = {part: int(n) for part in PARTS[2:] if (n := (table.split == part).sum())}
    return {"train": len(train), "val": len(val), **more,
            "location_overlap": len(val_ids & train_ids) / max(1, len(val_ids)),
            "val_classes": len(classes), "classes_unseen": len(classes - set(train.label))}  # fmt: skip
