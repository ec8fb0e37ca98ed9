"""LARS is the published update rule, and the rate rises and falls where the schedule says."""

import io
import math

import numpy as np
import pytest
import torch

from vicreg.engine.optim import LARS, build_optimizer, cosine_lr, one_cycle_lr, warmup_epochs

SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2, 2), "column": (3, 1), "vector": (5,), "scalar": ()}
SETTINGS = {"weight_decay": 0.01, "momentum": 0.9, "eta": 0.02}  # eta larger than usual, so that weights move


def rate(step):
    return 0.3 * (step + 1) / 50


def starting_weights(dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=random, dtype=dtype) for name, shape in SHAPES.items()}


def gradients(step, dtype=torch.float64):
    """A gradient for each weight, counted from the step."""
    random = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=random, dtype=dtype) for name, shape in SHAPES.items()}


def take_steps(weights, optimizer, steps, gradients=gradients):
    for step in steps:
        for name, gradient in gradients(step).items():
            weights[name].grad = gradient.to(weights[name].dtype)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
    return weights


def algorithm(weights, steps, weight_decay, momentum, eta, gradients=gradients):
    """Algorithm 1 of the paper, one weight at a time, in float64."""
    weights = {name: value.numpy().copy() for name, value in weights.items()}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in steps:
        for name, gradient in gradients(step).items():
            update = gradient.numpy().copy()
            if weights[name].ndim > 1:
                update = update + weight_decay * weights[name]
                size, norm = np.sqrt((weights[name] ** 2).sum()), np.sqrt((update**2).sum())
                if size > 0 and norm > 0:
                    update = update * (eta * size / norm)
            velocity[name] = momentum * velocity[name] + update
            weights[name] = weights[name] - rate(step) * velocity[name]
    return weights


def parameters(weights):
    return {name: torch.nn.Parameter(value.clone()) for name, value in weights.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"eta": 0.001}], ids=str)
def test_fifty_steps_are_those_of_the_algorithm(changes, dtype):
    settings = SETTINGS | changes
    weights = parameters(starting_weights(dtype))
    found = take_steps(weights, LARS(weights.values(), **settings), range(50))
    expected = algorithm({n: w.double() for n, w in starting_weights(dtype).items()}, range(50), **settings)
    for name, value in expected.items():
        moved = np.linalg.norm(value - starting_weights()[name].numpy())
        assert moved > 1e-3
        difference = found[name].detach().double().numpy() - value
        assert np.linalg.norm(difference) <= 1e-6 * np.linalg.norm(value)


def test_groups_keep_their_own_settings():
    weights = parameters(starting_weights())
    groups = [
        {"params": [weights["matrix"]], "weight_decay": 0.5},
        {"params": [weights["kernel"]], "eta": 0.1, "momentum": 0.5},
    ]
    found = take_steps(weights, LARS(groups, **SETTINGS), range(5))
    for name, own in {"matrix": {"weight_decay": 0.5}, "kernel": {"eta": 0.1, "momentum": 0.5}}.items():
        expected = algorithm(starting_weights(), range(5), **(SETTINGS | own))[name]
        np.testing.assert_allclose(found[name].detach().numpy(), expected, rtol=1e-6)


def test_defaults_are_the_published_ones():
    group = LARS([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert {key: group[key] for key in ("momentum", "eta", "weight_decay")} == {
        "momentum": 0.9, "eta": 0.001, "weight_decay": 0.0,
    }  # fmt: skip


def test_a_step_of_a_column_worked_out_by_hand():
    # |p| = 5; u = g + 0.5 p = (0 + 1.5, 4 + 2) of norm 6.1846584; the ratio is 0.1 * 5 / |u|
    p = torch.nn.Parameter(torch.tensor([[3.0], [4.0]]))
    p.grad = torch.tensor([[0.0], [4.0]])
    LARS([p], lr=2.0, weight_decay=0.5, eta=0.1).step()
    ratio = 0.5 / math.sqrt(1.5**2 + 6**2)
    expected = torch.tensor([[3 - 2 * ratio * 1.5], [4 - 2 * ratio * 6]])
    assert (p - expected).abs().max() <= 1e-6


def test_vectors_take_neither_decay_nor_adaptation():
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([0.5, -1.0])
    LARS([p], lr=0.1, weight_decay=10.0, eta=0.001).step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.95, 2.1]))


def test_a_weight_of_norm_zero_takes_the_plain_step():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    LARS([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.tensor([[-0.5, -1.0], [-1.5, -2.0]]))


def test_a_gradient_of_norm_zero_leaves_the_weight():
    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.zeros(2, 2)
    LARS([p], lr=0.5).step()
    assert torch.equal(p.detach(), torch.ones(2, 2))


def test_a_gradient_of_norm_zero_still_decays_the_weight():
    # u = 0.5 p, so the ratio is 0.1 |p| / (0.5 |p|) = 0.2 and the step 0.2 * 0.5 p
    p = torch.nn.Parameter(torch.full((2, 2), 10.0))
    p.grad = torch.zeros(2, 2)
    LARS([p], lr=1.0, weight_decay=0.5, eta=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), 9.0))


def test_fifty_steps_with_zero_weights_and_gradients_on_the_way_are_those_of_the_algorithm():
    def with_zeros(step):
        return {name: value * (step % 3 > 0) for name, value in gradients(step).items()}

    start = starting_weights()
    start["matrix"].zero_()
    settings = SETTINGS | {"weight_decay": 0.0}
    weights = parameters(start)
    found = take_steps(weights, LARS(weights.values(), **settings), range(50), with_zeros)
    for name, value in algorithm(start, range(50), gradients=with_zeros, **settings).items():
        assert np.linalg.norm(found[name].detach().numpy() - value) <= 1e-6 * np.linalg.norm(value)


def test_step_leaves_parameters_without_gradient_unchanged():
    weights = parameters(starting_weights())
    idle = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([*weights.values(), idle], **SETTINGS)
    take_steps(weights, optimizer, range(2))
    assert torch.equal(idle.detach(), torch.ones(2, 2)) and idle not in optimizer.state


def test_step_allocates_no_memory_in_the_size_of_the_parameters():
    p = torch.nn.Parameter(torch.ones(1000, 1000))
    optimizer = LARS([p], lr=0.1)
    p.grad = torch.ones(1000, 1000)
    largest = []
    for _ in range(2):
        p.grad.fill_(2)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            optimizer.step()
        largest.append(max(event.cpu_memory_usage for event in profile.events()))
    assert largest[0] >= 4 * p.numel() and largest[1] < p.numel()  # bytes; the first step allocates the momentum


def test_step_returns_what_its_closure_returns_and_uses_its_gradient():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = LARS([p], lr=0.1)

    def closure():
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == pytest.approx(2 - 0.1 * 4)


def test_resumed_from_its_file_it_goes_on_bit_for_bit():
    whole = parameters(starting_weights(torch.float32))
    take_steps(whole, LARS(whole.values(), **SETTINGS), range(20))

    first = parameters(starting_weights(torch.float32))
    optimizer = LARS(first.values(), **SETTINGS)
    take_steps(first, optimizer, range(8))
    file = io.BytesIO()
    torch.save({"weights": first, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    second = parameters(state["weights"])
    optimizer = LARS(second.values())  # its settings come with the state
    optimizer.load_state_dict(state["optimizer"])
    take_steps(second, optimizer, range(8, 20))
    assert all(torch.equal(second[name], whole[name]) for name in SHAPES)


def test_rate_at_the_corners():
    rates = {step: cosine_lr(step, total_steps=1000, warmup_steps=100, peak=2.0) for step in range(1001)}
    assert rates[0] == 0
    assert rates[1] == pytest.approx(0.02)
    assert rates[50] == pytest.approx(1.0)
    assert rates[100] == 2.0
    assert rates[550] == pytest.approx((2.0 + 0.002) / 2)
    assert rates[999] > rates[1000] == pytest.approx(0.002)


def test_rate_rises_until_the_end_of_warm_up_and_falls_after_it():
    rates = np.array([cosine_lr(step, 1000, 100, 2.0) for step in range(1001)])
    assert (np.diff(rates[:101]) > 0).all() and (np.diff(rates[100:]) < 0).all()
    np.testing.assert_allclose(np.diff(rates[:101]), 0.02)  # linear


def test_rate_without_warm_up_begins_at_the_peak():
    assert cosine_lr(0, 7, 0, 2.0) == 2.0


def test_rate_of_a_run_that_is_all_warm_up_or_over_stays_finite():
    assert cosine_lr(5, 5, 5, 2.0) == 2.0
    assert cosine_lr(2000, 1000, 100, 2.0) == pytest.approx(0.002)


@pytest.mark.parametrize(("epochs", "warmup"), [(1000, 10), (101, 10), (100, 10), (99, 9.9), (50, 5), (5, 0.5)])
def test_warm_up_is_ten_epochs_or_a_tenth_of_a_shorter_run(epochs, warmup):
    assert warmup_epochs(epochs) == pytest.approx(warmup)


@pytest.mark.parametrize(("steps", "rise"), [(100, 0.3), (7, 0.5), (20, 0.25)])
def test_one_cycle_is_torchs(steps, rise):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, pct_start=rise, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle_lr(step, steps, 0.3, rise) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step() if step + 1 < steps else None


def test_one_cycle_begins_at_the_peak_if_the_way_up_is_one_step():
    assert [one_cycle_lr(step, 4, 0.3, rise=0.25) for step in (0, 3)] == pytest.approx([0.3, 0.3 * 4e-6])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_build_optimizer_decays_matrices_only_and_waits_for_a_learning_rate(name):
    model = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(name, model, weight_decay=0.1)
    groups = [
        (group["weight_decay"], group["lr"], [p.ndim for p in group["params"]]) for group in optimizer.param_groups
    ]
    assert groups == [(0.1, 0.0, [2]), (0.0, 0.0, [1])]
    assert name != "sgd" or optimizer.param_groups[0]["momentum"] == 0.9
