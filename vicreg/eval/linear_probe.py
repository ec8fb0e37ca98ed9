"""Linear probe on frozen features: one protocol for all scripts.

A linear classifier is trained for each learning rate. The learning rate is selected on held-out training samples,
whole locations of every class, and never on the validation set. The classifier of the selected learning rate has seen
all training samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vicreg.data.sampler import epoch_order
from vicreg.data.subsets import HELD_OUT, held_out_groups
from vicreg.eval.lr_sweep import DEFAULT_LRS, FeatureBatch, LinearSweep, select_lr, train_sweep
from vicreg.eval.metrics import accuracy


@dataclass(frozen=True)
class LinearProbe:
    """A trained sweep and the selected learning rate.

    Attributes:
        sweep: Heads of all learning rates, trained on all samples.
        index: Index of the selected learning rate in ``sweep.lrs``.
        scores: Top-1 of each learning rate on the held-out samples; empty for one learning rate.
        held_out: Indices of the held-out training samples; empty for one learning rate.
    """

    sweep: LinearSweep
    index: int
    scores: list[float]
    held_out: np.ndarray

    @property
    def lr(self) -> float:
        """The selected learning rate."""
        return self.sweep.lrs[self.index]

    @property
    def head(self) -> nn.Linear:
        """The classifier of the selected learning rate; ValueError if it diverged."""
        return self.sweep.head(self.index)


def hold_out(labels: np.ndarray, location_ids: np.ndarray, num_lrs: int, seed: int) -> np.ndarray:
    """Choose the training samples to select the learning rate on: a tenth of the locations of every class.

    ``labels`` (n,) and ``location_ids`` (n,) are those of the samples. The indices are sorted; there are none for one
    learning rate.

    Raises:
        ValueError: No class has two locations.
    """
    if num_lrs == 1:
        return np.empty(0, np.int64)
    held_out = np.flatnonzero(held_out_groups(location_ids, HELD_OUT, seed, labels, "held_out_subset"))
    if not len(held_out):
        raise ValueError(
            "several learning rates need held-out samples to select one, and no class has two locations in the "
            "training set; name one learning rate"
        )
    return held_out


def cached_batches(
    features: torch.Tensor, labels: torch.Tensor, held_out: torch.Tensor, batch_size: int, epochs: int, seed: int
) -> Iterator[FeatureBatch]:
    """Yield shuffled batches of extracted features; each epoch takes one random view of each sample.

    Args:
        features: Float (n, F), or (views, n, F).
        labels: int64 (n,).
        held_out: bool (n,).
        batch_size: Number of samples of a batch; what does not fill one at the end of an epoch is dropped.
        epochs: Number of epochs.
        seed: Seed of order and views.
    """
    views = features if features.dim() == 3 else features[None]
    labels, held_out = labels.to(views.device), held_out.to(views.device)
    for epoch in range(epochs):
        order, draws = (torch.from_numpy(values) for values in epoch_order(len(labels), seed, epoch))
        order, view = order.to(views.device), (draws % len(views)).to(views.device)
        for begin in range(0, len(labels) // batch_size * batch_size, batch_size):
            rows = order[begin : begin + batch_size]
            yield views[view[begin : begin + batch_size], rows], labels[rows], held_out[rows]


def sweep_accuracies(
    sweep: LinearSweep, features: torch.Tensor, labels: torch.Tensor, selection: bool = False
) -> list[dict[str, float]]:
    """Compute ``top1`` and ``top5`` of each learning rate's head; see ``LinearSweep.rank_classes``."""
    labels = labels.to(sweep.device)
    return [accuracy(ranked, labels) for ranked in sweep.rank_classes(features, selection=selection)]


def fit_linear_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    location_ids: np.ndarray | None,
    num_classes: int,
    lrs: Sequence[float] = DEFAULT_LRS,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    weight_decay: float = 1e-6,
    seed: int = 0,
) -> LinearProbe:
    """Train a linear classifier for each learning rate, and select one on held-out training samples.

    Args:
        features: Features of the training samples, float (n, F), or (views, n, F) with the plain view first. Each
            epoch then takes one random view of each sample.
        labels: int64 (n,).
        location_ids: Location of each sample (n,), since whole locations are held out; None: each sample is its own.
        num_classes: Number of classes.
        lrs: Learning rates to choose from.
        epochs: Passes over the samples.
        batch_size: Number of samples of a step.
        weight_decay: Weight decay.
        seed: Seed of initial weights, order and held-out samples.

    Raises:
        ValueError: A learning rate is not positive, or there is nothing to hold out.
    """
    device, count = features.device, features.shape[-2]
    locations = np.arange(count) if location_ids is None else location_ids
    sweep = LinearSweep(
        features.shape[-1], num_classes, lrs, weight_decay, seed=seed, select=len(set(lrs)) > 1, device=device,
        dtype=features.dtype,
    )  # fmt: skip
    labels = labels.to(device)
    held_out = hold_out(labels.cpu().numpy(), locations, len(sweep.lrs), seed)
    mask = torch.from_numpy(np.isin(np.arange(count), held_out))
    batch_size = min(batch_size, count)
    batches = cached_batches(features, labels, mask, batch_size, epochs, seed)
    for _ in train_sweep(sweep, batches, epochs, count // batch_size):
        pass
    if not len(held_out):
        return LinearProbe(sweep, 0, [], held_out)
    plain = features if features.dim() == 2 else features[0]
    rows = torch.from_numpy(held_out).to(device)
    scores = [score["top1"] for score in sweep_accuracies(sweep, plain[rows], labels[rows], selection=True)]
    return LinearProbe(sweep, select_lr(scores), scores, held_out)
