"""Positives from another image: the same location at another time, or a neighboring patch. Found in O(1)."""

from typing import Any

import numpy as np
import numpy.typing as npt


def add_arguments(group: Any, positives: str = "same", neighbors: bool = False) -> None:
    """Add the options of positive pairs; with ``neighbors``, images lie in a grid and "neighbor" is a choice."""
    group.add_argument(
        "--positives",
        type=lambda text: text.replace("neighbour", "neighbor"),
        choices=["same", "temporal", *(["neighbor"] if neighbors else [])],
        default=positives,
        help="two views of one image, or of one location at two times"
        + (", or of two adjacent patches of one mosaic" if neighbors else ""),
    )
    group.add_argument(
        "--max-months-apart", type=int, metavar="N",
        help="temporal positives at most N months apart, or the nearest in time if there is none; None: any",
    )  # fmt: skip


def month_number(year: Any, month: Any) -> Any:
    """Return the number of months since year 0; of arrays too."""
    return year * 12 + month - 1


class TemporalPairs:
    """Index of the images of each location, and a choice among them.

    The images are sorted by location and month, so the candidates of each image are one window of that order. The
    limits of the windows are found once, by binary search over all images together.

    Args:
        location_ids: Location of each image (n,), as anything that can be compared.
        months: Month of each image (n,), integers of ``month_number``; needed for ``max_months_apart`` only.
        max_months_apart: Maximum distance in months, before or after; None for any. An image without such a candidate
            takes one of the nearest in time.

    Raises:
        ValueError: The number of months is negative, or the months are missing.
    """

    def __init__(
        self, location_ids: npt.ArrayLike, months: npt.ArrayLike | None = None, max_months_apart: int | None = None
    ):
        _, location = np.unique(np.asarray(location_ids), return_inverse=True)
        if max_months_apart is None:
            order = np.argsort(location, kind="stable")
            sizes = np.bincount(location)
            start = np.repeat(np.cumsum(sizes) - sizes, sizes)
            stop = start + np.repeat(sizes, sizes)
        else:
            if max_months_apart < 0:
                raise ValueError(f"--max-months-apart {max_months_apart}: 0 months or more are needed")
            if months is None:
                raise ValueError("--max-months-apart needs the month of every image, and these have none")
            order, start, stop = _windows(location, np.asarray(months, np.int64), max_months_apart)
        self._order = order
        self._position = np.empty(len(location), np.int64)
        self._position[order] = np.arange(len(location))
        self._start, self._count = start[self._position], (stop - start)[self._position]

    def positive_index(self, index: int, sample_seed: int) -> int:
        """Return another image of the same location, chosen by ``sample_seed``; the image itself if it is alone."""
        count = self._count[index]
        if count == 1:
            return index
        start = self._start[index]
        step = 1 + sample_seed % (count - 1)
        return int(self._order[start + (self._position[index] - start + step) % count])


def _windows(location: np.ndarray, months: np.ndarray, max_months: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order by location and month, and the window [start, stop) of candidates at each position of it."""
    order = np.lexsort((months, location))
    location, months = location[order], months[order] - months.min()
    span = int(months.max()) + 1
    time = location * 2 * span + months  # one axis: locations are further apart than any two months of one location
    gaps = np.diff(time)
    same = location[1:] == location[:-1]
    nearest = np.full(len(time), span)  # months to the nearest other image of the location
    nearest[1:][same] = gaps[same]
    nearest[:-1][same] = np.minimum(nearest[:-1][same], gaps[same])
    alone = nearest == span
    radius = np.where(alone, 0, np.maximum(nearest, min(max_months, span - 1)))
    return order, np.searchsorted(time, time - radius, "left"), np.searchsorted(time, time + radius, "right")


class SpatialNeighborPairs:
    """Index of the adjacent patches of each patch, and a choice among them.

    Args:
        mosaics: Mosaic of each patch (n,), as anything that can be compared.
        positions: Position of each patch in the grid (n,), row * grid + column.
        grid: Patches per side.
    """

    def __init__(self, mosaics: npt.ArrayLike, positions: npt.ArrayLike, grid: int):
        _, mosaic = np.unique(np.asarray(mosaics), return_inverse=True)
        row, column = np.divmod(np.asarray(positions, np.int64), grid)
        index_at = np.full((mosaic.max() + 1, grid + 2, grid + 2), -1, np.int64)  # with a border of missing patches
        index_at[mosaic, row + 1, column + 1] = np.arange(len(mosaic))
        offsets = ((-1, 0), (1, 0), (0, -1), (0, 1))
        neighbors = np.stack([index_at[mosaic, row + 1 + down, column + 1 + right] for down, right in offsets], 1)
        missing_last = np.argsort(neighbors < 0, axis=1, kind="stable")
        self._neighbors = np.take_along_axis(neighbors, missing_last, axis=1)
        self._count = (neighbors >= 0).sum(1)

    def positive_index(self, index: int, sample_seed: int) -> int:
        """Return an adjacent patch, chosen by ``sample_seed``; the patch itself if none is in the list."""
        count = self._count[index]
        return int(self._neighbors[index, sample_seed % count]) if count else index


def build_pairs(
    positives: str,
    location_ids: npt.ArrayLike,
    months: npt.ArrayLike | None = None,
    max_months_apart: int | None = None,
) -> TemporalPairs | None:
    """Return the pairs of ``--positives`` and ``--max-months-apart``; None for "same".

    Raises:
        ValueError: The two options do not fit; see also ``TemporalPairs``.
    """
    if positives == "temporal":
        return TemporalPairs(location_ids, months, max_months_apart)
    if max_months_apart is not None:
        raise ValueError(f"--max-months-apart {max_months_apart} is for temporal positives: add --positives temporal")
    return None
