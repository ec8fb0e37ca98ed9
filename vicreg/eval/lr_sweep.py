"""Linear heads with many learning rates on cached features, all trained in one pass."""

import math

import numpy as np
import torch

RATES = tuple(float(f"{10 ** (n / 2 - 3):.3g}") for n in range(13))  # 0.001 to 1000, two a decade


@torch.no_grad()
def lr_sweep(
    features, labels, classes, rates=RATES, epochs=50, batch_size=256, weight_decay=1e-6, momentum=0.9, seed=0
):
    """Train one linear classifier for each rate: the same beginning, the same batches, one matrix product for all.

    The reference protocol: weights from N(0, 0.01), zero bias, SGD with momentum, a cosine over the epochs. The loss of
    a head reaches that head alone, so each ends where it would have ended by itself.

    Args:
        features: float (n, F). labels: int (n,). classes: how many. rates: of the heads.
        epochs: passes over the samples. batch_size: samples a step; what does not fill a batch is left out.

    Returns:
        weight (heads, classes, F) and bias (heads, classes).
    """
    (n, width), heads = features.shape, len(rates)
    like = {"device": features.device, "dtype": features.dtype}
    random, batch_size = torch.Generator().manual_seed(seed), min(batch_size, n)
    weight = (0.01 * torch.randn(classes, width, generator=random)).to(**like).repeat(heads, 1)
    bias = torch.zeros(heads * classes, **like)
    moved = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rate = torch.tensor(rates, **like).repeat_interleave(classes)
    for epoch in range(epochs):
        now = rate * (0.5 * (1 + math.cos(math.pi * epoch / epochs)))
        order = torch.randperm(n, generator=random).to(features.device)
        for batch in order[: n // batch_size * batch_size].split(batch_size):
            x, label = features[batch], labels[batch, None, None].expand(-1, heads, 1)
            error = torch.addmm(bias, x, weight.T).view(-1, heads, classes).softmax(2)
            error.scatter_add_(2, label, error.new_full(label.shape, -1.0))  # gradient of the cross-entropy
            error = error.flatten(1) / batch_size
            gradients = [torch.mm(error.T, x), error.sum(0)]
            for value, gradient, velocity, step in zip((weight, bias), gradients, moved, (now[:, None], now),
                                                       strict=True):  # fmt: skip
                velocity.mul_(momentum).add_(gradient.add_(value, alpha=weight_decay))
                value.sub_(step * velocity)
    return weight.view(heads, classes, width), bias.view(heads, classes)


@torch.no_grad()
def rank_classes(weight, bias, features, most=5, chunk=4096):
    """What each head takes samples for: (heads, n, most) classes, the likeliest first; a head that diverged says 0."""
    heads, classes, width = weight.shape
    found = []
    for part in features.split(chunk):
        logits = torch.addmm(bias.flatten(), part, weight.reshape(-1, width).T).view(-1, heads, classes)
        finite = logits.isfinite().all(2, keepdim=True)
        falling = -torch.arange(classes, device=logits.device, dtype=logits.dtype)
        found.append(torch.where(finite, logits, falling).topk(min(most, classes), dim=2).indices)
    return torch.cat(found).transpose(0, 1)


def select_lr(scores):
    """Place of the best score; of several that are equally good the middle one, since few samples often tie.

    The first would be the smallest rate, whose head has hardly left its random beginning.
    """
    best = np.flatnonzero(np.asarray(scores) == max(scores))
    return int(best[len(best) // 2])
