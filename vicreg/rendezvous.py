"""How the processes of a run find each other, and only those of this very start."""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist


def meet(minutes):
    """Wait for all processes that RANK and WORLD_SIZE speak of at MASTER_ADDR:MASTER_PORT.

    torchrun keeps one store over its restarts, and a process that is quicker than the others would read there where
    those of the last attempt could be reached. So the first process hands out a name for each attempt.

    Args:
        minutes: how long to wait.

    Returns:
        (store, rank, world_size, name): ``name`` is new, and the same in all processes; the store is free to use
        below it (``PrefixStore``).

    Raises:
        ConnectionError: somebody did not come, with who and where.
    """
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=timedelta(minutes=minutes)))
        name = _agree(store, rank, world_size, time.monotonic() + 60 * minutes)
    except (RuntimeError, TimeoutError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConnectionError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} (counted from 0) did not meet the others at "
            f"{where} within {minutes:g} minutes: {first_line(error)}. Is each of them started, is the port free "
            "(MASTER_PORT=… chooses another), and does the name lead to the first machine?"
        ) from error
    return store, rank, world_size, name


def first_line(error):
    """The first line of an error's message: PyTorch's go on with C++ frames."""
    return str(error).strip().partition("\n")[0].rstrip(". ")


def _agree(store, rank, world_size, deadline):
    """A name for this attempt, whatever an earlier one has left in the store.

    The first process writes a new name. The others answer it with a number of their own until the first has seen all
    answers to its name, and lists their numbers: who finds itself in the list knows that the name is not an old one.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("vicreg/name", mine)
        missing, numbers = set(range(1, world_size)), []
        while missing:
            for other in sorted(missing):
                key = f"vicreg/answer/{other}"
                name, _, number = store.get(key).decode().partition(" ") if store.check([key]) else ("", "", "")
                if name == mine:
                    missing.discard(other)
                    numbers.append(number)
            if missing:
                _pause(deadline, f"no sign of process {', '.join(map(str, sorted(missing)[:8]))}")
        store.set(f"vicreg/list/{mine}", " ".join(numbers))
        return mine
    while True:
        name = store.get("vicreg/name").decode() if store.check(["vicreg/name"]) else ""
        store.set(f"vicreg/answer/{rank}", f"{name} {mine}")
        if store.check([f"vicreg/list/{name}"]) and mine in store.get(f"vicreg/list/{name}").decode():
            return name
        _pause(deadline, "the first process does not answer")


def _pause(deadline, problem):
    if time.monotonic() > deadline:
        raise TimeoutError(problem)
    time.sleep(0.05)
