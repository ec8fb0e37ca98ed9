"""Learning rates: a linear warm-up, then half a cosine; or one cycle, up and down."""

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


def one_cycle(step, total_steps, peak, rise=0.3, start_ratio=1 / 25, final_ratio=4e-6):
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
