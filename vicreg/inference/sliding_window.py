"""Apply a network of a fixed input size to images of any size: overlapping windows, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch

from vicreg.data.rasters import NO_DATA, ImageReader

MIN_VALID = 0.5  # fraction of the window of a cell that must hold data
PANEL = 4096  # columns of dense labels that are held at a time


class WindowBatch(NamedTuple):
    """Windows of one row.

    Attributes:
        row: Index of the row of windows.
        columns: Indices of the windows in that row.
        top: First pixel row of the windows.
        lefts: First pixel column of each window.
        images: uint8 or uint16 (n, C, side, side).
        valid: Bool (n, side, side), False where there is no data and outside the image.
    """

    row: int
    columns: Sequence[int]
    top: int
    lefts: Sequence[int]
    images: np.ndarray
    valid: np.ndarray


def read_windows(
    reader: ImageReader,
    tops: Sequence[int],
    lefts: Sequence[int],
    side: int,
    batch_size: int = 1,
    pad_mode: Literal["edge", "constant"] = "edge",
) -> Iterator[WindowBatch]:
    """Read square windows row by row; what a batch covers is read once.

    Args:
        reader: Image or raster.
        tops: First pixel row of each row of windows.
        lefts: First pixel column of each window of a row, ascending.
        side: Side of the windows in pixels; windows are padded where the image ends.
        batch_size: Largest number of windows in a batch.
        pad_mode: Mode of ``np.pad``: "edge", or "constant" for black.
    """
    for row, top in enumerate(tops):
        rows = min(side, reader.height - top)
        for start in range(0, len(lefts), batch_size):
            columns = range(start, min(start + batch_size, len(lefts)))
            left, right = lefts[columns[0]], min(lefts[columns[-1]] + side, reader.width)
            pixels, valid = reader.read(top, left, rows, right - left)
            pad = ((0, side - rows), (0, lefts[columns[-1]] + side - right))
            pixels, valid = np.pad(pixels, ((0, 0), *pad), mode=pad_mode), np.pad(valid, pad)
            offsets = [lefts[column] - left for column in columns]
            images = np.stack([pixels[:, :, offset : offset + side] for offset in offsets])
            masks = np.stack([valid[:, offset : offset + side] for offset in offsets])
            yield WindowBatch(row, columns, top, [lefts[column] for column in columns], images, masks)


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Return where windows start along one axis: every ``stride`` pixels, the last one flush with the end.

    Raises:
        ValueError: ``stride`` is not between 1 and ``side``.
    """
    if not 1 <= stride <= side:
        raise ValueError(f"a stride of {stride} pixels with windows of {side}: 1 to {side} is needed")
    return [0] if length <= side else [*range(0, length - side, stride), length - side]


def cell_window_starts(length: int, side: int, stride: int) -> list[int]:
    """Return the start of the window of each cell along one axis.

    Each cell covers ``stride`` pixels, and its window is centered on it; at the edges windows are moved inside.

    Raises:
        ValueError: The image is smaller than a window.
    """
    if length < side:
        raise ValueError(f"{length} pixels are less than one window of {side}; choose a smaller --window")
    cells = np.arange(math.ceil(length / stride))
    return (cells * stride + (stride - side) // 2).clip(0, length - side).tolist()


def core_edges(starts: Sequence[int], side: int, length: int) -> list[float]:
    """Return the borders between the windows along one axis: the middle of each overlap.

    Window n is responsible for positions from edge n to edge n + 1, so that each detection counts once.
    """
    return [0, *((start + side + following) / 2 for start, following in pairwise(starts)), length]


def label_blocks(
    reader: ImageReader,
    predict: Callable[[torch.Tensor], torch.Tensor],
    side: int,
    overlap: float = 0.5,
    batch_size: int = 4,
    panel: int = PANEL,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Predict a label for each pixel, from left to right in panels of columns, each from top to bottom.

    The probabilities of the windows that cover a pixel are averaged with weights that fall toward the borders of the
    window. One row of windows of one panel is held in memory.

    Args:
        reader: Image or raster.
        predict: Function of uint8 tensors (n, C, side, side) -> probabilities (n, classes, side, side), classes > 1.
        side: Side of the windows in pixels; smaller images are padded.
        overlap: Fraction of a window that the next one covers too, below 1.
        batch_size: Windows in a batch.
        panel: Columns of a panel.

    Yields:
        (top, left, labels): uint8 (rows, columns), ``NO_DATA`` where the image is invalid; the blocks tile the image.
    """
    height, width = reader.height, reader.width
    stride = max(1, round(side * (1 - overlap)))
    tops, lefts = window_starts(height, side, stride), window_starts(width, side, stride)
    weight = _pyramid(side)
    for begin in range(0, width, panel):
        end = min(width, begin + panel)
        panel_lefts = [left for left in lefts if left < end and left + side > begin]
        sums: np.ndarray | None = None  # weighted probabilities of the rows from the current ``top``
        valid = np.zeros((min(side, height), end - begin), bool)
        for batch in read_windows(reader, tops, panel_lefts, side, batch_size):
            rows = min(side, height - batch.top)
            probabilities = predict(torch.from_numpy(batch.images)).float().cpu().numpy() * weight
            if sums is None:
                sums = np.zeros((probabilities.shape[1], *valid.shape), np.float32)
            for left, values, mask in zip(batch.lefts, probabilities, batch.valid, strict=True):
                low, high = max(left, begin), min(left + side, end)
                here, there = np.s_[..., :rows, low - begin : high - begin], np.s_[..., :rows, low - left : high - left]
                sums[here] += values[there]
                valid[here] |= mask[there]
            if batch.columns[-1] + 1 < len(panel_lefts):
                continue
            done = (tops[batch.row + 1] if batch.row + 1 < len(tops) else height) - batch.top
            labels = sums[:, :done].argmax(0).astype(np.uint8)
            yield batch.top, begin, np.where(valid[:done], labels, np.uint8(NO_DATA))
            sums = np.concatenate([sums[:, done:], np.zeros_like(sums[:, :done])], 1)
            valid = np.concatenate([valid[done:], np.zeros_like(valid[:done])])


def label_image(
    image: np.ndarray, predict: Callable[[torch.Tensor], torch.Tensor], side: int, overlap: float = 0.5
) -> np.ndarray:
    """Predict a label for each pixel of an image in memory: uint8 (C, H, W) -> uint8 (H, W); see ``label_blocks``."""
    labels = np.empty(image.shape[1:], np.uint8)
    for top, left, block in label_blocks(ImageReader(image), predict, side, overlap):
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
    return labels


def compute_cells(
    reader: ImageReader,
    compute: Callable[[np.ndarray], np.ndarray],
    side: int,
    stride: int,
    batch_size: int = 256,
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]:
    """Apply a function to the window around each cell of ``stride`` pixels.

    Args:
        reader: Image or raster, at least as large as a window.
        compute: Function of arrays (n, C, side, side) -> results (n, ...).
        side: Side of the windows in pixels.
        stride: Side of the cells in pixels.
        batch_size: Windows in a batch.

    Yields:
        (row, column, usable, results): bool (cells), False without enough data, and the results of the usable cells,
        None if there are none; from top to bottom.
    """
    tops, lefts = (cell_window_starts(length, side, stride) for length in (reader.height, reader.width))
    for batch in read_windows(reader, tops, lefts, side, batch_size):
        usable = batch.valid.mean((1, 2)) >= MIN_VALID
        yield batch.row, batch.columns[0], usable, compute(batch.images[usable]) if usable.any() else None


def classify_cells(
    reader: ImageReader, classify: Callable[[np.ndarray], np.ndarray], side: int, stride: int, batch_size: int = 256
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Classify the window around each cell of ``stride`` pixels; see ``compute_cells``.

    Yields:
        (row, column, labels): uint8 (1, cells), ``NO_DATA`` without enough data; the blocks tile the map from top to
        bottom.
    """
    for row, column, usable, classes in compute_cells(reader, classify, side, stride, batch_size):
        labels = np.full((1, len(usable)), NO_DATA, np.uint8)
        if classes is not None:
            labels[0, usable] = classes
        yield row, column, labels


def _pyramid(side: int) -> np.ndarray:
    """Return blending weights (side, side), nowhere zero."""
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / (side / 2)
    return np.outer(ramp, ramp).astype(np.float32)
