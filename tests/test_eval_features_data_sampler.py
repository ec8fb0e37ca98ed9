"""kNN, accuracy and rank are what they are by hand and elsewhere; batches are counted, whole and can be made again."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from vicreg.augmentations.batch import step_generator
from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.data import sampler
from vicreg.data.sampler import ResumableBatchSampler, epoch_order
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


class Shades:
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


def test_epoch_keys_are_a_permutation_and_numbers_in_63_bits():
    order, draws = epoch_order(50, seed=1, epoch=2)
    assert sorted(order) == list(range(50)) and len(set(draws)) == 50
    assert draws.dtype == np.int64 and draws.min() >= 0 and draws.max() > 2**60


def test_epoch_keys_depend_on_the_seed_and_the_epoch_alone():
    first = epoch_order(50, 1, 2)
    np.random.seed(0)
    for mine, again in zip(first, epoch_order(50, 1, 2), strict=True):
        np.testing.assert_array_equal(mine, again)
    for other in ((2, 2), (1, 3), (2, 1)):
        for mine, theirs in zip(first, epoch_order(50, *other), strict=True):
            assert (mine != theirs).any()


def test_every_epoch_is_each_sample_once_in_an_order_of_its_own():
    batches = list(ResumableBatchSampler(12, 4, seed=0, steps=9))
    assert [len(batch) for batch in batches] == [4] * 9
    epochs = [[index for batch in batches[n : n + 3] for index, _ in batch] for n in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    order, draws = epoch_order(12, 0, 1)
    assert batches[3] == list(zip(order[:4].tolist(), draws[:4].tolist(), strict=True))


def test_what_does_not_fill_a_batch_is_dropped_and_no_sample_comes_twice():
    batches = list(ResumableBatchSampler(11, 4, seed=0, steps=4))
    for epoch in (batches[:2], batches[2:]):
        assert len({index for batch in epoch for index, _ in batch}) == 8
    assert ResumableBatchSampler(11, 4, seed=0, steps=4).steps_per_epoch == 2


@pytest.mark.parametrize("start", range(10))
def test_a_run_that_starts_anywhere_has_the_keys_of_the_whole_run(start):
    whole = list(ResumableBatchSampler(11, 4, seed=3, steps=9))
    rest = ResumableBatchSampler(11, 4, seed=3, steps=9, start=start)
    assert list(rest) == whole[start:] and len(rest) == 9 - start


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_shares_of_the_processes_join_to_the_batch_of_one(processes):
    whole = list(ResumableBatchSampler(20, 6, seed=3, steps=7))
    shares = [ResumableBatchSampler(20, 6, 3, 7, rank=rank, world_size=processes) for rank in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {6 // processes}
        assert sum(parts, []) == batch


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="7 samples do not fill a batch of 8; lower --batch-size"):
        ResumableBatchSampler(7, 8, seed=0, steps=1)
    assert len(list(ResumableBatchSampler(8, 8, seed=0, steps=3))) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_hands_each_batch_of_keys_to_the_data_set_whole(workers):
    class Keys(torch.utils.data.Dataset):
        def __getitems__(self, keys):
            return torch.tensor(keys)

    batches = ResumableBatchSampler(5, 2, seed=0, steps=4)
    found = list(sampler.build_loader(Keys(), batches, workers, torch.device("cpu")))
    assert [batch.tolist() for batch in found] == [[list(key) for key in batch] for batch in batches]


def test_a_process_that_fails_ends_although_its_workers_ignore_the_signal_to_end(repo_root):
    code = """
import torch
from vicreg.data import sampler

class Keys(torch.utils.data.Dataset):
    def __getitems__(self, keys):
        return torch.tensor(keys)

def train():
    batch_sampler = sampler.ResumableBatchSampler(5, 2, seed=0, steps=40)
    batches = iter(sampler.build_loader(Keys(), batch_sampler, 2, torch.device("cpu")))
    next(batches)
    raise RuntimeError("out of memory, say")  # its traceback holds the batches until the very end

train()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1 and ran.stderr.splitlines()[-1] == "RuntimeError: out of memory, say"
