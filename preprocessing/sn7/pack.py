"""Read all mosaics once: cut patches, sum up channels, and stream the patches into one .npy file.

Memory use is a few mosaics however large the tree: files are read a few ahead, in order, and written at once. The pack
is not memory-mapped while it is written, because dirty pages of a map count as resident memory of the process.
"""

import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from preprocessing.problems import Problem
from preprocessing.sn7.index import Mosaic
from vicreg.data.raster_pack.shards import npy_header
from vicreg.data.rasters import quiet_georeference
from vicreg.data.sn7_format import CHANNELS, cut_patches, patch_side, read_mosaic


class Packed(NamedTuple):
    """Result of reading the n mosaics that could be read, with G = grid * grid patches each."""

    mosaics: list[Mosaic]  # (n,), in order
    patch_size: int  # P
    sums: np.ndarray  # int64 (n, G, 3), channel sums
    squares: np.ndarray  # int64 (n, G, 3), sums of squares
    pixels: np.ndarray  # int64 (n, G), number of pixels that are not black: without padding and no data
    problems: list[Problem]


def check_grid(grid: int, side: int) -> None:
    """Raise ValueError if a grid x grid division of side x side pixels leaves patches without pixels."""
    if (grid - 1) * patch_side(side, grid) >= side - 1:  # mosaics may be one row short
        raise ValueError(f"--grid {grid} is too fine for mosaics of {side} pixels: some patches would have no pixels")


def pack_patches(mosaics: list[Mosaic], grid: int, workers: int, path: Path | None = None) -> Packed:
    """Read every mosaic, all of one width, once, and write the patches of a grid x grid division to a .npy file.

    The file, None for none, is uint8 (rows, 3, P, P); row = index among the mosaics that could be read * G + patch.
    A mosaic whose pixels cannot be read is left out and listed in the problems.

    Raises:
        OSError: The disk has too little space.
    """
    side = patch_side(mosaics[0].width, grid) if mosaics else 0
    shape = (grid * grid, CHANNELS, side, side)
    kept, statistics, problems = [], [], []
    if path:
        needed, free = len(mosaics) * int(np.prod(shape)), shutil.disk_usage(path.parent).free
        if free < needed:
            raise OSError(f"{path} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                          "--no-pack writes no pack")  # fmt: skip
    with open(path or os.devnull, "wb") as file:
        file.write(npy_header("uint8", (0, *shape[1:])))
        results = _read_in_order(mosaics, grid, workers)
        for mosaic, read in tqdm(results, "mosaics", len(mosaics), disable=None):  # hidden without a terminal
            if isinstance(read, Problem):
                problems.append(read)
                continue
            patches, *sums = read
            kept.append(mosaic)
            statistics.append(sums)
            file.write(patches.data)
        file.seek(0)
        file.write(npy_header("uint8", (len(kept) * shape[0], *shape[1:])))  # the number of rows is known now
    sums, squares, pixels = (np.array(values) for values in zip(*statistics, strict=True)) if kept else (None,) * 3
    return Packed(kept, side, sums, squares, pixels, problems)


def _read_in_order(mosaics: list[Mosaic], grid: int, workers: int) -> Iterator[tuple[Mosaic, tuple | Problem]]:
    """Yield (mosaic, result of ``_cut``) in order, reading a bounded number ahead in threads."""
    with quiet_georeference(), ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        for mosaic in mosaics:
            ahead.append((mosaic, pool.submit(_cut, mosaic, grid)))
            if len(ahead) > 2 * workers:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()


def _cut(mosaic: Mosaic, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | Problem:
    """Read and cut one mosaic: patches, channel sums, sums of squares, numbers of pixels."""
    try:
        patches = np.ascontiguousarray(cut_patches(read_mosaic(mosaic.path), grid))
    except ValueError as error:
        return Problem("unreadable mosaic", mosaic.path, str(error).removeprefix(f"{mosaic.path}: "))
    flat = patches.reshape(*patches.shape[:2], -1)
    squares = np.square(flat, dtype=np.uint32).sum(-1, dtype=np.int64)
    return patches, flat.sum(-1, dtype=np.int64), squares, flat.any(1).sum(-1)  # black is padding or no data


def channel_statistics(packed: Packed, chosen: np.ndarray) -> tuple[list[float], list[float]]:
    """Compute the channel mean and standard deviation of the patches ``chosen``, bool (n, G), without black pixels.

    Pixels are in [0, 1]. The standard deviation is at least 1/255, because training divides by it.
    """
    count = max(1, int(packed.pixels[chosen].sum()))
    mean = packed.sums[chosen].sum(0) / count
    variance = packed.squares[chosen].sum(0) / count - mean**2  # float64: the sums are exact integers
    return (mean / 255).tolist(), (np.sqrt(np.maximum(variance, 1)) / 255).tolist()
