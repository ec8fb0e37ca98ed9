"""Divide scenes into windows of cells, and cut windows into patches."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vicreg.data.raster_pack.grids import Placement
from vicreg.data.raster_pack.reader import SceneReader
from vicreg.data.raster_pack.scenes import Scene
from vicreg.data.rasters import scale_values

WINDOW_BYTES = 8 * 2**20  # pixels that a thread reads at once
_CACHED_BYTES = 8 * WINDOW_BYTES  # of a row of blocks, which GDAL caches so that each block is decoded once


@dataclasses.dataclass(frozen=True)
class CutOptions:
    """How patches are cut.

    Attributes:
        patch_size: Side in pixels.
        max_nodata: Maximum fraction of a patch without data.
        dtype: "uint8" or "uint16".
        scale: (low, high) of each band, which become 0 and the maximum of ``dtype``; None stores values as they are.
        shard_bytes: Maximum size of a shard.
    """

    patch_size: int
    max_nodata: float
    dtype: str
    scale: tuple[tuple[float, float], ...] | None
    shard_bytes: int


class Window(NamedTuple):
    """Cells [row0, row1) x [column0, column1) of a scene, numbered from the anchor of its site."""

    scene: int
    row0: int
    row1: int
    column0: int
    column1: int


def covered_cells(start: int, length: int, anchor: int, patch_size: int, max_nodata: float) -> tuple[int, int]:
    """Return the range of cells along one axis of which a scene covers enough."""
    first, last = (start - anchor) // patch_size, -((anchor - start - length) // patch_size)
    missing = max_nodata * patch_size + 1e-9
    if start - (anchor + first * patch_size) > missing:
        first += 1
    if anchor + last * patch_size - (start + length) > missing:
        last -= 1
    return first, max(first, last)


def plan_windows(scenes: Sequence[Scene], placements: Sequence[Placement], options: CutOptions) -> list[list[Window]]:
    """Divide the cells of all scenes into windows, and the windows into shards, in a fixed order."""
    shards: list[list[Window]] = [[]]
    size, in_shard = options.patch_size, 0
    for index, (scene, place) in enumerate(zip(scenes, placements, strict=True)):
        columns = covered_cells(place.column, scene.width, place.anchor[0], size, options.max_nodata)
        rows = covered_cells(place.row, scene.height, place.anchor[1], size, options.max_nodata)
        pixel_bytes = len(scene.bands) * np.dtype(scene.dtype).itemsize
        cell_bytes = size * size * pixel_bytes
        across = max(1, _CACHED_BYTES // (max(scene.block[0], size) * size * pixel_bytes))
        if scene.block[1] < scene.width:  # tiles; rows would be decoded again for each part of them
            across = max(1, min(across, WINDOW_BYTES // cell_bytes))
        down = max(1, WINDOW_BYTES // (cell_bytes * min(across, max(1, columns[1] - columns[0]))))
        stored = size * size * len(scene.bands) * np.dtype(options.dtype).itemsize
        for column in range(*columns, across):
            for row in range(*rows, down):
                stop = min(row + down, rows[1]), min(column + across, columns[1])
                nbytes = (stop[0] - row) * (stop[1] - column) * stored
                if shards[-1] and in_shard + nbytes > options.shard_bytes:
                    shards.append([])
                    in_shard = 0
                shards[-1].append(Window(index, row, stop[0], column, stop[1]))
                in_shard += nbytes
    return shards if shards[-1] else []


def edge_cells(
    scenes: Sequence[Scene], placements: Sequence[Placement], shards: Sequence[Sequence[Window]], patch_size: int
) -> int:
    """Return the number of cells that scenes touch but do not cover enough."""
    planned = sum((window.row1 - window.row0) * (window.column1 - window.column0) for part in shards for window in part)
    touched = 0
    for scene, place in zip(scenes, placements, strict=True):
        axes = (place.column, scene.width, place.anchor[0]), (place.row, scene.height, place.anchor[1])
        columns, rows = (covered_cells(*axis, patch_size, 1.0) for axis in axes)
        touched += (columns[1] - columns[0]) * (rows[1] - rows[0])
    return touched - planned


class Patches(NamedTuple):
    """The n patches of a window that hold enough data, and what was counted."""

    pixels: np.ndarray  # (n, C, P, P), 0 where there is no data
    columns: np.ndarray  # (n,) first column in the grid
    rows: np.ndarray  # (n,)
    valid: np.ndarray  # (n,) number of pixels with data
    means: np.ndarray  # float64 (n, C), of the stored values with data
    squares: np.ndarray  # float64 (n, C), sums of squared deviations from these means
    digests: np.ndarray  # V16 (n,)
    dropped: int
    clipped: np.ndarray  # int64 (2,), values below and above the scale


def cut_window(reader: SceneReader, place: Placement, window: Window, options: CutOptions) -> Patches:
    """Read a window of a scene and cut it into patches.

    Raises:
        ValueError: The scene cannot be read.
    """
    size, scene = options.patch_size, reader.scene
    left, top = place.anchor[0] + window.column0 * size, place.anchor[1] + window.row0 * size  # in the grid
    down, across = window.row1 - window.row0, window.column1 - window.column0
    x0, y0 = max(0, left - place.column), max(0, top - place.row)  # in the scene
    x1 = min(scene.width, left - place.column + across * size)
    y1 = min(scene.height, top - place.row + down * size)
    pixels, valid = reader.read(x0, y0, x1 - x0, y1 - y0)
    pixels, clipped = _scale(pixels, valid, options)
    if (y1 - y0, x1 - x0) != (down * size, across * size):  # the edge of the scene
        west, north = x0 + place.column - left, y0 + place.row - top
        margins = (north, down * size - north - (y1 - y0)), (west, across * size - west - (x1 - x0))
        pixels, valid = np.pad(pixels, ((0, 0), *margins)), np.pad(valid, margins)
    blocks = pixels.reshape(-1, down, size, across, size).transpose(1, 3, 0, 2, 4)
    mask = valid.reshape(down, size, across, size).transpose(0, 2, 1, 3)
    counts = mask.sum((2, 3))
    kept = np.argwhere((counts >= (1 - options.max_nodata) * size * size - 1e-6) & (counts > 0))
    patches = np.ascontiguousarray(blocks[tuple(kept.T)])
    if not valid.all():
        patches *= mask[tuple(kept.T)][:, None]
    used = counts[tuple(kept.T)]
    means, squares = _moments(patches, used)
    digests = np.array([hashlib.sha256(patch.data).digest()[:16] for patch in patches], "V16")
    return Patches(patches, left + kept[:, 1] * size, top + kept[:, 0] * size, used, means, squares, digests,
                   down * across - len(kept), clipped)  # fmt: skip


def _scale(pixels: np.ndarray, valid: np.ndarray, options: CutOptions) -> tuple[np.ndarray, np.ndarray]:
    """Convert pixels to the stored type; also count the values below and above the scale."""
    if options.scale is None:
        return pixels, np.zeros(2, np.int64)
    clipped, top = np.zeros(2, np.int64), np.iinfo(options.dtype).max
    result = np.empty(pixels.shape, options.dtype)
    for band, scaled, (low, high) in zip(pixels, result, options.scale, strict=True):
        values = np.where(valid, band, low).astype(np.float64)
        clipped += (values < low).sum(), (values > high).sum()
        scaled[:] = scale_values(values, low, high, top)
    return result, clipped


def _moments(patches: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each channel of each patch, and the sum of squared deviations; zeros are no data or zero."""
    is_small = patches.dtype == np.uint8 and patches.shape[-1] <= 256  # sums of a row are integers below 2^24
    sums, squares = np.empty((2, *patches.shape[:2]), np.float64)
    for index in np.ndindex(sums.shape):  # a band fits the cache of a core
        rows = patches[index].astype(np.float32 if is_small else np.float64)  # exact: integers below 2^53
        sums[index] = rows.sum(1).sum(dtype=np.float64)
        squares[index] = (rows[:, None] @ rows[:, :, None]).sum(dtype=np.float64)
    means = sums / counts[:, None]
    return means, np.maximum(squares - counts[:, None] * means**2, 0)
