"""The VICReg loss is the paper's formula, in value and gradient, with no D x D matrix where the batch is smaller."""

import argparse

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vicreg.losses import LOSSES
from vicreg.losses.barlow_twins import BarlowTwinsLoss
from vicreg.losses.vicreg import VICRegLoss, loss_lower_bound, vicreg_loss

TERMS = ("loss", "repr_loss", "std_loss", "cov_loss")
SHAPES = [(5, 12), (12, 5), (7, 7), (8, 7), (3, 9)]  # narrower, wider, N = D, N = D + 1, a tiny batch
COEFFICIENTS = [(25.0, 25.0, 1.0), (1.0, 0.0, 3.0), (0.0, 4.0, 0.5)]


def embeddings(n, dim, seed=0, dtype=torch.float32):
    """Two views, with means far from zero, columns correlated, and standard deviations on both sides of one."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=random) / dim**0.5 + 0.5
    width = torch.linspace(0.1, 1.5, dim)
    z1 = torch.randn(n, dim, generator=random) @ mix * width + 3
    z2 = z1 + 0.5 * torch.randn(n, dim, generator=random) - 1
    return [z.to(dtype).requires_grad_() for z in (z1, z2)]


def formula(z1, z2, sim, std, cov):
    """The paper's equations with the full covariance matrix, in float64."""
    n, dim = z1.shape
    variances, covariances = [], []
    for z in (z1.double(), z2.double()):
        centered = z - z.mean(0)
        c = centered.T @ centered / (n - 1)
        variances.append(torch.relu(1 - torch.sqrt(c.diagonal() + 1e-4)).mean())
        covariances.append((c.square().sum() - c.diagonal().square().sum()) / dim)
    invariance = (z1.double() - z2.double()).square().mean()
    variance, covariance = sum(variances) / 2, sum(covariances)
    loss = sim * invariance + std * variance + cov * covariance
    return dict(zip(TERMS, (loss, invariance, variance, covariance), strict=True))


def gradients(function, term, n, dim, dtype, *coefficients):
    views = embeddings(n, dim, dtype=dtype)
    value = function(*views, *coefficients)[term]
    return value.item(), torch.autograd.grad(value, views, materialize_grads=True)


@pytest.mark.parametrize("coefficients", COEFFICIENTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("term", TERMS)
def test_value_and_gradient_of_every_term_are_those_of_the_full_covariance_matrix(term, shape, coefficients):
    value, found = gradients(vicreg_loss, term, *shape, torch.float32, *coefficients)
    expected_value, expected = gradients(formula, term, *shape, torch.float64, *coefficients)
    assert value == pytest.approx(expected_value, rel=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.norm() > 0
        assert (mine.double() - theirs).norm() <= 1e-5 * theirs.norm()


def test_two_samples_worked_out_by_hand():
    # z1: variances 0.5 and 0, no covariance. z2: variances 2 and 2, covariance 2.
    z1 = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    z2 = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    found = vicreg_loss(z1, z2)
    invariance = (0 + 0 + 1 + 4) / 4
    variance = ((1 - 0.5001**0.5) + (1 - 0.01)) / 2 / 2
    covariance = 0 + (2**2 + 2**2) / 2
    assert found["repr_loss"].item() == pytest.approx(invariance, rel=1e-6)
    assert found["std_loss"].item() == pytest.approx(variance, rel=1e-6)
    assert found["cov_loss"].item() == pytest.approx(covariance, rel=1e-6)
    assert found["loss"].item() == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-6)


def test_three_dimensions_from_two_samples_worked_out_by_hand():
    # N < D: z1 has variances 2, 2, 8 and covariances 2, 4, 4; z2 is constant
    z1 = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 4.0]])
    z2 = torch.zeros(2, 3)
    found = vicreg_loss(z1, z2)
    assert found["repr_loss"].item() == pytest.approx((4 + 4 + 16) / 6, rel=1e-6)
    assert found["std_loss"].item() == pytest.approx((0 + 0.99) / 2, rel=1e-6)
    assert found["cov_loss"].item() == pytest.approx(2 * (4 + 16 + 16) / 3, rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)], ids=str)
def test_bf16_embeddings_under_autocast_are_taken_as_float32(shape):
    views = embeddings(*shape, dtype=torch.bfloat16)
    plain = vicreg_loss(*(z.detach().float() for z in views))
    with torch.autocast("cpu", torch.bfloat16):
        found = vicreg_loss(*views)
    found["loss"].backward()
    for term in TERMS:
        assert found[term].dtype == torch.float32
        assert found[term].item() == plain[term].item()
    exact = [z.detach().double().requires_grad_() for z in views]
    expected = torch.autograd.grad(formula(*exact, 25.0, 25.0, 1.0)["loss"], exact)
    for z, theirs in zip(views, expected, strict=True):
        assert (z.grad.double() - theirs).abs().le(2**-8 * theirs.abs() + 1e-6).all()  # rounded once, to bf16


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation, forward or backward, puts out."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for out in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(out, torch.Tensor):
                self.elements = max(self.elements, out.numel())
        return result


@pytest.mark.parametrize("shape", [(4, 30), (29, 30)], ids=str)
def test_no_tensor_is_larger_than_the_embeddings_where_the_batch_is_smaller(shape):
    views = embeddings(*shape)
    with LargestTensor() as largest:
        vicreg_loss(*views)["loss"].backward()
    assert largest.elements == max(shape[0] * shape[0], shape[0] * shape[1])
    with LargestTensor() as largest:
        formula(*views, 25.0, 25.0, 1.0)["loss"].backward()
    assert largest.elements == shape[1] * shape[1]  # the watch sees the matrix where there is one


@pytest.mark.parametrize("shape", [(1, 4, 3), (4,)], ids=str)
def test_embeddings_that_are_not_two_dimensional_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(n, D\) expected, got \(") as error:
        vicreg_loss(torch.zeros(shape), torch.zeros(shape))
    assert str(error.value).count(str(shape)) == 2


def test_embeddings_of_different_shapes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 2\)"):
        vicreg_loss(torch.zeros(4, 3), torch.zeros(4, 2))


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        vicreg_loss(torch.zeros(1, 3), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("n", "dim", "std", "cov"),
    [(256, 8192, 25.0, 1.0), (256, 1024, 25.0, 1.0), (256, 300, 25.0, 1.0), (8, 64, 10.0, 0.1), (2, 50, 25.0, 4.0)],
)
def test_floor_is_the_least_value_over_all_standard_deviations(n, dim, std, cov):
    s = np.linspace(0, 1, 1_000_001)
    curve = std * (1 - s) + 2 * cov * s**4 * (dim / (n - 1) - 1)
    best = curve.argmin()
    found = loss_lower_bound(n, dim, std, cov)
    assert found["loss"] == pytest.approx(curve[best], rel=1e-9)
    assert found["std_loss"] == pytest.approx(1 - s[best], abs=2e-6)
    assert found["cov_loss"] == pytest.approx(2 * s[best] ** 4 * (dim / (n - 1) - 1), rel=1e-4)


def test_floor_of_256_samples_and_8192_dimensions_is_16_285():
    found = loss_lower_bound(256, 8192)
    assert found["loss"] == pytest.approx(16.285, abs=5e-4)
    assert found["std_loss"] == pytest.approx(0.535, abs=5e-4)
    assert found["cov_loss"] == pytest.approx(2.905, abs=5e-4)


@pytest.mark.parametrize(("n", "dim"), [(257, 256), (512, 256), (2, 1)])
def test_floor_is_zero_where_the_expander_is_no_wider_than_the_batch_allows(n, dim):
    assert loss_lower_bound(n, dim) == {"loss": 0, "std_loss": 0, "cov_loss": 0}


@pytest.mark.parametrize("std", [1.0, 2.0], ids=["s < 1", "s = 1"])
def test_bound_is_not_above_the_loss_of_a_batch_with_a_collapsed_dimension(std):
    # four uncorrelated columns of variance 1 and one of zeros cost 0.2 std, equal standard deviations 0.40 and 0.50
    columns = 2 * torch.linalg.svd(torch.eye(5) - 1 / 5)[0][:, :4]
    z = torch.cat([columns, torch.zeros(5, 1)], 1)
    loss = vicreg_loss(z, z, std_coeff=std)
    assert loss["loss"].item() == pytest.approx(0.2 * 0.99 * std, rel=1e-4)
    assert loss_lower_bound(5, 5, std)["loss"] <= loss["loss"].item()


def test_floor_is_zero_without_the_covariance_term():
    assert loss_lower_bound(4, 100, cov_coeff=0.0)["loss"] == 0


@pytest.mark.parametrize(("n", "dim"), [(4, 16), (5, 40), (8, 64)])
def test_gradient_descent_on_the_embeddings_reaches_the_floor_and_never_goes_below(n, dim):
    # the floor takes s for sqrt(Var), the loss sqrt(Var + 1e-4); with that, the least value is a trifle lower
    s = np.linspace(0.01, 1, 100_001)
    least = (25 * (1 - s) + 2 * (s**2 - 1e-4) ** 2 * (dim / (n - 1) - 1)).min()
    assert 0 <= loss_lower_bound(n, dim)["loss"] - least <= 2e-3
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    reached = []
    for _ in range(600):
        loss = vicreg_loss(z, z)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        reached.append(loss.item())
    assert min(reached) >= least * (1 - 1e-6)
    assert reached[-1] <= least * (1 + 1e-4)


def test_covariance_term_of_a_small_batch_is_summed_in_float64():
    # whole numbers: the entries of the Gram matrix and their squares are exact in float32, their sums are not
    pairs = [np.roll([88, -88, 0, 0, 0], shift) for shift in range(5)]
    pairs += [np.roll([2, -2, 0, 0, 0], shift) for shift in range(3)]
    z = np.stack(pairs + [np.zeros(5, int)] * 56, axis=1)
    products = z.T @ z
    off_diagonal = (products**2).sum() - (products.diagonal() ** 2).sum()
    embedding = torch.tensor(z, dtype=torch.float32)
    assert vicreg_loss(embedding, embedding)["cov_loss"].item() == 2 * off_diagonal / 4**2 / 64


def test_weights_come_from_the_command_line():
    parser = argparse.ArgumentParser()
    for module in LOSSES.values():
        module.add_arguments(parser)
    words = "--sim-coeff 1 --std-coeff 2 --cov-coeff 3 --redundancy-coeff 4".split()
    built = {name: module.build(parser.parse_args(words)) for name, module in LOSSES.items()}
    assert built == {"vicreg": VICRegLoss(1, 2, 3), "barlow_twins": BarlowTwinsLoss(4)}
    defaults = {name: module.build(parser.parse_args([])) for name, module in LOSSES.items()}
    assert defaults == {"vicreg": VICRegLoss(25, 25, 1), "barlow_twins": BarlowTwinsLoss(0.0051)}
