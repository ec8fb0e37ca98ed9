"""Which patches are held out for validation: four rules, and what each keeps apart.

`block`: a corner of every AOI, in every month: no place is in both parts. `location`: whole AOIs, so that no
neighborhood is in both. `image`: single months, so that every validation place is in the training part too.
`published`: the AOI lists of doi 10.3390/rs15215135, with a test part, so that figures can be set beside others'.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from vicreg.data.subsets import check_fraction, held_out_groups, held_out_images

RULES = ("block", "image", "location", "published")
PARTS = ("train", "val", "test", "unused")  # what the column split holds; unused is in all.csv only
VAL_FRACTION = 0.25  # of the rules that draw
PUBLISHED = Path(__file__).with_name("published_split.csv")


def check_arguments(rule, grid, fraction, seed=0):
    """Raise ValueError for what no tree can satisfy, before any work is done.

    Returns:
        the fraction to use: ``VAL_FRACTION`` for None, and None where the rule leaves nothing to choose.
    """
    if grid < 1:
        raise ValueError(f"--grid is {grid}; at least 1 is needed")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; 0 or more is needed")
    if rule == "published":
        return None
    fraction = VAL_FRACTION if fraction is None else fraction
    check_fraction(fraction)
    if rule == "block":
        block_positions(grid, fraction, seed)
    return fraction


def block_positions(grid, fraction, seed):
    """Patch positions of one corner rectangle of the grid.

    The rectangle is the one nearest to ``fraction`` in area, among those the one nearest to a square; the seed picks
    the corner.

    Args:
        grid: patches per side. fraction: share of the positions, 0..1. seed: integer.

    Returns:
        sorted list of patch numbers (row * grid + column).

    Raises:
        ValueError: a 1 x 1 grid cannot be divided.
    """
    check_fraction(fraction)
    if grid == 1:
        raise ValueError("--split block holds out part of each AOI's grid, and a 1 x 1 grid has no parts; "
                         "use --grid 2 or more, or --split location or image")  # fmt: skip
    sizes = [(h, w) for h in range(1, grid + 1) for w in range(1, grid + 1) if h * w < grid * grid]
    target = fraction * grid * grid
    height, width = min(sizes, key=lambda size: (round(abs(size[0] * size[1] - target), 9), abs(size[0] - size[1])))
    south, east = divmod(int(np.random.default_rng(seed).integers(4)), 2)
    top, left = south * (grid - height), east * (grid - width)
    return [row * grid + column for row in range(top, top + height) for column in range(left, left + width)]


def published_parts(aois, path=PUBLISHED):
    """Part of each AOI in the published lists.

    Args:
        aois: names. path: CSV aoi,split with a comment above.

    Returns:
        list of PARTS, as long as ``aois``; an AOI that is in no list is ``unused``.

    Raises:
        ValueError: the tree has nothing to train on, or nothing to validate on.
    """
    parts = dict(pd.read_csv(path, comment="#").itertuples(index=False))
    found = [parts.get(aoi, "unused") for aoi in aois]
    missing = [part for part in ("train", "val") if part not in found]
    if missing:
        known = len(set(aois) & set(parts))
        raise ValueError(f"--split published lists {len(parts)} AOIs, {known} of them in this tree and none in its "
                         f"{' or '.join(missing)} part; use --split block, location or image")  # fmt: skip
    return found


def split_parts(rule, aois, labels, grid, fraction, seed):
    """Apply one of ``RULES`` to mosaics.

    Args:
        rule: name. aois, labels: AOI name and class of each mosaic, both of length n. grid: patches per side.
        fraction: share held out. seed: integer. (``published`` uses neither.)

    Returns:
        array of PARTS (n, grid * grid), and the rule's record: rule, requested and achieved fraction (of training and
        validation patches), seed, and what was held out, as plain values.
    """
    parts = np.full((len(aois), grid * grid), "train", dtype="U6")
    if rule == "block":
        what = block_positions(grid, fraction, seed)
        parts[:, what] = "val"
        described = f"patch positions {what} of every AOI in every month"
    elif rule == "location":
        held_out = held_out_groups(aois, fraction, seed)
        if not held_out.any():
            raise ValueError("--split location holds out whole AOIs, and there is only one; use --split block or image")
        parts[held_out] = "val"
        what = sorted(set(np.asarray(aois)[held_out].tolist()))
        described = f"{len(what)} whole AOIs"
    elif rule == "image":
        if len(set(labels)) == len(labels):
            raise ValueError("--split image keeps a training mosaic of every class, and every class has one mosaic "
                             "only; use --split block")  # fmt: skip
        chosen = held_out_images(labels, fraction, seed)
        parts[chosen] = "val"
        what, described = int(chosen.sum()), f"{chosen.sum()} mosaics, drawn class by class"
    elif rule == "published":
        found = published_parts(aois)
        parts[:] = np.array(found)[:, None]
        what = {part: sorted({aoi for aoi, its in zip(aois, found, strict=True) if its == part}) for part in PARTS[1:]}
        described = f"{len(what['val'])} whole AOIs, and {len(what['test'])} for testing (doi 10.3390/rs15215135)"
        fraction = seed = None  # nothing was drawn
    else:
        raise ValueError(f"no split rule {rule!r}; there are {', '.join(RULES)}")
    achieved = (parts == "val").sum() / np.isin(parts, ("train", "val")).sum()
    record = {"rule": rule, "val_fraction": fraction, "achieved": float(achieved), "seed": seed,
              "held_out": what, "description": described}  # fmt: skip
    return parts, record


def split_facts(table):
    """What a split keeps apart, read from the finished list.

    Args:
        table: DataFrame with the columns aoi, patch, country, label, split.

    Returns:
        dict: train, val (rows; test and unused where there are any), location_overlap (share of the validation places
        (aoi, patch) that are in training too), val_classes, classes_unseen (validation classes without a training row).
    """
    train, val = (table[table.split == name] for name in ("train", "val"))
    train_places, places = (set(zip(part.aoi, part.patch, strict=True)) for part in (train, val))
    classes = set(val.label)
    more = {part: int(n) for part in PARTS[2:] if (n := (table.split == part).sum())}
    return {"train": len(train), "val": len(val), **more,
            "location_overlap": len(places & train_places) / max(1, len(places)),
            "val_classes": len(classes), "classes_unseen": len(classes - set(train.label))}  # fmt: skip
