"""Spatial positives: adjacent patches of one mosaic."""

import numpy as np
import pytest

from vicreg.data.pairs import SpatialNeighborPairs
from vicreg.data.sn7 import SN7Patches


def positives_of(pairs, index):
    return {pairs.positive_index(index, sample_seed) for sample_seed in range(12)}


def test_neighbor_pairs_are_the_four_adjacent_patches():
    pairs = SpatialNeighborPairs(np.zeros(16), np.arange(16), 4)
    assert positives_of(pairs, 5) == {1, 9, 4, 6}
    assert positives_of(pairs, 0) == {1, 4}  # a corner has two
    assert positives_of(pairs, 7) == {3, 11, 6}  # an edge three; 8 begins the next row


def test_neighbor_pairs_choose_uniformly():
    pairs = SpatialNeighborPairs(np.zeros(16), np.arange(16), 4)
    drawn = [pairs.positive_index(5, sample_seed) for sample_seed in range(400)]
    assert [drawn.count(index) for index in (1, 9, 4, 6)] == [100] * 4


def test_neighbor_pairs_exclude_missing_patches_and_other_mosaics():
    # mosaic "b" comes first; of "a" positions 0, 1 and 15 are in the list
    pairs = SpatialNeighborPairs(["b", "b", "a", "a", "a"], [0, 1, 0, 1, 15], 4)
    assert positives_of(pairs, 0) == {1} and positives_of(pairs, 1) == {0}
    assert positives_of(pairs, 2) == {3} and positives_of(pairs, 3) == {2}
    assert positives_of(pairs, 4) == {4}  # alone: itself


def test_sn7_neighbor_pairs_stay_in_the_mosaic_and_the_list(sn7_prepared):
    patches = SN7Patches(sn7_prepared / "train.csv", "neighbor")
    table = patches.table
    for index in range(0, len(patches), 7):
        for sample_seed in range(4):
            other = table.iloc[patches.positive_index(index, sample_seed)]
            mine = table.iloc[index]
            assert (other.aoi, other.year, other.month) == (mine.aoi, mine.year, mine.month)
            assert abs(other.patch // 4 - mine.patch // 4) + abs(other.patch % 4 - mine.patch % 4) == 1
    first, second = patches[(0, 0)]
    assert not first.equal(second)


def test_sn7_neighbor_pairs_refuse_max_months_apart(sn7_prepared):
    with pytest.raises(ValueError, match="--max-months-apart 3 is for temporal positives"):
        SN7Patches(sn7_prepared / "train.csv", "neighbor", max_months_apart=3)
