"""Distributed process groups."""

from vicreg.distributed.process_group import (  # noqa: F401
    add_arguments,
    all_gather_cat,
    all_gather_equal,
    all_reduce,
    average,
    broadcast_buffers,
    check_same_across_ranks,
    collective_error,
    destroy,
    init,
    is_main,
    rank,
    synchronize,
    world_size,
)
