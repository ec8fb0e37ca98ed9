"""How features lie on the unit sphere: positives close together, everything else spread out."""

import math

import numpy as np
import torch

from preprocessing.temporal import TemporalPairs


def positive_pairs(places, seed=0):
    """For each sample another one of its place; samples that are alone at theirs are left out.

    Args:
        places: (n,). seed: of the choice.

    Returns:
        int64 (m, 2) of indices; m = 0 where no place has two samples.
    """
    pairs = TemporalPairs(places)
    draws = np.random.default_rng([seed, 4]).integers(0, 2**63 - 1, len(places))
    partners = [pairs.partner(index, int(draw)) for index, draw in enumerate(draws)]
    found = np.stack([np.arange(len(places)), np.array(partners, np.int64)], 1)
    return found[found[:, 0] != found[:, 1]]


def alignment(features, pairs, power=2):
    """Mean distance of positives, to a power (Wang & Isola 2020, equation 1); 0 is best, 4 the most.

    Args:
        features: (n, F), of any length; their directions count. pairs: (m, 2) indices.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    pairs = torch.as_tensor(pairs, device=unit.device)
    return float((unit[pairs[:, 0]] - unit[pairs[:, 1]]).norm(dim=1).pow(power).double().mean())


def uniformity(features, t=2.0, chunk=2048):
    """Log of the mean Gaussian potential of all pairs (Wang & Isola 2020, equation 2); 0 is a collapse, lower better.

    Args:
        features: (n, F), n > 1; their directions count. t: of exp(-t |x - y|^2). chunk: rows at a time.
    """
    unit, total = torch.nn.functional.normalize(features.float(), dim=1), 0.0
    if len(unit) < 2:
        return math.nan
    for part in unit.split(chunk):
        total += torch.exp(2 * t * (part @ unit.T - 1)).double().sum().item()  # |x - y|^2 = 2 - 2 x y
    own = torch.exp(2 * t * (unit.square().sum(1) - 1)).double().sum().item()  # each sample with itself
    return math.log((total - own) / (len(unit) * (len(unit) - 1)))
