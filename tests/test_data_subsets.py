"""Subsets of labeled samples: percentages of each class, and held-out locations."""

import numpy as np
import pytest
import torch

from vicreg.data.subsets import held_out_subset, stratified_subset


def test_whole_places_of_every_class_are_held_out():
    labels = np.repeat([0, 1], 40)
    location_ids = np.repeat(np.arange(20), 4)  # ten places a class, four months each
    held_out = held_out_subset(labels, location_ids, 0.1, seed=0)
    assert len(held_out) == 8 and set(labels[held_out]) == {0, 1}
    kept = np.setdiff1d(np.arange(80), held_out)
    assert not set(location_ids[held_out]) & set(location_ids[kept])
    assert np.array_equal(held_out, held_out_subset(labels, location_ids, 0.1, seed=0))
    assert not np.array_equal(held_out, held_out_subset(labels, location_ids, 0.1, seed=1))


def test_a_class_of_one_place_keeps_it():
    labels, location_ids = np.array([0, 0, 0, 1, 1]), np.array([7, 7, 7, 8, 9])
    held_out = held_out_subset(labels, location_ids, 0.5, seed=0)
    assert len(held_out) == 1 and labels[held_out[0]] == 1


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_every_class_keeps_something_to_learn_from(share):
    labels = np.arange(30) % 6
    held_out = held_out_subset(labels, np.arange(30), share, seed=3)
    assert set(np.delete(labels, held_out)) == set(range(6))


def test_one_percent_is_one_percent_of_each_class_and_at_least_one():
    labels = np.repeat([0, 1, 2, 3], [300, 1000, 5, 1])[np.random.default_rng(0).permutation(1306)]
    chosen = stratified_subset(labels, 0.01, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 10, 1, 1]
    assert (np.diff(chosen) > 0).all()  # sorted, none twice
    np.testing.assert_array_equal(stratified_subset(torch.tensor(labels), 0.01, seed=0), chosen)
    assert stratified_subset(labels, 0.01, seed=1).tolist() != chosen.tolist()
    np.testing.assert_array_equal(stratified_subset(labels, 1.0, seed=0), np.arange(1306))
