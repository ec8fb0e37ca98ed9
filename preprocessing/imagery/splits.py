"""Split rules of imagery: which patches are held out for validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from vicreg.data.subsets import check_fraction, held_out_groups

RULES = ("block", "location", "image", "folders", "none")
BLOCK_CELLS = (8, 4, 2, 1)  # sides of a block: the largest that gives enough blocks


def split_table(
    table: pd.DataFrame, labels: np.ndarray, rule: str, fraction: float, seed: int, buffer: int, patch_size: int,
    parts_of_files: Sequence[str] | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:  # fmt: skip
    """Apply a split rule.

    Args:
        table: Patch list with the columns image_id, site, grid, column and line.
        labels: Label of each patch, -1 for none.
        rule: "block" holds out square blocks of cells of each site in all scenes, with ``buffer`` cells around them in
            neither part, also those of other sites of the grid; "location" whole sites; "image" whole files, in each
            class, that of most of their labeled patches; "folders" as ``parts_of_files`` says; "none" nothing.
        fraction: Fraction to hold out.
        seed: Seed of the choice.
        buffer: Cells left out around the blocks.
        patch_size: Side of a cell in pixels.
        parts_of_files: Part of each patch, for "folders".

    Returns:
        Part of each patch, "train", "val" or "unused", and a record of plain values.

    Raises:
        ValueError: The rule leaves nothing to hold out or to train on.
    """
    parts = np.full(len(table), "train", dtype="U6")
    record: dict[str, Any] = {"rule": rule}
    if rule == "none":
        return parts, record
    if rule == "folders":
        assert parts_of_files is not None
        parts[:] = ["unused" if part == "test" else part for part in parts_of_files]
        if "val" not in parts:
            parts[np.array(parts_of_files) == "test"] = "val"
    else:
        check_fraction(fraction)
        record |= {"val_fraction": fraction, "seed": seed}
        if rule == "block":
            parts, side = _blocks(table, fraction, seed, buffer, patch_size)
            record |= {"block_cells": side, "buffer": buffer}
        elif rule == "location":
            parts[held_out_groups(table.site, fraction, seed)] = "val"
        else:
            parts[_images(table.image_id, labels, fraction, seed)] = "val"
    for part in ("train", "val"):
        if part not in parts:
            advice = {"location": "there is one site only; use --split block or image",
                      "image": "there is one file only in each class; use --split block",
                      "block": "too few cells; use a smaller --buffer, --split image or none"}  # fmt: skip
            raise ValueError(f"--split {rule} leaves no patch in {part}: {advice.get(rule, 'see the folders')}. The "
                             "patches are kept, so the next call takes seconds")  # fmt: skip
    record["achieved"] = float((parts == "val").sum() / np.isin(parts, ("train", "val")).sum())
    return parts, record


def _images(image_id: pd.Series, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Hold out whole files; return which patches are held out."""
    has_label = pd.Series(labels >= 0, image_id.index)
    rows = has_label | ~has_label.groupby(image_id).transform("any")
    held_out = held_out_groups(image_id[rows], fraction, seed, labels[rows])
    return image_id.isin(image_id[rows][held_out]).to_numpy()


def _blocks(table: pd.DataFrame, fraction: float, seed: int, buffer: int, patch_size: int) -> tuple[np.ndarray, int]:
    """Hold out whole blocks; return the part of each patch and the side of the blocks in cells."""
    first = table.groupby("site")[["column", "line"]].transform("min")
    column, line = ((table[key] - first[key]).to_numpy() // patch_size for key in ("column", "line"))
    for side in BLOCK_CELLS:
        blocks = table.site + ":" + (column // side).astype(str) + ":" + (line // side).astype(str)
        if blocks.nunique() * min(fraction, 1 - fraction) >= 2:
            break
    parts = np.full(len(table), "train", dtype="U6")
    held_out = held_out_groups(blocks, fraction, seed)
    parts[held_out] = "val"
    if buffer:
        corners = table[["column", "line"]].to_numpy()
        # cells of a grid share coordinates, whatever their site; without a georeference, those of a site do
        for rows in table.groupby(["grid", table.site.where(table.grid < 0, "")]).indices.values():
            cells, is_held_out = corners[rows], held_out[rows]
            if is_held_out.any():
                distance, _ = cKDTree(np.unique(cells[is_held_out], axis=0)).query(cells, p=np.inf)
                parts[rows[(distance < (buffer + 1) * patch_size) & ~is_held_out]] = "unused"
    return parts, side
