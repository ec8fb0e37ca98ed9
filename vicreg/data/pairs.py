"""Temporal positives: for each image, another one of the same place, found in O(1) from an index made once."""

import numpy as np


def add_arguments(group, positives="same", neighbors=False):
    """Arguments of pairs, for a script whose data knows places and months.

    Args:
        group: of an ArgumentParser. positives: the default. neighbors: images lie beside each other in a grid.
    """
    group.add_argument(
        "--positives",
        type=lambda text: text.replace("neighbour", "neighbor"),
        choices=["same", "temporal", *(["neighbor"] if neighbors else [])],
        default=positives,
        help="two views of one image, or of one place at two times"
        + (", or of two patches side by side in one mosaic" if neighbors else ""),
    )  # fmt: skip
    group.add_argument(
        "--max-months-apart", type=int, metavar="N",
        help="temporal positives at most N months apart; the nearest in time where none is (default: any)",
    )  # fmt: skip


def month_number(year, month):
    """Months since the year 0; of arrays too."""
    return year * 12 + month - 1


def build_pairs(positives, location_ids, months=None, max_months_apart=None):
    """What ``--positives`` and ``--max-months-apart`` ask for: ``TemporalPairs``, or None for "same".

    Raises:
        ValueError: the two do not go together; see also ``TemporalPairs``.
    """
    if positives == "temporal":
        return TemporalPairs(location_ids, months, max_months_apart)
    if max_months_apart is not None:
        raise ValueError(f"--max-months-apart {max_months_apart} needs two times of a place: add --positives temporal")
    return None


class TemporalPairs:
    """Which images show one place, and a choice among them.

    The images are sorted by place and month, so that the partners of each are one window of that order; the windows'
    bounds are found once, by binary search over all images together.

    Args:
        places: (n,) the place of each image, as anything that can be told apart.
        months: (n,) integers that count months (``month_number``); needed with ``max_months_apart`` only.
        max_months_apart: partners are at most so many months away, before or after; None is any. An image without such
            a partner takes the nearest in time, or one of the nearest.

    Raises:
        ValueError: a negative number of months, or no months at all.
    """

    def __init__(self, location_ids, months=None, max_months_apart=None):
        _, group = np.unique(np.asarray(location_ids), return_inverse=True)
        if max_months_apart is None:
            order = np.argsort(group, kind="stable")
            sizes = np.bincount(group)
            first = np.repeat(np.cumsum(sizes) - sizes, sizes)
            past = first + np.repeat(sizes, sizes)
        else:
            if max_months_apart < 0:
                raise ValueError(f"--max-months-apart {max_months_apart}: 0 months or more")
            if months is None:
                raise ValueError("--max-months-apart needs the month of every image, and these have none")
            order, first, past = _windows(group, np.asarray(months, np.int64), max_months_apart)
        self._members = order
        self._position = np.empty(len(group), np.int64)
        self._position[order] = np.arange(len(group))
        self._first, self._count = first[self._position], (past - first)[self._position]

    def positive_index(self, index, draw):
        """Index of another image of the same place, chosen by the number ``draw``; the image itself if it is alone."""
        count = self._count[index]
        if count == 1:
            return index
        first = self._first[index]
        step = 1 + draw % (count - 1)
        return int(self._members[first + (self._position[index] - first + step) % count])


def _windows(group, months, most):
    """Order by place and month, and the window [first, past) of that order that each place in it may choose from."""
    order = np.lexsort((months, group))
    group, months = group[order], months[order] - months.min()
    span = int(months.max()) + 1
    time = group * 2 * span + months  # one axis for all places, further apart than any two months of one place
    gaps = np.diff(time)
    same = group[1:] == group[:-1]
    nearest = np.full(len(time), span)  # months to the nearest other image of the place
    nearest[1:][same] = gaps[same]
    nearest[:-1][same] = np.minimum(nearest[:-1][same], gaps[same])
    alone = nearest == span
    radius = np.where(alone, 0, np.maximum(nearest, min(most, span - 1)))
    return order, np.searchsorted(time, time - radius, "left"), np.searchsorted(time, time + radius, "right")


class SpatialNeighborPairs:
    """Which patches of a list lie beside each other, and a choice among them.

    Args:
        mosaics: (n,) the mosaic of each patch, as anything that can be told apart.
        positions: (n,) its number in the grid, row * grid + column. grid: patches per side.
    """

    def __init__(self, mosaics, positions, grid):
        _, mosaic = np.unique(np.asarray(mosaics), return_inverse=True)
        positions = np.asarray(positions, np.int64)
        row, column = np.divmod(positions, grid)
        at = np.full((mosaic.max() + 1, grid + 2, grid + 2), -1, np.int64)  # a border, so that edges look outside
        at[mosaic, row + 1, column + 1] = np.arange(len(mosaic))
        beside = [at[mosaic, row + 1 + down, column + 1 + right] for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        beside = np.stack(beside, 1)
        self._beside = np.take_along_axis(beside, np.argsort(beside < 0, axis=1, kind="stable"), axis=1)
        self._count = (beside >= 0).sum(1)

    def positive_index(self, index, draw):
        """Index of a patch beside this one, chosen by the number ``draw``; the patch itself if none is in the list."""
        count = self._count[index]
        return int(self._beside[index, draw % count]) if count else index
