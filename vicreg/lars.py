"""LARS, as VICReg's authors use it: momentum SGD whose step is scaled layer by layer."""

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
