"""Temporal positives: for each image, another one of the same place, found in O(1) from an index made once."""

import numpy as np


class TemporalPairs:
    """Which images show one place, and a choice among them.

    Args:
        places: (n,) the place of each image, as anything that can be told apart.
    """

    def __init__(self, places):
        _, group = np.unique(np.asarray(places), return_inverse=True)
        self._members = np.argsort(group, kind="stable")
        sizes = np.bincount(group)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._start, self._count = starts[group], sizes[group]
        self._place = np.empty(len(group), np.int64)
        self._place[self._members] = np.arange(len(group)) - np.repeat(starts, sizes)

    def partner(self, index, draw):
        """Index of another image of the same place, chosen by the number ``draw``; the image itself if it is alone."""
        count = self._count[index]
        if count == 1:
            return index
        step = 1 + draw % (count - 1)
        return int(self._members[self._start[index] + (self._place[index] + step) % count])
