"""Which labeled samples a probe learns from, and on which it chooses."""

import numpy as np
import pytest

from vicreg.data.subsets import held_out_subset


def test_whole_places_of_every_class_are_held_out():
    labels = np.repeat([0, 1], 40)
    places = np.repeat(np.arange(20), 4)  # ten places a class, four months each
    aside = held_out_subset(labels, places, 0.1, seed=0)
    assert len(aside) == 8 and set(labels[aside]) == {0, 1}
    kept = np.setdiff1d(np.arange(80), aside)
    assert not set(places[aside]) & set(places[kept])
    assert np.array_equal(aside, held_out_subset(labels, places, 0.1, seed=0))
    assert not np.array_equal(aside, held_out_subset(labels, places, 0.1, seed=1))


def test_a_class_of_one_place_keeps_it():
    labels, places = np.array([0, 0, 0, 1, 1]), np.array([7, 7, 7, 8, 9])
    aside = held_out_subset(labels, places, 0.5, seed=0)
    assert len(aside) == 1 and labels[aside[0]] == 1


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_every_class_keeps_something_to_learn_from(share):
    labels = np.arange(30) % 6
    aside = held_out_subset(labels, np.arange(30), share, seed=3)
    assert set(np.delete(labels, aside)) == set(range(6))
