"""Optimizers and learning rate schedules, as VICReg's authors use them."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import swa_utils


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, algorithm 1).

    For a matrix p with gradient g: ``u = g + weight_decay * p``, ``u *= eta * |p| / |u|`` (1 where a norm is zero),
    ``m = momentum * m + u``, ``p -= lr * m``. Vectors (biases, norms) take neither weight decay nor adaptation.
    A step overwrites the gradients with the updates u, since an expander has 150 M parameters and new memory for
    temporaries would be paged in at each step.

    Args:
        params: Parameters or groups.
        lr: Learning rate, usually set at each step.
        weight_decay: Weight decay, added before the trust ratio.
        momentum: Momentum.
        eta: Trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; return the closure's loss if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for adapted in (True, False):
                params = [p for p in group["params"] if p.grad is not None and (p.ndim > 1) == adapted]
                if params:
                    self._update(params, adapted, **{k: group[k] for k in ("lr", "weight_decay", "momentum", "eta")})
        return loss

    def _update(
        self, params: list[torch.Tensor], adapted: bool, lr: float, weight_decay: float, momentum: float, eta: float
    ) -> None:
        updates: Any = [p.grad for p in params]
        if adapted:
            torch._foreach_add_(updates, params, alpha=weight_decay)
            norms = zip(torch._foreach_norm(params), torch._foreach_norm(updates), strict=True)
            ratios = [torch.where((size > 0) & (norm > 0), eta * size / norm, 1.0) for size, norm in norms]
            torch._foreach_mul_(updates, ratios)
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(params, buffers, alpha=-lr)


def build_optimizer(name: str, model: nn.Module, weight_decay: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Build LARS as in the paper, AdamW, or SGD with momentum; vectors (biases, norms) do not decay.

    Args:
        name: ``"lars"``, ``"adamw"`` or ``"sgd"``.
        model: Model whose parameters are optimized.
        weight_decay: Weight decay of matrices.
        momentum: Momentum of SGD.
    """
    if name == "lars":
        return LARS(model.parameters(), weight_decay=weight_decay)
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay)


def average_weights(module: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> swa_utils.AveragedModel:
    """Average the weights and buffers of a module exponentially over the optimizer's steps; copy integers.

    Step n keeps ``min(decay, (1 + n) / (10 + n))`` of the average, so that it forgets the initial weights soon.

    Args:
        module: Module to average.
        optimizer: Optimizer of its parameters; each of its steps updates the average.
        decay: Fraction of the average that a late step keeps.

    Returns:
        The average, whose state dict has the number of steps too.
    """
    average = swa_utils.AveragedModel(module, use_buffers=True).requires_grad_(False)
    steps: int | None = None

    def update(*_: Any) -> None:  # update_parameters() waits for a GPU to read the number of steps in each of them
        nonlocal steps
        steps = int(average.n_averaged) if steps is None else steps  # of a checkpoint
        kept = min(decay, (1 + steps) / (10 + steps)) if steps else 0.0
        pairs = list(zip(average.module.state_dict().values(), module.state_dict().values(), strict=True))
        means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(means, values, 1 - kept)
        for mean, value in pairs:
            if not mean.is_floating_point():  # such as the number of batches of BatchNorm
                mean.copy_(value)
        steps += 1
        average.n_averaged += 1

    optimizer.register_step_post_hook(update)
    return average


def warmup_epochs(epochs: float) -> float:
    """Return ten epochs, or a tenth of a run shorter than a hundred."""
    return min(10.0, epochs / 10)


def cosine_lr(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Return the learning rate of a linear warm-up from 0 to ``peak``, then a half cosine to a thousandth of it.

    Args:
        step: Step, from 0.
        total_steps: Step at which the half cosine ends.
        warmup_steps: Steps of the warm-up.
        peak: Highest learning rate; ``lr * batch_size / 256`` in the reference.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (cosine + 0.001 * (1 - cosine))


def one_cycle_lr(step: int, total_steps: int, peak: float, rise: float = 0.3) -> float:
    """Return the learning rate of one cycle (Smith & Topin 2018), as ``torch.optim.lr_scheduler.OneCycleLR``.

    Args:
        step: Step, from 0 and below ``total_steps``.
        total_steps: Steps of the run.
        peak: Highest learning rate.
        rise: Fraction of the steps on the way up.
    """
    top, end = rise * total_steps - 1, total_steps - 1  # steps with the highest and the lowest learning rate
    if step <= top:
        start, stop, progress = 1 / 25, 1.0, step / top if top > 0 else 1.0
    else:
        start, stop, progress = 1.0, 4e-6, min(1.0, (step - top) / (end - top))
    return peak * (stop + (start - stop) / 2 * (1 + math.cos(math.pi * progress)))
