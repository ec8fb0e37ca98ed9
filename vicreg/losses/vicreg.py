"""The VICReg loss of the whole batch over all processes, exactly, without a D x D matrix where the batch is smaller.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022,
equations 1 to 6, with the weights of the authors' implementation (the variance terms of both views are averaged, the
covariance terms added).
"""

import argparse
import dataclasses

import torch
from torch.nn.functional import mse_loss

from vicreg.common import cli
from vicreg.common.config import from_args, setting
from vicreg.distributed.process_group import all_gather_equal, all_reduce, scale_gradient, world_size

EPSILON = 1e-4  # inside the standard deviation's root


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the loss's settings to a group of command-line arguments."""
    group.add_argument("--sim-coeff", type=float, default=25.0, help="vicreg: weight of the invariance term")
    group.add_argument("--std-coeff", type=float, default=25.0, help="vicreg: weight of the variance term")
    group.add_argument("--cov-coeff", type=float, default=1.0, help="vicreg: weight of the covariance term")


def build(namespace: argparse.Namespace) -> "VICRegLoss":
    """Build the loss from parsed arguments."""
    return from_args(VICRegLoss, namespace)


@dataclasses.dataclass(frozen=True)
class VICRegLoss:
    """``vicreg_loss`` with its weights.

    Attributes:
        sim_coeff: Weight of the invariance term.
        std_coeff: Weight of the variance term.
        cov_coeff: Weight of the covariance term.

    Raises:
        ValueError: A weight is negative, infinite or NaN.
    """

    sim_coeff: float = setting(25.0)
    std_coeff: float = setting(25.0)
    cov_coeff: float = setting(1.0)

    def __post_init__(self) -> None:
        cli.check_not_negative(self, "sim_coeff", "std_coeff", "cov_coeff")

    def __call__(self, z1: torch.Tensor, z2: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss and its terms; see ``vicreg_loss``."""
        return vicreg_loss(z1, z2, self.sim_coeff, self.std_coeff, self.cov_coeff)

    def lower_bound(self, batch_size: int, dim: int) -> float:
        """Return a lower bound of the loss; see ``loss_lower_bound``."""
        return loss_lower_bound(batch_size, dim, self.std_coeff, self.cov_coeff)["loss"]


def vicreg_loss(
    z1: torch.Tensor, z2: torch.Tensor, sim_coeff: float = 25.0, std_coeff: float = 25.0, cov_coeff: float = 1.0
) -> dict[str, torch.Tensor]:
    """Compute the VICReg loss of two batches of embeddings.

    With Z, Z' the N x D embeddings of *all* processes:
    ``sim * mean((Z - Z')^2) + std * (v(Z) + v(Z')) / 2 + cov * (c(Z) + c(Z'))``, where
    ``v = mean_j relu(1 - sqrt(Var_j + 1e-4))`` and ``c = (1/D) sum_{i != j} C_ij^2``; Var and C with N - 1.

    The embeddings are gathered once, without gradient; nothing is communicated in the backward pass. Values are those
    of the whole batch, the same on every process. Gradients are those of the whole batch with respect to this
    process's rows, times the number of processes, because DistributedDataParallel divides by it. All arithmetic is
    float32, whatever the autocast. Memory is that of max(N x N, N x D).

    Args:
        z1: (n, D), embeddings of the first views of this process's samples; the same n on every process.
        z2: (n, D), embeddings of the second views.
        sim_coeff: Weight of the invariance term.
        std_coeff: Weight of the variance term.
        cov_coeff: Weight of the covariance term.

    Returns:
        Scalar tensors ``loss``, ``repr_loss``, ``std_loss`` and ``cov_loss``. ``loss`` is the weighted sum, the others
        are unweighted. All are differentiable.

    Raises:
        ValueError: The shapes differ, are not two-dimensional, or the whole batch is a single sample.
    """
    if z1.shape != z2.shape or z1.dim() != 2:
        raise ValueError(f"two embeddings of one shape (n, D) expected, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(z1) * world_size() < 2:
        raise ValueError("VICReg compares samples within a batch: it needs at least 2, got 1")
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = z1.float(), z2.float()
        difference = mse_loss(z1, z2, reduction="sum") / (z1.numel() * world_size())
        repr_loss = scale_gradient(difference, all_reduce(difference.detach().clone()))
        gathered1, gathered2 = all_gather_equal(z1, z2)
        std1, cov1 = _variance_and_covariance(z1, gathered1)
        std2, cov2 = _variance_and_covariance(z2, gathered2)
        std_loss, cov_loss = (std1 + std2) / 2, cov1 + cov2
        loss = sim_coeff * repr_loss + std_coeff * std_loss + cov_coeff * cov_loss
    return {"loss": loss, "repr_loss": repr_loss, "std_loss": std_loss, "cov_loss": cov_loss}


def _variance_and_covariance(z: torch.Tensor, gathered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the variance term v and the covariance term c of one view.

    Args:
        z: (n, D), embeddings of this process.
        gathered: (N, D), embeddings of all processes, without gradient.
    """
    n, dim = gathered.shape
    mean = gathered.mean(0)
    # The mean may stay a constant: the gradients below sum to zero over the rows, so nothing flows through it.
    local_centered = z - mean
    detached = local_centered.detach()
    centered = detached if world_size() == 1 else gathered - mean
    variance = centered.square().sum(0) / (n - 1)
    local_variance = 2 * (local_centered * detached).sum(0) / (n - 1)  # only its gradient is used
    hinge = torch.relu(1 - torch.sqrt(variance + (local_variance - local_variance.detach()) + EPSILON)).mean()
    std_loss = scale_gradient(hinge, hinge.detach())

    if n < dim:
        # ||Z^T Z||_F = ||Z Z^T||_F, so the squares of C's entries add up to those of the Gram matrix's. By symmetry
        # the local rows occur twice in it: once as rows and once as columns, which are constants here.
        gram = local_centered @ centered.T / (n - 1)
        squares = gram.square().sum(dtype=torch.float64)
        diagonal = variance.square().sum(dtype=torch.float64)
        local_diagonal = 2 * (variance * local_variance).sum(dtype=torch.float64)
        value = (all_reduce(squares.detach().clone()) - diagonal) / dim
        return std_loss, scale_gradient((2 * squares - local_diagonal) / dim, value).float()
    covariance = centered.T @ centered / (n - 1)
    off_diagonal = covariance.fill_diagonal_(0)
    # d(sum C_ij^2) = 2 sum C_ij dC_ij, and dC = (dZ^T Z + Z^T dZ) / (n - 1) with all other rows constant
    local_squares = 2 * ((local_centered @ off_diagonal) * local_centered).sum() / (n - 1)
    return std_loss, scale_gradient(local_squares / dim, off_diagonal.square().sum() / dim)


def loss_lower_bound(batch_size: int, dim: int, std_coeff: float = 25.0, cov_coeff: float = 1.0) -> dict[str, float]:
    """Compute a lower bound of the loss of a batch; it is positive if the expander is wider than the batch.

    C has rank at most N - 1, so that ``||C||_F^2 >= tr(C)^2 / (N - 1)``. For r = D / (N - 1) > 1, and standard
    deviations t_j of which none needs to exceed 1, the loss is at least
    ``std * mean(1 - t) + 2 * cov * (r * mean(t^2)^2 - mean(t^4))``. The bound is its minimum with all of them equal to
    s, at ``s^3 = std / (8 * cov * (r - 1))``, or at s = 1 if that is larger.

    Unequal ones do not give less if ``phi(t) = -std * t + 4 * cov * r * s^2 * t^2 - 2 * cov * t^4`` is smallest at s:
    replace ``mean(t^2)^2`` by its tangent at s^2, which lies below. That is the case if ``std >= 16 * cov`` or
    ``2 * (r - 1) * s^2 >= (1 + s)^2``, which is ``phi(1) >= phi(s)``. For other weights the loss may be smaller with
    some dimensions collapsed, and the bound is zero.

    Args:
        batch_size: N, samples in the whole batch.
        dim: D, width of the expander's output.
        std_coeff: Weight of the variance term.
        cov_coeff: Weight of the covariance term.

    Returns:
        ``loss``, ``std_loss`` and ``cov_loss`` at the minimum; zeros if there is no bound.
    """
    excess = max(dim / (batch_size - 1) - 1, 0.0)
    s = 1.0
    if excess and cov_coeff:
        s = min(1.0, (std_coeff / (8 * cov_coeff * excess)) ** (1 / 3))
        if std_coeff < 16 * cov_coeff and 2 * excess * s**2 < (1 + s) ** 2:
            return {"loss": 0.0, "std_loss": 0.0, "cov_loss": 0.0}
    std_loss, cov_loss = 1 - s, 2 * s**4 * excess
    return {"loss": std_coeff * std_loss + cov_coeff * cov_loss, "std_loss": std_loss, "cov_loss": cov_loss}
