"""Distributed process groups."""

from vicreg.distributed.process_group import (
    add_arguments,
    all_gather_cat,
    all_reduce,
    assert_equal_across_ranks,
    broadcast_buffers,
    destroy,
    init,
    is_collective_error,
    is_main,
    rank,
    world_size,
)

__all__ = [
    "add_arguments",
    "all_reduce",
    "all_gather_cat",
    "is_main",
    "is_collective_error",
    "rank",
    "assert_equal_across_ranks",
    "broadcast_buffers",
    "init",
    "destroy",
    "world_size",
]
