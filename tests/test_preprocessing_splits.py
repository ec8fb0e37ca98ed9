"""Facts about the three split rules."""

import numpy as np
import pandas as pd
import pytest

from preprocessing.splits import (
    block_positions,
    check_arguments,
    held_out_images,
    held_out_locations,
    split_facts,
    split_mask,
)

AOIS = [name for name in "ABCDEFGH" for _ in range(6)]
LABELS = [int(index) for index in np.repeat([0, 0, 0, 1, 1, 2, 3, 4], 6)]


def test_a_quarter_of_a_4_by_4_grid_is_a_corner_quadrant_and_the_seed_picks_the_corner():
    corners = {tuple(block_positions(4, 0.25, seed)) for seed in range(30)}
    assert corners == {(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)}
    assert block_positions(4, 0.25, 7) == block_positions(4, 0.25, 7)


@pytest.mark.parametrize(("fraction", "area"), [(0.01, 1), (0.12, 2), (0.5, 8), (0.55, 9), (0.75, 12), (0.99, 12)])
def test_other_fractions_take_the_corner_rectangle_nearest_in_area(fraction, area):
    positions = block_positions(4, fraction, seed=1)
    rows, columns = {k // 4 for k in positions}, {k % 4 for k in positions}
    assert len(positions) == len(rows) * len(columns) == area  # a full rectangle
    assert max(rows) - min(rows) == len(rows) - 1 and max(columns) - min(columns) == len(columns) - 1
    assert rows & {0, 3} and columns & {0, 3}  # in a corner


def test_among_equal_areas_the_squarer_rectangle_is_held_out():
    assert {k // 6 for k in block_positions(6, 1 / 9, seed=0)} in ({0, 1}, {4, 5})  # 2 x 2, not 1 x 4


def test_the_block_is_the_same_in_every_aoi_and_month_so_no_place_is_in_both_parts():
    mask, record = split_mask("block", AOIS, LABELS, 4, 0.25, 0)
    assert (mask == mask[0]).all() and mask.mean() == record["achieved"] == 0.25


def test_a_1_by_1_grid_cannot_be_split_by_block_and_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="--grid 2 or more, or --split location or image"):
        block_positions(1, 0.25, 0)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.95])
def test_the_image_split_holds_out_whole_mosaics_and_every_class_keeps_one_for_training(fraction):
    labels = np.repeat([0, 1, 2, 3], [40, 10, 3, 1])
    held_out = held_out_images(labels, fraction, seed=3)
    for label in range(4):
        assert (~held_out[labels == label]).sum() >= 1
    assert abs(held_out.sum() - fraction * len(labels)) <= 2
    mask, _ = split_mask("image", labels, labels, 2, fraction, 3)
    assert (mask == held_out[:, None]).all()


def test_the_image_split_takes_the_same_share_of_every_class():
    labels = np.repeat([0, 1, 2], [80, 40, 20])
    assert np.bincount(labels[held_out_images(labels, 0.25, seed=0)]).tolist() == [20, 10, 5]


def test_the_image_split_refuses_where_no_class_has_a_mosaic_to_spare():
    with pytest.raises(ValueError, match="--split block"):
        held_out_images([0, 1, 2], 0.25, seed=0)


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_the_location_split_holds_out_whole_aois_at_least_one_and_never_all(fraction, count):
    names = held_out_locations(AOIS, fraction, seed=5)
    assert len(names) == count and set(names) < set(AOIS)
    mask, _ = split_mask("location", AOIS, LABELS, 2, fraction, 5)
    assert (mask == np.isin(AOIS, names)[:, None]).all()


def test_one_aoi_cannot_be_split_by_location():
    with pytest.raises(ValueError, match="only one"):
        held_out_locations(["A", "A"], 0.25, seed=0)


@pytest.mark.parametrize("rule", ["block", "image", "location"])
def test_a_split_depends_on_the_seed_alone(rule):
    masks = [split_mask(rule, AOIS, LABELS, 4, 0.25, seed)[0] for seed in (1, 1, 2, 3, 4, 5)]
    assert (masks[0] == masks[1]).all()
    assert any((masks[0] != other).any() for other in masks[2:])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="--val-fraction"):
        check_arguments("image", 4, fraction)


@pytest.mark.parametrize("grid", [0, -4])
def test_a_grid_below_1_is_refused(grid):
    with pytest.raises(ValueError, match="--grid"):
        check_arguments("image", grid, 0.25)


def test_the_facts_of_a_split_count_shared_places_and_unseen_classes():
    table = pd.DataFrame({"aoi": list("AAAB"), "patch": [0, 0, 1, 0], "label": [0, 0, 0, 1],
                          "split": ["train", "val", "train", "val"]})  # fmt: skip
    assert split_facts(table) == {"train": 2, "val": 2, "places_seen": 0.5, "val_classes": 2, "classes_unseen": 1}
