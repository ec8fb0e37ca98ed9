"""Divide work on many files among the processes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from vicreg.distributed.process_group import check_same_across_ranks, rank, world_size

T = TypeVar("T")
R = TypeVar("R")


def map_shares(function: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T]) -> list[R]:
    """Apply a function to an equal share of the items in each process. A collective call.

    Args:
        function: Function of some items that returns as many results in order.
        items: The same items in all processes.

    Returns:
        The results of all items in order, the same in all processes.

    Raises:
        ValueError: ``function`` raised it in one process, and now in all, or another process has other items.
    """
    check_same_across_ranks({"number of files": len(items)}, "data")
    parts: list[Any] = [None] * world_size()
    try:
        parts[rank()] = list(function(items[rank() :: world_size()]))
    except ValueError as error:
        parts[rank()] = error
    if world_size() > 1:
        dist.all_gather_object(parts, parts[rank()])
    results: list[Any] = [None] * len(items)
    for number, part in enumerate(parts):
        if isinstance(part, ValueError):
            raise part
        results[number :: world_size()] = part
    return results
