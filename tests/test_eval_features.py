"""kNN, accuracy, effective rank and feature extraction, checked by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vicreg.augmentations.batch import step_generator
from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.data.base import BaseDataset
from vicreg.eval import features
from vicreg.eval.features import extract_features
from vicreg.eval.knn import knn_predict
from vicreg.eval.metrics import accuracy, effective_rank


def directions(*degrees, length=1.0):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return length * torch.stack([angles.cos(), angles.sin()], 1)


# One neighbor of class 0 is nearest, two of class 1 are a little further, one of class 2 is far.
TRAIN, LABELS, QUERY = directions(0.0, 30.0, -30.0, 90.0), torch.tensor([0, 1, 1, 2]), directions(5.0)


def test_nearest_neighbor_alone_decides_for_k_of_one():
    assert knn_predict(TRAIN, LABELS, QUERY, classes=4, k=1).tolist() == [[0, 1, 2, 3]]


def test_votes_weigh_the_exponential_of_the_cosine():
    weight = {degrees: math.exp(math.cos(math.radians(degrees)) / 0.07) for degrees in (5, 25, 35)}
    assert weight[5] > weight[25] + weight[35]
    assert knn_predict(TRAIN, LABELS, QUERY, classes=3, k=3)[0, 0] == 0
    weight = {degrees: math.exp(math.cos(math.radians(degrees)) / 0.5) for degrees in (5, 25, 35)}
    assert weight[5] < weight[25] + weight[35]
    assert knn_predict(TRAIN, LABELS, QUERY, classes=3, k=3, temperature=0.5)[0, 0] == 1


def test_more_neighbors_than_there_are_is_all_of_them():
    expected = knn_predict(TRAIN, LABELS, QUERY, classes=3, k=4, temperature=1.0)
    assert expected.tolist() == [[1, 0, 2]]
    assert torch.equal(knn_predict(TRAIN, LABELS, QUERY, classes=3, k=50, temperature=1.0), expected)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (80, 0.5)])
def test_knn_ranks_classes_as_scikit_learn_does_with_cosine_distance(k, temperature):
    random = np.random.default_rng(0)
    train, queries = random.normal(size=(80, 6)), random.normal(size=(50, 6))
    labels = random.integers(0, 7, 80)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / temperature)
    ).fit(train, labels)
    expected = np.argsort(-reference.predict_proba(queries), axis=1, kind="stable")
    tensors = (torch.tensor(values) for values in (train * 3, labels, queries * 0.2))  # lengths do not matter
    found = knn_predict(*tensors, classes=7, k=k, temperature=temperature, chunk=7)
    assert found.shape == (50, 7) and found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


def test_accuracy_counts_labels_among_the_first_guesses():
    ranked = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    labels = torch.tensor([0, 4, 0, 4])  # first, fifth, sixth, second
    assert accuracy(ranked, labels) == {"top1": 0.25, "top5": 0.75}
    assert accuracy(ranked, labels, top=(2, 6)) == {"top2": 0.5, "top6": 1.0}


def test_five_guesses_among_fewer_classes_are_always_right():
    assert accuracy(torch.tensor([[1, 0], [0, 1]]), torch.tensor([0, 0])) == {"top1": 0.5, "top5": 1.0}


def test_effective_rank_of_identical_rows_is_one():
    assert effective_rank(torch.tensor([[1.0, 2.0, 3.0]]).expand(10, 3)) == pytest.approx(1, abs=1e-4)


def test_effective_rank_of_orthonormal_rows_or_columns_is_their_number():
    basis = torch.linalg.qr(torch.randn(9, 9, generator=step_generator(0)))[0]
    for vectors, number in ((basis[:4], 4), (basis[:, :5], 5), (basis, 9)):
        assert effective_rank(vectors) == pytest.approx(number, rel=1e-4)


def test_effective_rank_of_two_equal_singular_values_is_two():
    u = torch.linalg.qr(torch.randn(8, 2, generator=step_generator(0)))[0]
    v = torch.linalg.qr(torch.randn(5, 2, generator=step_generator(1)))[0]
    assert effective_rank(7 * u @ v.T) == pytest.approx(2, rel=1e-4)


def test_effective_rank_is_the_exponential_of_the_entropy():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # of singular values 3 and 1
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_effective_rank_looks_at_no_more_rows_than_asked():
    assert effective_rank(torch.eye(6), most=3) == pytest.approx(3, rel=1e-4)


def test_effective_rank_of_nothing_but_zeros_is_one_and_of_no_numbers_none():
    assert effective_rank(torch.zeros(4, 3)) == pytest.approx(1, abs=1e-4)
    for value in (math.nan, math.inf):
        assert math.isnan(effective_rank(torch.full((4, 3), value)))


class Shades(BaseDataset):
    """Sample i is an image of the one color i."""

    def __init__(self, count=10):
        self.count = count

    def __len__(self):
        return self.count

    def images(self, indices):
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)


class Mean(torch.nn.Module):
    """Mean of each channel; notes the mode and the number of samples of each call."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append((self.training, len(images)))
        return images.mean((2, 3))


LOOK = {"size": 7, "mean": [0.0, 0.0, 0.5], "std": [1 / 255, 1.0, 1.0], "device": torch.device("cpu")}


@pytest.mark.parametrize("training", [True, False])
def test_extract_keeps_the_order_and_gives_the_backbone_its_mode_back(training):
    backbone = Mean().train(training)
    found = extract_features(backbone, Shades(), **LOOK, indices=np.array([7, 1, 9, 1, 0]), batch_size=2)
    assert backbone.training is training
    assert backbone.calls == [(False, 2), (False, 2), (False, 1)]
    assert found.dtype == torch.float32 and not found.requires_grad
    shades = torch.tensor([7.0, 1, 9, 1, 0])
    torch.testing.assert_close(found, torch.stack([shades, shades / 255, shades / 255 - 0.5], 1))


def test_extract_takes_all_samples_where_none_are_named():
    torch.testing.assert_close(extract_features(Mean(), Shades(6), **LOOK)[:, 0], torch.arange(6.0))


@pytest.mark.parametrize("processes", [2, 3, 4, 12])
def test_extract_shares_the_samples_out_and_joins_them_in_order(monkeypatch, processes):
    parts = []
    monkeypatch.setattr(features, "world_size", lambda: processes)
    monkeypatch.setattr(features, "all_gather_cat", lambda part: parts.append(part) or part)
    for rank in range(processes):
        monkeypatch.setattr(features, "rank", lambda rank=rank: rank)
        extract_features(Mean(), Shades(), **LOOK, batch_size=2)
    torch.testing.assert_close(torch.cat(parts)[:, 0], torch.arange(10.0))
    assert max(map(len, parts)) == math.ceil(10 / processes)


def test_extract_of_a_drawn_view_depends_on_its_generator():
    class Steps(Shades):
        def images(self, indices):
            ramp = torch.arange(0, 64, dtype=torch.uint8).reshape(8, 8)
            return ramp.expand(len(indices), 3, 8, 8)

    def drawn(seed):
        return extract_features(Mean(), Steps(), **LOOK, view=PROBE_VIEW, random=step_generator(seed))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert len(drawn(1).unique(dim=0)) >= 8  # each of the ten samples has a view of its own; two may coincide
