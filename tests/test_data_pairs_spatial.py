"""Spatial positives are patches that lie side by side in one mosaic."""

import numpy as np
import pytest

from vicreg.data.pairs import SpatialNeighborPairs
from vicreg.data.sn7 import SN7Patches


def chosen(pairs, index):
    return {pairs.positive_index(index, draw) for draw in range(12)}


def test_partners_are_the_patches_above_below_left_and_right():
    pairs = SpatialNeighborPairs(np.zeros(16), np.arange(16), 4)
    assert chosen(pairs, 5) == {1, 9, 4, 6}
    assert chosen(pairs, 0) == {1, 4}  # a corner has two
    assert chosen(pairs, 7) == {3, 11, 6}  # an edge three; 8 begins the next row


def test_every_neighbor_is_drawn_equally_often():
    pairs = SpatialNeighborPairs(np.zeros(16), np.arange(16), 4)
    drawn = [pairs.positive_index(5, draw) for draw in range(400)]
    assert [drawn.count(index) for index in (1, 9, 4, 6)] == [100] * 4


def test_patches_that_the_list_lacks_are_no_partners_and_other_mosaics_never_are():
    # mosaic "b" comes first; of "a" positions 0, 1 and 15 are in the list
    pairs = SpatialNeighborPairs(["b", "b", "a", "a", "a"], [0, 1, 0, 1, 15], 4)
    assert chosen(pairs, 0) == {1} and chosen(pairs, 1) == {0}
    assert chosen(pairs, 2) == {3} and chosen(pairs, 3) == {2}
    assert chosen(pairs, 4) == {4}  # alone: itself


def test_sn7_neighbors_share_the_mosaic_and_never_leave_the_training_list(sn7_prepared):
    patches = SN7Patches(sn7_prepared / "train.csv", "neighbor")
    table = patches.table
    for index in range(0, len(patches), 7):
        for draw in range(4):
            other = table.iloc[patches.positive_index(index, draw)]
            mine = table.iloc[index]
            assert (other.aoi, other.year, other.month) == (mine.aoi, mine.year, mine.month)
            assert abs(other.patch // 4 - mine.patch // 4) + abs(other.patch % 4 - mine.patch % 4) == 1
    first, second = patches[(0, 0)]
    assert not first.equal(second)


def test_months_apart_have_no_meaning_for_neighbors(sn7_prepared):
    with pytest.raises(ValueError, match="--max-months-apart 3 needs two times of a place"):
        SN7Patches(sn7_prepared / "train.csv", "neighbor", max_months_apart=3)
