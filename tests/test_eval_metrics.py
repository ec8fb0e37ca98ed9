"""Metrics of features and of classifications, checked by hand."""

import math

import numpy as np
import pytest
import torch

from vicreg.common.random_streams import torch_rng
from vicreg.eval import clustering, metrics
from vicreg.eval.classification import per_class_metrics
from vicreg.eval.clustering import clustering_metrics, kmeans
from vicreg.eval.metrics import accuracy, effective_rank


def test_accuracy_counts_labels_among_the_first_guesses():
    ranked = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    labels = torch.tensor([0, 4, 0, 4])  # first, fifth, sixth, second
    assert accuracy(ranked, labels) == {"top1": 0.25, "top5": 0.75}
    assert accuracy(ranked, labels, topk=(2, 6)) == {"top2": 0.5, "top6": 1.0}


def test_five_guesses_among_fewer_classes_are_always_right():
    assert accuracy(torch.tensor([[1, 0], [0, 1]]), torch.tensor([0, 0])) == {"top1": 0.5, "top5": 1.0}


def test_effective_rank_of_identical_rows_is_one():
    assert effective_rank(torch.tensor([[1.0, 2.0, 3.0]]).expand(10, 3)) == pytest.approx(1, abs=1e-4)


def test_effective_rank_of_orthonormal_rows_or_columns_is_their_number():
    basis = torch.linalg.qr(torch.randn(9, 9, generator=torch_rng(0, "test")))[0]
    for vectors, number in ((basis[:4], 4), (basis[:, :5], 5), (basis, 9)):
        assert effective_rank(vectors) == pytest.approx(number, rel=1e-4)


def test_effective_rank_of_two_equal_singular_values_is_two():
    u = torch.linalg.qr(torch.randn(8, 2, generator=torch_rng(0, "test")))[0]
    v = torch.linalg.qr(torch.randn(5, 2, generator=torch_rng(1, "test")))[0]
    assert effective_rank(7 * u @ v.T) == pytest.approx(2, rel=1e-4)


def test_effective_rank_is_the_exponential_of_the_entropy():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # of singular values 3 and 1
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_effective_rank_looks_at_no_more_rows_than_asked():
    assert effective_rank(torch.eye(6), max_samples=3) == pytest.approx(3, rel=1e-4)


def test_effective_rank_of_nothing_but_zeros_is_one_and_of_no_numbers_none():
    assert effective_rank(torch.zeros(4, 3)) == pytest.approx(1, abs=1e-4)
    for value in (math.nan, math.inf):
        assert math.isnan(effective_rank(torch.full((4, 3), value)))


def test_alignment_and_uniformity_by_hand():
    unit = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])
    assert metrics.alignment(unit, np.array([[0, 1], [0, 2]])) == pytest.approx((2 + 4) / 2)
    # six pairs: four at right angles (squared distance 2), two opposite (4)
    expected = np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6)
    assert metrics.uniformity(unit, chunk=3) == pytest.approx(expected, rel=1e-5)
    assert metrics.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)


def test_positives_are_of_one_place_and_loners_have_none():
    location_ids = np.array([0, 1, 0, 2, 0, 1])
    pairs = metrics.positive_pairs(location_ids)
    assert pairs[:, 0].tolist() == [0, 1, 2, 4, 5] and (location_ids[pairs[:, 0]] == location_ids[pairs[:, 1]]).all()
    assert len(metrics.positive_pairs(np.arange(4))) == 0


def test_an_interval_is_the_binomials():
    right = np.arange(400) < 100
    low, high = metrics.bootstrap_ci(right, resamples=4000)
    spread = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert low == pytest.approx(0.25 - spread, abs=0.004) and high == pytest.approx(0.25 + spread, abs=0.004)
    assert metrics.bootstrap_ci(np.ones(5)).tolist() == [1, 1]
    np.testing.assert_array_equal(metrics.bootstrap_ci(right), metrics.bootstrap_ci(right))
    both = metrics.bootstrap_ci(np.stack([right, ~right], 1))
    np.testing.assert_allclose(both[:, 0], 1 - both[::-1, 1])  # the same draws
    with pytest.raises(ValueError, match="no samples"):
        metrics.bootstrap_ci([])


def test_whole_places_make_wider_intervals_where_their_samples_are_alike():
    right, location_ids = np.repeat(np.arange(40) % 4 == 0, 25), np.repeat(np.arange(40), 25)
    naive, whole = metrics.bootstrap_ci(right), metrics.bootstrap_ci(right, location_ids)
    assert np.ptp(whole) / np.ptp(naive) == pytest.approx(5, rel=0.15)  # the root of 25 copies
    np.testing.assert_allclose(whole, metrics.bootstrap_ci(right[::25]))  # what the places alone say
    uneven = metrics.bootstrap_ci(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1]))
    assert uneven.tolist() == [0, 1]  # two draws of two places: 0, 3/4 or 1


def test_macro_f1_is_scikit_learns_if_classes_are_absent():
    from sklearn.metrics import f1_score

    classes, labels = [str(n) for n in range(10)], torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8])
    perfect = torch.eye(10)[labels]
    assert per_class_metrics(perfect, labels, classes)["macro_f1"] == 1.0  # class 9 is in neither
    predicted = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9])
    result = per_class_metrics(torch.eye(10)[predicted], labels, classes)
    assert result["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6) == 0.8
    assert result["per_class"]["9"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_kmeans_takes_the_best_of_ten_initializations_and_depends_on_the_seed(monkeypatch):
    centers = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    labels = np.repeat(np.arange(24), 8)
    features = centers[labels] + 0.12 * np.random.default_rng(1).normal(size=(len(labels), 24))
    clusters = [kmeans(features, 24, seed) for seed in range(4)]
    assert [clustering_metrics(found, labels)["ari"] for found in clusters] == [1.0] * 4
    assert not np.array_equal(clusters[0], clusters[1])
    monkeypatch.setattr(clustering, "_MINI_BATCH_ABOVE", 0)
    assert not np.array_equal(kmeans(features, 24, 0), kmeans(features, 24, 1))


def test_one_location_has_no_interval():
    found = metrics.intervals({"top1": np.array([True, False, True])}, np.zeros(3))
    assert found == {"intervals": {}, "intervals_of": "none: all samples show one location"}
