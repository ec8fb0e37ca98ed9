"""Distributed process groups."""

from vicreg.distributed.process_group import (
    add_arguments,
    all_reduce,
    gather_rows,
    is_main,
    lost_contact,
    rank,
    same_everywhere,
    share_buffers,
    start,
    stop,
    world_size,
)

__all__ = [
    "add_arguments",
    "all_reduce",
    "gather_rows",
    "is_main",
    "lost_contact",
    "rank",
    "same_everywhere",
    "share_buffers",
    "start",
    "stop",
    "world_size",
]
