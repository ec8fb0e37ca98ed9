"""Named, stateless random streams: every random number follows from (seed, name, counters)."""

import hashlib

import numpy as np
import torch


def _entropy(seed: int, name: str, counters: tuple[int, ...]) -> list[int]:
    digest = hashlib.sha256(name.encode()).digest()
    return [seed, *np.frombuffer(digest[:16], np.uint32).tolist(), *counters]


def rng(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Return the NumPy generator of a named stream.

    The same arguments give the same numbers, in any process and after any restart; streams of different names or
    counters are independent.

    Args:
        seed: Seed of the run.
        name: Name of the stream, such as ``"order"`` or ``"label_subset"``.
        *counters: Position within the stream, such as an epoch or a step.

    Example:
        >>> rng(0, "order", 3).permutation(4).shape
        (4,)
    """
    return np.random.default_rng(_entropy(seed, name, counters))


def torch_rng(seed: int, name: str, *counters: int) -> torch.Generator:
    """Return the CPU ``torch.Generator`` of a named stream; see ``rng``."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *counters))


def stream_seed(seed: int, name: str, *counters: int) -> int:
    """Return a 63-bit seed of a named stream, for generators of other libraries; see ``rng``."""
    return int(rng(seed, name, *counters).integers(0, 2**63 - 1))
