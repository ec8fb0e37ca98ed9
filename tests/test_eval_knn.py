"""Weighted kNN, checked by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vicreg.eval import knn
from vicreg.eval.knn import knn_predict, nearest_neighbors, weighted_vote
from vicreg.eval.metrics import accuracy


def directions(*degrees, length=1.0):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return length * torch.stack([angles.cos(), angles.sin()], 1)


# One neighbor of class 0 is nearest, two of class 1 are a little further, one of class 2 is far.
TRAIN, LABELS, QUERY = directions(0.0, 30.0, -30.0, 90.0), torch.tensor([0, 1, 1, 2]), directions(5.0)


def test_knn_predict_with_one_neighbor_gives_its_class_and_no_other():
    assert knn_predict(TRAIN, LABELS, QUERY, num_classes=4, k=1).tolist() == [[0, -1, -1, -1]]


def test_weighted_vote_does_not_count_classes_without_a_vote():
    labels = torch.arange(10)
    ranked = weighted_vote(torch.ones(10, 1), labels[:, None].roll(1, 0), num_classes=10)
    assert accuracy(ranked, labels) == {"top1": 0.0, "top5": 0.0}  # one vote each, for another class
    ranked = weighted_vote(torch.ones(10, 2), torch.stack([labels.roll(1), labels], 1), num_classes=10)
    assert accuracy(ranked, labels)["top5"] == 1.0


def test_weighted_vote_orders_equal_votes_by_class():
    ranked = weighted_vote(torch.ones(1, 4), torch.tensor([[6, 2, 9, 2]]), num_classes=10)
    assert ranked[0].tolist() == [2, 6, 9] + [-1] * 7


def test_votes_weigh_the_exponential_of_the_cosine():
    weight = {degrees: math.exp(math.cos(math.radians(degrees)) / 0.07) for degrees in (5, 25, 35)}
    assert weight[5] > weight[25] + weight[35]
    assert knn_predict(TRAIN, LABELS, QUERY, num_classes=3, k=3)[0, 0] == 0
    weight = {degrees: math.exp(math.cos(math.radians(degrees)) / 0.5) for degrees in (5, 25, 35)}
    assert weight[5] < weight[25] + weight[35]
    assert knn_predict(TRAIN, LABELS, QUERY, num_classes=3, k=3, temperature=0.5)[0, 0] == 1


def test_more_neighbors_than_there_are_is_all_of_them():
    expected = knn_predict(TRAIN, LABELS, QUERY, num_classes=3, k=4, temperature=1.0)
    assert expected.tolist() == [[1, 0, 2]]
    assert torch.equal(knn_predict(TRAIN, LABELS, QUERY, num_classes=3, k=50, temperature=1.0), expected)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (80, 0.5)])
def test_knn_ranks_classes_as_scikit_learn_does_with_cosine_distance(k, temperature):
    random = np.random.default_rng(0)
    train, queries = random.normal(size=(80, 6)), random.normal(size=(50, 6))
    labels = random.integers(0, 7, 80)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / temperature)
    ).fit(train, labels)
    probs = reference.predict_proba(queries)
    expected = np.argsort(-probs, axis=1, kind="stable")
    expected[np.take_along_axis(probs, expected, 1) == 0] = -1
    tensors = (torch.tensor(values) for values in (train * 3, labels, queries * 0.2))  # lengths do not matter
    found = knn_predict(*tensors, num_classes=7, k=k, temperature=temperature)
    assert found.shape == (50, 7) and found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_nearest_come_first_with_their_cosines():
    train, query = torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), torch.tensor([[5.0, 0.0]])
    cosine, found = nearest_neighbors(train, query, 9)
    assert found.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(cosine, torch.tensor([[1.0, 0.5**0.5, 0.0]]))


def test_nearest_neighbors_are_found_in_blocks_of_the_training_samples(monkeypatch):
    train, queries = torch.randn(40, 6), torch.randn(9, 6)
    whole, sizes, matmul = nearest_neighbors(train, queries, 7), [], torch.Tensor.__matmul__
    monkeypatch.setattr(knn, "_BLOCK", 5)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sizes.append(b.shape) or matmul(a, b))
    found = nearest_neighbors(train, queries, 7, chunk=4)
    assert set(sizes) == {(6, 5)}
    torch.testing.assert_close(found[0], whole[0])
    assert torch.equal(found[1], whole[1])


def test_weighted_vote_ranks_equal_votes_by_class():
    ranked = weighted_vote(torch.ones(1, 500), torch.randperm(500)[None], num_classes=500)
    assert ranked[0].tolist() == list(range(500))
