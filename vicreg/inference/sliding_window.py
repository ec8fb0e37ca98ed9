"""Labelling images of any size with a network that sees squares: overlapping windows, blended, in bounded memory."""

import math

import numpy as np
import torch

PANEL = 4096  # columns worked on at a time


def label_blocks(read, height, width, predict, side, overlap=0.5, batch=4, panel=PANEL):
    """Label an image a block at a time, from left to right in panels, each from top to bottom.

    Probabilities of the windows that cover a pixel are averaged, weighted by how far it is from the window's border.
    What is held is one row of windows of one panel, whatever the image's size.

    Args:
        read: function (top, left, height, width) -> uint8 array (3, height, width), inside the image.
        height, width: of the image. predict: function of uint8 tensors (n, 3, side, side) -> float tensors
            (n, classes, side, side) of probabilities, two classes or more.
        side: of the windows; smaller images are padded.
        overlap: share of a window that the next one covers too. batch: windows at a time. panel: columns.

    Yields:
        (top, left, labels): labels uint8 (rows, columns); the blocks tile the image.
    """
    stride = max(1, round(side * (1 - overlap)))
    tops, lefts = window_starts(height, side, stride), window_starts(width, side, stride)
    weight = _weight(side)
    for begin in range(0, width, panel):
        end = min(width, begin + panel)
        mine = [left for left in lefts if left < end and left + side > begin]
        sums, first = None, 0  # weighted probabilities of the rows from ``first``
        for place, top in enumerate(tops):
            rows = min(side, height - top)
            for some in (mine[n : n + batch] for n in range(0, len(mine), batch)):
                windows = [_window(read, top, left, rows, min(side, width - left), side) for left in some]
                found = predict(torch.from_numpy(np.stack(windows))).float().cpu().numpy() * weight
                if sums is None:
                    sums = np.zeros((found.shape[1], min(side, height), end - begin), np.float32)
                for left, one in zip(some, found, strict=True):
                    low, high = max(left, begin), min(left + side, end)
                    at = top - first
                    sums[:, at : at + rows, low - begin : high - begin] += one[:, :rows, low - left : high - left]
            done = tops[place + 1] if place + 1 < len(tops) else height
            yield first, begin, sums[:, : done - first].argmax(0).astype(np.uint8)
            sums = np.concatenate([sums[:, done - first :], np.zeros_like(sums[:, : done - first])], 1)
            first = done


def window_starts(extent, side, stride):
    """Where windows of ``side`` begin along ``extent`` pixels so that all are covered; [0] where one is enough."""
    if extent <= side:
        return [0]
    return [*range(0, extent - side, stride), extent - side]


def label_image(image, predict, side, overlap=0.5):
    """Label a whole image: uint8 (3, height, width) -> uint8 (height, width); see ``label_blocks``."""
    labels = np.empty(image.shape[1:], np.uint8)
    for top, left, block in label_blocks(_from(image), *labels.shape, predict, side, overlap):
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
    return labels


def _from(image):
    return lambda top, left, height, width: image[:, top : top + height, left : left + width]


def _weight(side):
    """A pyramid, (side, side), nowhere zero."""
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / (side / 2)
    return np.outer(ramp, ramp).astype(np.float32)


def _window(read, top, left, rows, columns, side):
    part = read(top, left, rows, columns)
    return np.pad(part, ((0, 0), (0, side - rows), (0, side - columns)), mode="edge")


def cell_window_starts(length, window, stride):
    """First pixel of the window for each cell along one axis.

    Each cell covers ``stride`` pixels, and its window is centered on it; at the edges windows are moved inside.
    """
    cells = np.arange(math.ceil(length / stride))
    return (cells * stride + (stride - window) // 2).clip(0, length - window)
