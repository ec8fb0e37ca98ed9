"""Linear classifiers for several learning rates, trained side by side on the same batches."""

from collections.abc import Iterable, Iterator, Sequence
from math import cos, isfinite, pi

import numpy as np
import torch
from torch import nn

from vicreg.common.devices import send
from vicreg.common.random_streams import torch_rng

DEFAULT_LRS = tuple(float(f"{10 ** (n / 2 - 3):.3g}") for n in range(13))  # 0.001 to 1000, two per decade
_MOMENTUM = 0.9
FeatureBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # features (n, F), labels (n,), held out: bool (n,)


class LinearSweep:
    """One linear classifier for each learning rate: the same initialization, the same batches, one matrix product.

    The loss of a head reaches that head alone, so each head ends where it would have ended by itself. With
    ``select=True`` every learning rate has a second head that skips the held-out samples. It is used to select the
    learning rate; the first head, which sees all samples, is the result. The result therefore does not depend on which
    or how many other learning rates are tried.

    Weights start from N(0, 0.01), biases from zero; SGD with momentum 0.9 (as Bardes et al. 2022, section 5).

    Args:
        num_features: Size of the features, F.
        num_classes: Number of classes.
        lrs: Learning rates. They are sorted, so that their order has no effect.
        weight_decay: Weight decay.
        seed: Seed of the initial weights, which all heads share.
        select: Train the second group of heads.
        device: Device of the heads; batches are moved there.
        dtype: Floating-point type of the heads.

    Raises:
        ValueError: A learning rate is not a positive number.
    """

    def __init__(
        self, num_features: int, num_classes: int, lrs: Sequence[float], weight_decay: float = 1e-6,
        seed: int = 0, select: bool = False, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        if not lrs or not all(lr > 0 and isfinite(lr) for lr in lrs):
            raise ValueError(f"learning rates {', '.join(map(str, lrs))}: positive numbers are needed")
        self.lrs, self.num_classes, self.groups = tuple(sorted(set(lrs))), num_classes, 1 + select
        self.weight_decay, self.device = weight_decay, torch.device(device)
        heads = self.groups * len(self.lrs)
        initial = 0.01 * torch.randn(num_classes, num_features, generator=torch_rng(seed, "initialization"))
        self.weight = initial.to(self.device, dtype).repeat(heads, 1)
        self.bias = torch.zeros(heads * num_classes, device=self.device, dtype=dtype)
        self._velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        lr = torch.tensor(self.lrs * self.groups, device=self.device, dtype=dtype)
        self._lr = lr.repeat_interleave(num_classes)

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (n, F) to logits (n, groups, learning rates, classes)."""
        features = features.to(self.device, self.weight.dtype)
        logits = torch.addmm(self.bias, features, self.weight.T)
        return logits.view(-1, self.groups, len(self.lrs), self.num_classes)

    @torch.no_grad()
    def step(self, features: torch.Tensor, labels: torch.Tensor, held_out: torch.Tensor, lr_scale: float
             ) -> torch.Tensor:  # fmt: skip
        """Take one step of SGD with every head.

        Args:
            features: Float (n, F).
            labels: int64 (n,).
            held_out: bool (n,); samples that the second group of heads skips.
            lr_scale: Factor of all learning rates, from the schedule.

        Returns:
            Cross-entropy of each learning rate's head on all samples, (number of learning rates,).
        """
        features, labels = send(features, self.device, self.weight.dtype), send(labels, self.device)
        log_probs = self._logits(features).log_softmax(3)
        index = labels[:, None, None, None].expand(-1, self.groups, len(self.lrs), 1)
        losses = -log_probs[:, 0].gather(2, index[:, 0])[..., 0].mean(0)
        error = log_probs.exp_()
        error.scatter_add_(3, index, error.new_full(index.shape, -1.0))  # gradient of the cross-entropy
        error[:, 0] /= len(labels)
        if self.groups > 1:
            used = ~send(held_out, self.device)
            error[:, 1] *= (used / used.sum().clamp(min=1)).to(error.dtype)[:, None, None]
        error = error.flatten(1)
        gradients = [torch.mm(error.T, features), error.sum(0)]
        for value, gradient, velocity, lr in zip(
            (self.weight, self.bias), gradients, self._velocity, (self._lr[:, None], self._lr), strict=True
        ):
            velocity.mul_(_MOMENTUM).add_(gradient.add_(value, alpha=self.weight_decay))
            value.sub_(lr_scale * lr * velocity)
        return losses

    @torch.no_grad()
    def rank_classes(self, features: torch.Tensor, selection: bool = False) -> torch.Tensor:
        """Rank the classes of samples with the head of each learning rate.

        Args:
            features: Float (n, F).
            selection: Use the heads that skipped the held-out samples.

        Returns:
            int64 (learning rates, n, up to 5 classes), the likeliest class first; -1 if a head has diverged.
        """
        ranked = []
        for part in features.split(4096):
            logits = self._logits(part)[:, int(selection)]
            top = logits.topk(min(5, self.num_classes), dim=2).indices
            ranked.append(top.masked_fill(~logits.isfinite().all(2, keepdim=True), -1))
        return torch.cat(ranked).transpose(0, 1)

    def head(self, index: int) -> nn.Linear:
        """Return the head of one learning rate, trained on all samples.

        Raises:
            ValueError: The head has diverged.
        """
        num_features = self.weight.shape[1]
        weight = self.weight.view(-1, self.num_classes, num_features)[index]
        bias = self.bias.view(-1, self.num_classes)[index]
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"the linear head diverged with the learning rate {self.lrs[index]:g}; use a lower one")
        head = nn.Linear(num_features, self.num_classes, device=self.device, dtype=weight.dtype)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        return head


def train_sweep(
    sweep: LinearSweep, batches: Iterable[FeatureBatch], epochs: int, steps_per_epoch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Train the heads of a sweep, with a cosine schedule that changes once per epoch.

    Args:
        sweep: The heads, changed in place.
        batches: Batches of all epochs.
        epochs: Number of epochs.
        steps_per_epoch: Number of batches per epoch.

    Yields:
        After each epoch its number, and the mean loss of each learning rate's head.
    """
    iterator = iter(batches)
    for epoch in range(epochs):
        lr_scale = 0.5 * (1 + cos(pi * epoch / epochs))
        total = torch.zeros(len(sweep.lrs), device=sweep.device, dtype=sweep.weight.dtype)
        for _ in range(steps_per_epoch):
            features, labels, held_out = next(iterator)
            total += sweep.step(features, labels, held_out, lr_scale)
        yield epoch, total / steps_per_epoch


def select_lr(scores: Sequence[float]) -> int:
    """Return the index of the best score; of several equally good ones the middle one.

    Few samples often tie. The first of them would be the smallest learning rate, whose head has hardly changed.

    Args:
        scores: Score of each learning rate on held-out training samples, in ascending order of the learning rates.
    """
    best = np.flatnonzero(np.asarray(scores) == max(scores))
    return int(best[len(best) // 2])
