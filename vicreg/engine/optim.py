"""LARS, as VICReg's authors use it: momentum SGD whose step is scaled layer by layer."""

import math

import torch


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, algorithm 1).

    For a matrix p with gradient g: ``u = g + weight_decay * p``, ``u *= eta * |p| / |u|`` (1 where a norm is zero),
    ``m = momentum * m + u``, ``p -= lr * m``. Vectors (biases, norms) take neither weight decay nor adaptation.
    All tensors are updated at once (``torch._foreach_*``): an expander has 150 M parameters.

    Args:
        params: parameters or groups. lr: step size, set by the schedule. weight_decay, momentum, eta: as above.
    """

    def __init__(self, params, lr=0.0, weight_decay=0.0, momentum=0.9, eta=0.001):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; returns the closure's loss if one is given."""
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

    def _update(self, params, adapted, lr, weight_decay, momentum, eta):
        updates = [p.grad for p in params]
        if adapted:
            updates = torch._foreach_add(updates, params, alpha=weight_decay)
            sizes = torch._foreach_norm(params)
            ratios = []
            for size, norm in zip(sizes, torch._foreach_norm(updates), strict=True):
                ratios.append(torch.where((size > 0) & (norm > 0), eta * size / norm, 1.0))
            torch._foreach_mul_(updates, ratios)
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(params, buffers, alpha=-lr)


def build_optimizer(name, model, weight_decay, momentum=0.9):
    """LARS as in the paper, AdamW, or SGD with a momentum; none decays vectors (biases, norms)."""
    if name == "lars":
        return LARS(model.parameters(), weight_decay=weight_decay)
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2]}, {"params": vectors, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay)


def warmup_epochs(epochs):
    """Ten epochs, or a tenth of a run shorter than a hundred."""
    return min(10.0, epochs / 10)


def cosine_lr(step, total_steps, warmup_steps, peak, final_ratio=0.001):
    """Rate at a step, counted from 0.

    Rises linearly from 0 to ``peak`` over ``warmup_steps``, then follows a half cosine down to
    ``final_ratio * peak`` at ``total_steps``.

    Args:
        step: 0 to total_steps. peak: ``base_lr * batch_size / 256`` in the reference.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (cosine + final_ratio * (1 - cosine))


def one_cycle_lr(step, total_steps, peak, rise=0.3, start_ratio=1 / 25, final_ratio=4e-6):
    """Rate at a step of one cycle (Smith & Topin 2018): half a cosine up, half a cosine down; torch's OneCycleLR.

    Args:
        step: counted from 0, below total_steps. peak: highest rate. rise: share of the steps on the way up.
        start_ratio, final_ratio: of the first and the last step's rate to the peak.
    """
    top, end = rise * total_steps - 1, total_steps - 1  # steps with the highest and the lowest rate
    if step <= top:
        begin, goal, progress = start_ratio, 1.0, step / top if top > 0 else 1.0
    else:
        begin, goal, progress = 1.0, final_ratio, min(1.0, (step - top) / (end - top))
    return peak * (goal + (begin - goal) / 2 * (1 + math.cos(math.pi * progress)))
