"""Facts about the split rules: three that draw, and the published lists."""

import numpy as np
import pandas as pd
import pytest

from preprocessing.sn7.splits import (
    PUBLISHED,
    block_positions,
    check_arguments,
    published_parts,
    split_facts,
    split_parts,
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
    parts, record = split_parts("block", AOIS, LABELS, 4, 0.25, 0)
    assert (parts == parts[0]).all() and (parts == "val").mean() == record["achieved"] == 0.25


def test_a_1_by_1_grid_cannot_be_split_by_block_and_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="--grid 2 or more, or --split location or image"):
        block_positions(1, 0.25, 0)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.95])
def test_the_image_split_holds_out_whole_mosaics_and_every_class_keeps_one_for_training(fraction):
    labels = np.repeat([0, 1, 2, 3], [40, 10, 3, 1])
    parts, _ = split_parts("image", labels, labels, 2, fraction, 3)
    held_out = (parts == "val").all(1)
    assert ((parts == "val") == held_out[:, None]).all()
    for label in range(4):
        assert (~held_out[labels == label]).sum() >= 1
    assert abs(held_out.sum() - fraction * len(labels)) <= 2


def test_the_image_split_refuses_where_no_class_has_a_mosaic_to_spare():
    with pytest.raises(ValueError, match="--split block"):
        split_parts("image", ["A", "B", "C"], [0, 1, 2], 2, 0.25, 0)


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_the_location_split_holds_out_whole_aois_at_least_one_and_never_all(fraction, count):
    parts, record = split_parts("location", AOIS, LABELS, 2, fraction, 5)
    names = record["held_out"]
    assert len(names) == count and set(names) < set(AOIS) and names == sorted(names)
    assert ((parts == "val") == np.isin(AOIS, names)[:, None]).all()


def test_one_aoi_cannot_be_split_by_location():
    with pytest.raises(ValueError, match="only one"):
        split_parts("location", ["A", "A"], [0, 0], 2, 0.25, 0)


@pytest.mark.parametrize("rule", ["block", "image", "location"])
def test_a_split_depends_on_the_seed_alone(rule):
    parts = [split_parts(rule, AOIS, LABELS, 4, 0.25, seed)[0] for seed in (1, 1, 2, 3, 4, 5)]
    assert (parts[0] == parts[1]).all()
    assert any((parts[0] != other).any() for other in parts[2:])


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
    assert split_facts(table) == {"train": 2, "val": 2, "location_overlap": 0.5, "val_classes": 2, "classes_unseen": 1}


TRAIN, VAL, TEST = "L15-0331E-1257N_1327_3160_13", "L15-1014E-1375N_4056_2688_13", "L15-1025E-1366N_4102_2726_13"
NOWHERE = "L15-0571E-1075N_2287_3888_13"


def test_the_published_lists_have_30_training_15_validation_and_14_test_aois_and_none_twice():
    table = pd.read_csv(PUBLISHED, comment="#")
    assert table.split.value_counts().to_dict() == {"train": 30, "val": 15, "test": 14}
    assert table.aoi.is_unique and NOWHERE not in set(table.aoi)
    assert "10.3390/rs15215135" in PUBLISHED.read_text().splitlines()[1]


def test_the_published_split_holds_out_whole_aois_and_what_it_does_not_know_is_unused():
    parts, record = split_parts("published", [TRAIN, TRAIN, VAL, TEST, NOWHERE], [0, 0, 1, 1, 2], 2, None, 9)
    assert parts.tolist() == [[part] * 4 for part in ("train", "train", "val", "test", "unused")]
    assert record["achieved"] == pytest.approx(1 / 3) and record["val_fraction"] is record["seed"] is None
    assert record["held_out"] == {"val": [VAL], "test": [TEST], "unused": [NOWHERE]}


@pytest.mark.parametrize(
    ("aois", "words"),
    [(["A", "B"], "0 of them in this tree and none in its train or val part"), ([TRAIN, TEST], "none in its val part")],
)
def test_a_tree_without_published_training_or_validation_aois_is_refused(aois, words):
    with pytest.raises(ValueError, match=f"{words}; use --split block"):
        published_parts(aois)


def test_a_fraction_is_for_the_rules_that_draw():
    assert check_arguments("published", 4, 0.3) is None
    assert check_arguments("block", 4, None) == 0.25 and check_arguments("image", 4, 0.1) == 0.1
