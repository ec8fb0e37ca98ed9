"""The Barlow Twins loss is the paper's formula, in value and gradient, with any number of processes."""

import pytest
import torch

from tests import loss_workers
from tests.test_losses_vicreg import LargestTensor, embeddings
from vicreg.engine.pretrain_config import build_config, get_parser
from vicreg.losses.barlow_twins import BarlowTwinsLoss, barlow_twins_loss

TERMS = ("loss", "invariance_loss", "redundancy_loss")
SHAPES = [(5, 12), (12, 5), (7, 7), (3, 9)]  # N < D, N > D, N = D, a tiny batch


def formula(z1, z2, coeff=0.0051):
    """Equations 1 and 2 with the full cross-correlation matrix, in float64; with BatchNorm's epsilon."""
    standardized = []
    for z in (z1.double(), z2.double()):
        centered = z - z.mean(0)
        standardized.append(centered / (centered.square().mean(0) + 1e-5).sqrt())
    c = standardized[0].T @ standardized[1] / len(z1)
    invariance = (1 - c.diagonal()).square().sum()
    redundancy = (c - torch.diag(c.diagonal())).square().sum()
    return dict(zip(TERMS, (invariance + coeff * redundancy, invariance, redundancy), strict=True))


@pytest.mark.parametrize("coeff", [0.0051, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("term", TERMS)
def test_value_and_gradient_are_those_of_the_formula(term, shape, coeff):
    views = embeddings(*shape)
    value = barlow_twins_loss(*views, coeff)[term]
    found = torch.autograd.grad(value, views)
    exact = embeddings(*shape, dtype=torch.float64)
    expected_value = formula(*exact, coeff)[term]
    expected = torch.autograd.grad(expected_value, exact)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.norm() > 0
        assert (mine.double() - theirs).norm() <= 2e-5 * theirs.norm()


def test_two_samples_by_hand():
    # standardized columns are +-1: C = [[1, -1], [1, -1]] but for epsilon
    z1, z2 = torch.tensor([[0.0, 0.0], [400.0, 800.0]]), torch.tensor([[0.0, 600.0], [200.0, 0.0]])
    found = barlow_twins_loss(z1, z2)
    assert found["invariance_loss"].item() == pytest.approx(0 + 4, rel=1e-6)
    assert found["redundancy_loss"].item() == pytest.approx(1 + 1, rel=1e-6)
    assert found["loss"].item() == pytest.approx(4 + 0.0051 * 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=str)
def test_value_and_gradient_are_those_of_lightly(shape):
    lightly = pytest.importorskip("lightly.loss")
    views = embeddings(*shape)
    value, theirs = barlow_twins_loss(*views, 0.005)["loss"], lightly.BarlowTwinsLoss(lambda_param=0.005)(*views)
    assert value.item() == pytest.approx(theirs.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(value, views), torch.autograd.grad(theirs, views), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("shape", [(4, 30), (29, 30)], ids=str)
def test_no_tensor_is_larger_than_the_embeddings_if_the_batch_is_smaller(shape):
    views = embeddings(*shape)
    with LargestTensor() as largest:
        barlow_twins_loss(*views)["loss"].backward()
    assert largest.elements == max(shape[0] * shape[0], shape[0] * shape[1])


def test_bf16_embeddings_under_autocast_are_taken_as_float32():
    views = embeddings(6, 10, dtype=torch.bfloat16)
    plain = barlow_twins_loss(*(z.detach().float() for z in views))
    with torch.autocast("cpu", torch.bfloat16):
        found = barlow_twins_loss(*views)
    assert all(found[term].dtype == torch.float32 and found[term].item() == plain[term].item() for term in TERMS)


@pytest.mark.parametrize("shape", [(1, 4, 3), (4,), (1, 3)], ids=str)
def test_embeddings_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(n, D\) expected|at least 2, got 1"):
        barlow_twins_loss(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize(("rows", "dim"), [(8, 20), (40, 12)], ids=["N < D", "N > D"])
def test_gradient_is_that_of_the_whole_batch_with_1_2_and_4_processes(tmp_path, rows, dim):
    layer, x1, x2 = loss_workers.layer_and_batch(rows, dim)
    layer = layer.double()
    expected = formula(layer(x1.double()), layer(x2.double()), 0.1)
    expected["loss"].backward()
    for processes in (1, 2, 4):
        for found in loss_workers.run(tmp_path, processes, "barlow_twins", rows, dim):
            for term in TERMS:
                assert found[term] == pytest.approx(expected[term].item(), rel=1e-5)
            difference = torch.tensor(found["grad"]).double() - layer.weight.grad
            assert difference.norm() <= 2e-5 * layer.weight.grad.norm()


@pytest.mark.parametrize(("n", "dim", "coeff"), [(4, 16, 0.0051), (5, 40, 0.1)])
def test_gradient_descent_reaches_the_lower_bound_and_never_goes_below(n, dim, coeff):
    least = BarlowTwinsLoss(coeff).lower_bound(n, dim)
    views = [torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (0, 1)]
    optimizer = torch.optim.Adam(views, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    reached = []
    for _ in range(1000):
        loss = barlow_twins_loss(*views, coeff)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        reached.append(loss.item())
    assert least * (1 - 1e-4) <= min(reached) and reached[-1] <= least * 1.01


def test_lower_bound_is_zero_if_the_expander_is_no_wider_than_the_batch_allows():
    assert BarlowTwinsLoss().lower_bound(257, 256) == 0
    assert BarlowTwinsLoss().lower_bound(256, 8192) == pytest.approx(1122.2, abs=0.5)


def test_loss_is_chosen_and_weighted_on_the_command_line(tmp_path):
    words = ["--exp-dir", str(tmp_path), "--loss", "barlow_twins", "--redundancy-coeff", "0.01"]
    config = build_config(get_parser("a test").parse_args(words))
    assert config.criterion == BarlowTwinsLoss(0.01) and config.loss == "barlow_twins"
