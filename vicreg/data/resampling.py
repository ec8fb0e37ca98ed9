"""Reduce images: by a filter, or by the means of blocks of pixels that hold data."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_STRIP_PIXELS = 2**21  # that are averaged at a time

Pixels = tuple[np.ndarray, np.ndarray]  # (C, H, W), and where they hold data, bool (H, W)


def resize(
    pixels: np.ndarray, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resize (C, H, W), or its part ``box`` (left, top, right, bottom), to (C, *shape).

    The filter is PIL's antialiased bicubic one; pixels are uint8 or uint16.
    """
    from PIL import Image

    if pixels.shape[1:] == tuple(shape) and box is None:
        return pixels
    if len(pixels) == 3 and pixels.dtype == np.uint8:
        image = Image.fromarray(pixels.transpose(1, 2, 0)).resize(shape[::-1], Image.Resampling.BICUBIC, box)
        return np.asarray(image).transpose(2, 0, 1)
    bands = [Image.fromarray(band.astype(np.float32)) for band in pixels]
    resized = np.stack([np.asarray(band.resize(shape[::-1], Image.Resampling.BICUBIC, box)) for band in bands])
    return resized.round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def read_means(read: Callable[..., Pixels], row_edges: np.ndarray, column_edges: np.ndarray) -> Pixels:
    """Average the pixels that hold data in each block of an image, a pixel across an edge by its parts.

    GDAL's own averaging takes the pixels of overviews, which may be nearest neighbors, and applies no-data values band
    by band. The image is read in strips.

    Args:
        read: Function (top, left, height, width, shape) -> pixels (C, H, W) and bool (H, W); shape is (H, W).
        row_edges: Edges of h rows of blocks, (h + 1,) ascending positions in pixels of the image.
        column_edges: Edges of w columns of blocks, (w + 1,).

    Returns:
        Rounded means (C, h, w), of the type of the pixels, and bool (h, w), False for blocks without any data.
    """
    left, right = math.floor(column_edges[0]), math.ceil(column_edges[-1])
    across = _overlaps(column_edges - left, right - left)
    rows = len(row_edges) - 1
    step = max(1, int(_STRIP_PIXELS / (right - left) / (row_edges[-1] - row_edges[0]) * rows))
    strips = []
    for start in range(0, rows, step):
        edges = row_edges[start : start + step + 1]
        top, bottom = math.floor(edges[0]), math.ceil(edges[-1])
        shape = bottom - top, right - left
        pixels, valid = read(top, left, *shape, shape)
        down = _overlaps(edges - top, bottom - top)
        weight, *sums = ((across @ (down @ band).T).T for band in (valid.astype(float), *np.where(valid, pixels, 0.0)))
        means = np.stack(sums) / np.where(weight > 0, weight, 1)
        strips.append((np.rint(means).astype(pixels.dtype), weight > 0))
    return np.concatenate([means for means, _ in strips], 1), np.concatenate([valid for _, valid in strips])


def _overlaps(edges: np.ndarray, pixels: int) -> Any:
    """Return how much of each of ``pixels`` pixels lies between neighboring edges: sparse (len(edges) - 1, pixels)."""
    from scipy.sparse import csr_array

    low, high = edges[:-1], edges[1:]
    first = np.floor(low).astype(np.int64)
    counts = np.ceil(high).astype(np.int64) - first
    ends = np.r_[0, counts.cumsum()]
    columns = np.arange(ends[-1]) + (first - ends[:-1]).repeat(counts)
    weights = np.minimum(high.repeat(counts), columns + 1) - np.maximum(low.repeat(counts), columns)
    return csr_array((weights, columns, ends), (len(low), pixels))
