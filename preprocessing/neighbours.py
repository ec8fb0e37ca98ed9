"""Spatial positives: for each patch, one beside it in the same mosaic, found in O(1) from an index made once.

Near places look alike more often than far ones: Jean et al. 2019, "Tile2Vec: Unsupervised Representation Learning for
Spatially Distributed Data", section 3.
"""

import numpy as np


class NeighbourPairs:
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

    def partner(self, index, draw):
        """Index of a patch beside this one, chosen by the number ``draw``; the patch itself if none is in the list."""
        count = self._count[index]
        return int(self._beside[index, draw % count]) if count else index
