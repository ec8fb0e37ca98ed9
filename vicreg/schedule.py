"""The learning rate: linear warm-up, then half a cosine."""

import math


def warmup_epochs(epochs):
    """Ten epochs, or a tenth of a run shorter than a hundred."""
    return min(10.0, epochs / 10)


def learning_rate(step, total_steps, warmup_steps, peak, final_ratio=0.001):
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
