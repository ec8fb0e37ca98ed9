"""The Barlow Twins loss of the whole batch over all processes, without a D x D matrix if the batch is smaller.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
equations 1 and 2.
"""

import argparse
import dataclasses

import torch

from vicreg.common import cli
from vicreg.common.config import from_args, setting
from vicreg.distributed.process_group import all_gather_equal, rank, scale_gradient, world_size

EPSILON = 1e-5  # added to the variance, as by the authors' BatchNorm


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the loss's settings to a group of command-line arguments."""
    group.add_argument("--redundancy-coeff", type=float, default=0.0051, help="barlow_twins: weight lambda")


def build(namespace: argparse.Namespace) -> "BarlowTwinsLoss":
    """Build the loss from parsed arguments."""
    return from_args(BarlowTwinsLoss, namespace)


@dataclasses.dataclass(frozen=True)
class BarlowTwinsLoss:
    """``barlow_twins_loss`` with its weight.

    Attributes:
        redundancy_coeff: Weight lambda of the redundancy reduction term.

    Raises:
        ValueError: The weight is negative, infinite or NaN.
    """

    redundancy_coeff: float = setting(0.0051)

    def __post_init__(self) -> None:
        cli.check_not_negative(self, "redundancy_coeff")

    def __call__(self, z1: torch.Tensor, z2: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss and its terms; see ``barlow_twins_loss``."""
        return barlow_twins_loss(z1, z2, self.redundancy_coeff)

    def lower_bound(self, batch_size: int, dim: int) -> float:
        """Return the smallest possible loss; it is zero only if the expander is no wider than the batch.

        C has rank at most N - 1, so ``||C||_F^2 >= tr(C)^2 / (N - 1)``. For D > N - 1 and lambda < 1 the minimum has
        ``C_ii = 1 / (1 + lambda k)`` with ``k = D / (N - 1) - 1``, where the loss is ``D lambda k / (1 + lambda k)``.

        Args:
            batch_size: N, samples in the whole batch.
            dim: D, width of the expander's output.
        """
        excess = self.redundancy_coeff * max(dim / (batch_size - 1) - 1, 0.0)
        return dim * excess / (1 + excess) if self.redundancy_coeff < 1 else 0.0


def barlow_twins_loss(z1: torch.Tensor, z2: torch.Tensor, redundancy_coeff: float = 0.0051) -> dict[str, torch.Tensor]:
    """Compute the Barlow Twins loss of two batches of embeddings.

    With A, B the N x D embeddings of *all* processes, each column of mean 0 and variance 1 (over N):
    ``sum_i (1 - C_ii)^2 + lambda * sum_{i != j} C_ij^2`` with ``C = A^T B / N``.

    For N < D, C is not built: ``||A^T B||_F^2 = <A A^T, B B^T>``, and its diagonal is a sum over the rows of A * B. The
    embeddings are gathered once, without gradient; nothing is communicated in the backward pass. Values are those of
    the whole batch, the same on every process. Gradients are those of the whole batch with respect to this process's
    rows, also by way of the means and variances, times the number of processes, because DistributedDataParallel divides
    by it. All arithmetic is float32, whatever the autocast, with float64 sums. Memory is that of max(N x N, N x D).

    Args:
        z1: (n, D), embeddings of the first views of this process's samples; the same n on every process.
        z2: (n, D), embeddings of the second views.
        redundancy_coeff: Weight lambda of the redundancy reduction term.

    Returns:
        Scalar tensors ``loss``, ``invariance_loss`` and ``redundancy_loss``. ``loss`` is the weighted sum, the others
        are unweighted. All are differentiable.

    Raises:
        ValueError: The shapes differ, are not two-dimensional, or the whole batch is a single sample.
    """
    if z1.shape != z2.shape or z1.dim() != 2:
        raise ValueError(f"two embeddings of one shape (n, D) expected, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(z1) * world_size() < 2:
        raise ValueError("Barlow Twins compares samples within a batch: it needs at least 2, got 1")
    with torch.autocast(z1.device.type, enabled=False):
        local = z1.float(), z2.float()
        gathered = all_gather_equal(*local)
        a, b = (_standardize(_insert_rows(z, rows)) for z, rows in zip(local, gathered, strict=True))
        n, dim = a.shape
        diagonal = (a * b).sum(0, dtype=torch.float64) / n
        if n < dim:
            squares = ((a @ a.T) * (b @ b.T)).sum(dtype=torch.float64) / n**2
            redundancy = squares - diagonal.square().sum()
        else:
            redundancy = (a.T @ b / n).fill_diagonal_(0).square().sum(dtype=torch.float64)
        invariance = (1 - diagonal).square().sum()
        terms = {
            "loss": invariance + redundancy_coeff * redundancy,
            "invariance_loss": invariance,
            "redundancy_loss": redundancy,
        }
        return {name: scale_gradient(value, value.detach()).float() for name, value in terms.items()}


def _insert_rows(z: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor:
    """Return the gathered rows of all processes with those of this process, z, which have a gradient."""
    if world_size() == 1:
        return z
    start = rank() * len(z)
    return torch.cat([gathered[:start], z, gathered[start + len(z) :]])


def _standardize(z: torch.Tensor) -> torch.Tensor:
    """Return z (N, D) with columns of mean 0 and variance 1."""
    centered = z - z.mean(0)
    return centered / (centered.square().mean(0) + EPSILON).sqrt()
