"""Rules that choose samples: label fractions, held-out images, and held-out groups."""

import numpy as np
import pytest

from vicreg.data.subsets import (
    check_fraction,
    held_out_groups,
    held_out_images,
    stratified_subset,
)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_check_fraction_refuses_the_limits_and_names_the_option(fraction):
    with pytest.raises(ValueError, match="--val-fraction is .*above 0 and below 1"):
        check_fraction(fraction)


def test_stratified_subset_takes_the_fraction_of_each_class_and_at_least_one():
    labels = np.repeat([0, 1, 2], [200, 40, 3])
    chosen = stratified_subset(labels, 0.1, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [20, 4, 1]
    assert np.array_equal(chosen, np.unique(chosen))
    assert not np.array_equal(chosen, stratified_subset(labels, 0.1, seed=1))
    assert np.array_equal(stratified_subset(labels, 1, seed=0), np.arange(243))


def test_held_out_images_takes_the_same_fraction_of_each_class():
    labels = np.repeat([0, 1, 2], [80, 40, 20])
    held_out = held_out_images(labels, 0.25, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [20, 10, 5]
    assert np.array_equal(held_out, held_out_images(labels, 0.25, seed=0))
    assert not np.array_equal(held_out, held_out_images(labels, 0.25, seed=1))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.6, 0.99])
def test_held_out_images_meets_the_total_and_leaves_each_class_one_image(fraction):
    labels = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    held_out = held_out_images(labels, fraction, seed=2)
    assert set(labels[~held_out]) == set(range(10))
    assert held_out.sum() == min(max(1, round(55 * fraction)), 45)


def test_held_out_images_refuses_classes_of_one_image():
    with pytest.raises(ValueError, match="every class has one image only"):
        held_out_images([0, 1, 2], 0.25, seed=0)


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_held_out_groups_takes_whole_groups_at_least_one_and_never_all(fraction, count):
    groups = np.array([name for name in "ABCDEFGH" for _ in range(6)])
    held_out = held_out_groups(groups, fraction, seed=5)
    assert len(set(groups[held_out])) == count
    assert not set(groups[held_out]) & set(groups[~held_out])


def test_held_out_groups_does_not_depend_on_the_order_of_the_samples():
    groups = np.arange(60) % 12
    order = np.random.default_rng(0).permutation(60)
    assert np.array_equal(held_out_groups(groups[order], 0.3, 1), held_out_groups(groups, 0.3, 1)[order])


def test_held_out_groups_takes_the_fraction_of_the_groups_of_each_class():
    labels = np.repeat([0, 1], 40)
    groups = np.repeat(np.arange(20), 4)  # ten groups per class, four samples each
    held_out = held_out_groups(groups, 0.3, 0, labels)
    assert [len(set(groups[held_out & (labels == label)])) for label in (0, 1)] == [3, 3]
    assert not set(groups[held_out]) & set(groups[~held_out])


def test_held_out_groups_keeps_groups_of_several_classes_together():
    groups, labels = np.repeat(np.arange(40), 5), np.tile([0, 1, 1, 2, 2], 40)
    labels[:100] = np.tile([0, 0, 1, 2, 0], 20)
    held_out = held_out_groups(groups, 0.25, 0, labels).reshape(40, 5)
    assert (held_out.all(1) == held_out.any(1)).all()
    assert held_out[:20].any(1).sum() == held_out[20:].any(1).sum() == 5  # most frequent: 0, and 2 of 1 and 2


def test_held_out_groups_takes_text_columns_of_many_groups(monkeypatch):
    groups = np.array([f"0-{number}" for number in range(300)], object)
    expected = held_out_groups(groups.astype(str), 0.2, 0)
    monkeypatch.delattr(np, "isin")  # compares every pair of objects
    assert np.array_equal(held_out_groups(groups, 0.2, 0), expected) and expected.sum() == 60


def test_held_out_groups_keeps_a_single_group():
    assert not held_out_groups(["A", "A"], 0.25, seed=0).any()
    held_out = held_out_groups([7, 7, 7, 8, 9], 0.5, 0, labels=[0, 0, 0, 1, 1])
    assert held_out[:3].sum() == 0 and held_out[3:].sum() == 1


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_held_out_groups_leaves_each_class_samples_to_train_on(fraction):
    labels = np.arange(30) % 6
    held_out = held_out_groups(np.arange(30), fraction, 3, labels)
    assert set(labels[~held_out]) == set(labels[held_out]) == set(range(6))


def test_held_out_groups_depends_on_the_seed_alone():
    labels, location_ids = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
    held_out = held_out_groups(location_ids, 0.1, 0, labels)
    assert np.array_equal(held_out, held_out_groups(location_ids, 0.1, 0, labels))
    assert not np.array_equal(held_out, held_out_groups(location_ids, 0.1, 1, labels))
