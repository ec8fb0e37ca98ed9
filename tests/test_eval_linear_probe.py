"""The linear probe: heads trained side by side, and the selection of the learning rate."""

import itertools

import numpy as np
import pytest
import torch

from vicreg.common.random_streams import torch_rng
from vicreg.eval import linear_probe, lr_sweep
from vicreg.eval.linear_probe import fit_linear_probe
from vicreg.eval.lr_sweep import DEFAULT_LRS, LinearSweep, select_lr, train_sweep

NONE = torch.zeros(300, dtype=torch.bool)


@pytest.fixture
def problem():
    """Features (300, 6) of three classes that overlap, and their labels."""
    labels = torch.arange(300) % 3
    return torch.randn(300, 6, generator=torch_rng(0, "test")) + torch.eye(6)[labels], labels


def train(sweep, features, labels, held_out=NONE, epochs=3, batch_size=64, seed=0):
    batches = linear_probe.cached_batches(features, labels, held_out, batch_size, epochs, seed)
    return list(train_sweep(sweep, batches, epochs, len(labels) // batch_size))


def test_sweep_trains_each_head_as_if_it_were_alone(problem):
    features, labels = problem[0].double(), problem[1]  # large learning rates amplify the rounding of single precision
    assert len(DEFAULT_LRS) == 13 and DEFAULT_LRS[0] == 0.001 and DEFAULT_LRS[-1] == 1000
    together = LinearSweep(6, 3, DEFAULT_LRS, dtype=torch.float64)
    train(together, features, labels)
    for index, lr in enumerate(DEFAULT_LRS):
        alone = LinearSweep(6, 3, (lr,), dtype=torch.float64)
        train(alone, features, labels)
        for name in ("weight", "bias"):
            expected = getattr(alone.head(0), name)
            torch.testing.assert_close(getattr(together.head(index), name), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("select", [False, True])
def test_sweep_trains_a_head_as_torch_trains_a_linear_layer(problem, select):
    """The first group sees all samples of a batch, the second one those that are not held out."""
    features, labels = problem
    held_out = torch.rand(300, generator=torch_rng(1, "test")) < 0.3
    sweep = LinearSweep(6, 3, (0.01, 0.3), weight_decay=1e-2, seed=5, select=True)
    history = train(sweep, features, labels, held_out, batch_size=128, seed=7)
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(3, 6, generator=torch_rng(5, "initialization")))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    batches, losses = linear_probe.cached_batches(features, labels, held_out, 128, 3, 7), []
    for step, (x, y, skipped) in enumerate(batches, 1):
        used = ~skipped if select else torch.ones(128, dtype=torch.bool)
        loss = torch.nn.functional.cross_entropy(layer(x[used]), y[used])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 2 == 0:
            schedule.step()
    assert len(losses) == 6
    index = 3 if select else 1  # of two learning rates in each group
    torch.testing.assert_close(sweep.head(index).weight, layer.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sweep.head(index).bias, layer.bias, rtol=1e-5, atol=1e-6)
    if not select:
        assert [loss[1].item() for _, loss in history] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)])
        ranked = layer(features).topk(3).indices
        assert torch.equal(sweep.rank_classes(features)[1], ranked)


def test_sweep_copies_its_batches_without_waiting_for_a_gpu(monkeypatch, problem):
    copied, held_out = [], torch.zeros(300, dtype=torch.bool)
    monkeypatch.setattr(lr_sweep, "send", lambda values, *_: copied.append(values) or values)
    LinearSweep(6, 3, (0.1,), select=True).step(*problem, held_out, 1.0)
    assert all(one is other for one, other in zip(copied, (*problem, held_out), strict=True))


def test_a_head_that_diverges_ranks_nothing_and_leaves_the_others_alone(problem):
    features, labels = problem
    sweep, alone = LinearSweep(6, 3, (0.1, 1e38)), LinearSweep(6, 3, (0.1,))
    for heads in (sweep, alone):
        train(heads, features, labels)
    torch.testing.assert_close(sweep.head(0).weight, alone.head(0).weight, rtol=1e-5, atol=1e-6)
    assert (sweep.rank_classes(features)[1] == -1).all()
    assert linear_probe.sweep_accuracies(sweep, features, labels)[1] == {"top1": 0.0, "top5": 0.0}
    with pytest.raises(ValueError, match=r"diverged with the learning rate 1e\+38"):
        sweep.head(1)


def test_fit_linear_probe_does_not_depend_on_the_other_learning_rates_or_their_order(problem):
    features, labels = problem
    options = {"epochs": 3, "batch_size": 64}
    alone = fit_linear_probe(features, labels, None, 3, [0.1], **options)
    assert alone.lr == 0.1 and alone.scores == []
    results = []
    for lrs in itertools.permutations([1e-9, 0.1, 1e-8]):
        probe = fit_linear_probe(features, labels, None, 3, lrs, **options)
        assert probe.lr == 0.1 and probe.sweep.lrs == (1e-9, 1e-8, 0.1)
        torch.testing.assert_close(probe.head.weight, alone.head.weight, rtol=1e-5, atol=1e-6)
        results.append(probe.scores)
    assert all(scores == results[0] for scores in results)


def test_fit_linear_probe_takes_the_middle_of_equally_good_learning_rates():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
    labels = torch.arange(40) % 2
    result = fit_linear_probe(features, labels, None, 2, [0.1, 10, 1, 0.01, 100], epochs=5, batch_size=8)
    assert result.scores == [1.0] * 5 and result.lr == 1


def test_fit_linear_probe_trains_selection_heads_without_whole_held_out_locations(monkeypatch, problem):
    features, labels = problem
    location_ids = np.arange(300) // 3 // 5 * 3 + np.arange(300) % 3  # twenty locations per class
    seen = []
    monkeypatch.setattr(
        LinearSweep, "step", lambda self, x, y, held_out, scale: seen.append(held_out) or torch.zeros(2)
    )
    result = fit_linear_probe(features, labels, location_ids, 3, [0.1, 1], epochs=1, batch_size=300)
    assert len(result.held_out) == 30 and int(seen[0].sum()) == 30  # two of twenty locations with five samples each
    rest = np.setdiff1d(np.arange(300), result.held_out)
    assert not set(location_ids[rest]) & set(location_ids[result.held_out])
    assert set(labels[result.held_out].tolist()) == {0, 1, 2}


def test_fit_linear_probe_scores_the_held_out_samples_with_the_selection_heads(monkeypatch, problem):
    """A head that has seen the held-out samples must not select."""
    features, labels = problem
    asked = []
    real = LinearSweep.rank_classes

    def rank_classes(self, given, selection=False):
        asked.append((len(given), selection))
        return real(self, given, selection)

    monkeypatch.setattr(LinearSweep, "rank_classes", rank_classes)
    result = fit_linear_probe(features, labels, None, 3, [0.1, 1], epochs=1)
    assert asked == [(len(result.held_out), True)]


def test_cached_batches_take_a_random_view_of_every_sample_in_each_epoch():
    views = torch.stack([torch.arange(40.0), torch.arange(40.0) + 100])[..., None]
    batches = linear_probe.cached_batches(views, torch.arange(40), torch.arange(40) < 4, 8, 2, seed=0)
    epochs = [list(itertools.islice(batches, 5)) for _ in range(2)]
    for batch in epochs:
        x, labels, held_out = (torch.cat(part) for part in zip(*batch, strict=True))
        assert torch.equal(x[:, 0] % 100, labels.float()) and sorted(labels.tolist()) == list(range(40))
        assert torch.equal(held_out, labels < 4)
        assert 5 < (x >= 100).sum() < 35
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])


def test_select_lr_takes_the_best_and_of_equals_the_middle():
    assert select_lr([0.2, 0.5, 0.4]) == 1
    assert select_lr([1.0, 1.0, 1.0, 0.3, 0.1]) == 1 and select_lr([0.1, 1.0, 1.0, 1.0, 0.1]) == 2


@pytest.mark.parametrize("lrs", [[], [0.0], [-1.0], [0.1, float("nan")], [float("inf")]])
def test_sweep_refuses_a_learning_rate_that_is_none(lrs):
    with pytest.raises(ValueError, match="positive numbers are needed"):
        lr_sweep.LinearSweep(6, 3, lrs)


def test_fit_linear_probe_needs_a_class_of_two_locations_to_choose_among_learning_rates():
    features, labels = torch.randn(6, 2), torch.arange(6) % 2
    with pytest.raises(ValueError, match="no class has two locations"):
        fit_linear_probe(features, labels, np.arange(6) % 2, 2, [0.1, 1])
    assert fit_linear_probe(features, labels, np.arange(6) % 2, 2, [0.1]).lr == 0.1
