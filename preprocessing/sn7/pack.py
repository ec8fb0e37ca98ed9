"""One pass over the pixels: cut every mosaic, sum up its channels, and stream its patches into one .npy file.

Memory stays at a few mosaics however large the tree: files are read a few ahead, in order, and written at once. The
pack is not a memory map while it is written, because dirty pages of a map count as the process's own memory.
"""

import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocessing.problems import Problem
from vicreg.data.sn7_format import CHANNELS, cut_patches, patch_side, read_mosaic
from vicreg.inference.rasters import quiet_georeference

_HEADER_BYTES = 128


class Packed(NamedTuple):
    """What the pass found. n mosaics that could be read, G = grid * grid patches each."""

    mosaics: list  # the n mosaics, in order
    patch_size: int  # P
    sums: np.ndarray  # (n, G, 3) int64, channel sums
    squares: np.ndarray  # (n, G, 3) int64, sums of squares
    pixels: np.ndarray  # (n, G) int64, pixels that are not padding
    problems: list  # of Problem


def check_grid(grid, side):
    """Raise ValueError where a grid x grid division of side x side pixels leaves patches without a pixel."""
    if (grid - 1) * patch_side(side, grid) >= side - 1:  # the last row may have to do without one pixel
        raise ValueError(f"--grid {grid} is too fine for mosaics of {side} pixels: some patches would have no pixel")


def pack_patches(mosaics, grid, workers, path=None, progress=lambda iterator: iterator):
    """Read every mosaic once, and write all patches to ``path`` unless that is None.

    Args:
        mosaics: list of scan.Mosaic, all of one width. grid: patches per side. workers: threads that read.
        path: .npy file to write, uint8 (rows, 3, P, P); row = place of the mosaic among those read * G + patch.
        progress: wraps the iterator over mosaics.

    Returns:
        Packed; a mosaic whose pixels cannot be read is left out and reported in its problems.

    Raises:
        OSError: the disk has not room enough.
    """
    side = patch_side(mosaics[0].width, grid) if mosaics else 0
    shape = (grid * grid, CHANNELS, side, side)
    kept, statistics, problems = [], [], []
    if path is not None:
        _check_room(path, len(mosaics) * int(np.prod(shape)))
    with open(path, "wb") if path is not None else nullcontext() as file:
        if file:
            file.write(_npy_header((0, *shape[1:])))
        for mosaic, read in progress(_in_order(mosaics, grid, workers)):
            if isinstance(read, Problem):
                problems.append(read)
                continue
            patches, *sums = read
            kept.append(mosaic)
            statistics.append(sums)
            if file:
                file.write(patches.data)
        if file:  # only now is the number of rows known
            file.seek(0)
            file.write(_npy_header((len(kept) * shape[0], *shape[1:])))
    sums, squares, pixels = (np.array(values) for values in zip(*statistics, strict=True)) if kept else (None,) * 3
    return Packed(kept, side, sums, squares, pixels, problems)


def _in_order(mosaics, grid, workers):
    """Yield (mosaic, its cut or Problem) in order, reading a bounded number ahead in threads."""
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


def _cut(mosaic, grid):
    """Read and cut one mosaic -> patches, channel sums, sums of squares, pixels; or Problem."""
    try:
        patches = np.ascontiguousarray(cut_patches(read_mosaic(mosaic.path), grid))
    except ValueError as error:
        return Problem("unreadable mosaic", mosaic.path, str(error).removeprefix(f"{mosaic.path}: "))
    flat = patches.reshape(*patches.shape[:2], -1)
    squares = np.square(flat, dtype=np.uint32).sum(-1, dtype=np.int64)  # zero padding adds nothing to either sum
    starts = np.arange(grid) * patches.shape[-1]
    rows, columns = (np.clip(size - starts, 0, patches.shape[-1]) for size in (mosaic.height, mosaic.width))
    return patches, flat.sum(-1, dtype=np.int64), squares, np.outer(rows, columns).ravel()


def channel_statistics(packed, chosen):
    """Mean and standard deviation of each channel over some patches, of pixels in [0, 1], padding excluded.

    Args:
        packed: Packed. chosen: bool (n, G).

    Returns:
        two lists of CHANNELS floats. A constant channel gets 1/255, not 0: training divides by it.
    """
    count = int(packed.pixels[chosen].sum())
    mean = packed.sums[chosen].sum(0) / count
    variance = packed.squares[chosen].sum(0) / count - mean**2  # float64: the sums are exact integers
    return (mean / 255).tolist(), (np.sqrt(np.maximum(variance, 1)) / 255).tolist()


def _npy_header(shape):
    """A .npy header of fixed length, so that the number of rows can be filled in at the end."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(map(int, shape))}, }}"
    body = text.ljust(_HEADER_BYTES - 11).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def _check_room(path, needed):
    free = shutil.disk_usage(Path(path).parent).free
    if free < needed:
        raise OSError(f"{needed / 1e9:.1f} GB needed for {path}, {free / 1e9:.1f} GB free; --no-pack does without")
