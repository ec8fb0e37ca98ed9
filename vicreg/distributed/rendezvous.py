"""Connect the processes of one attempt of a run through PyTorch's ``env://`` rendezvous."""

import contextlib
import ipaddress
import os
import socket
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def rendezvous(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Wait for all processes that RANK and WORLD_SIZE describe at MASTER_ADDR:MASTER_PORT.

    Args:
        timeout: How long to wait, and the time-out of the store.

    Returns:
        A store that no earlier attempt has used, the rank of this process and the number of processes.

    Raises:
        ConnectionError: A process did not connect in time.
        ValueError: MASTER_ADDR or MASTER_PORT is not set.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store = _connect_store(rank, world_size, timeout)
        _check_job(store, rank)
        return dist.PrefixStore(_agree_on_attempt(store, rank, world_size, timeout), store), rank, world_size
    except (RuntimeError, TimeoutError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConnectionError(
            f"rank {rank} of {world_size} could not connect to the other processes at {where} (--timeout-minutes "
            f"{timeout.total_seconds() / 60:g}): {first_line(error)}. Check that every process is running, that "
            "MASTER_ADDR is the address of the machine of rank 0 and that MASTER_PORT is free there"
        ) from error


def _job_id() -> str:
    """Return the job that torchrun or SLURM names; an empty string if none does."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" without --rdzv-id
    return run if run != "none" else os.environ.get("SLURM_JOB_ID", "")


def _check_job(store: dist.Store, rank: int) -> None:
    """Refuse the store of another job, which listens on the same port.

    Raises:
        RuntimeError: Rank 0 belongs to another job. Processes without a job id are not compared.
    """
    if rank == 0:
        store.set("vicreg/job", _job_id())
    elif (job := store.get("vicreg/job").decode()) and _job_id() not in ("", job):
        raise RuntimeError(f"job {job} uses this address, this process is of job {_job_id()}; set another MASTER_PORT")


def _connect_store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Connect to the store at MASTER_ADDR:MASTER_PORT; rank 0 serves it unless torchrun does."""
    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and "MASTER_PORT" in os.environ:
        address, port = os.environ.get("MASTER_ADDR", ""), int(os.environ["MASTER_PORT"])
        listener = _listen(address, port)
        if listener is not None:
            return dist.TCPStore(
                address, port, world_size, is_master=True, timeout=timeout, wait_for_workers=False,
                master_listen_fd=listener.detach(), use_libuv=False,  # libuv ignores the socket before torch 2.8
            )  # fmt: skip
    return next(dist.rendezvous("env://", timeout=timeout))[0]


def _listen(address: str, port: int) -> socket.socket | None:
    """Listen on the rendezvous address only: TCPStore listens on all interfaces by itself.

    Returns:
        The socket; None if the address cannot be bound here, or if it is a loopback address that processes on other
        machines may not be using (the machine's own name in /etc/hosts, or one process per container).
    """
    with contextlib.suppress(OSError):
        family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        local_only = address in _LOOPBACK and "LOCAL_RANK" in os.environ
        if local_only or not ipaddress.ip_address(target[0]).is_loopback:
            return socket.create_server(target[:2], family=family, backlog=1024)
    return None


def _agree_on_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Agree on a key prefix that no earlier attempt has used.

    torchrun keeps one store over its restarts (pytorch/pytorch#135712), where a process would read the addresses of
    the attempt before. Restart counts do not tell attempts apart: they differ between machines. So each process
    posts a random token, rank 0 answers each token with the prefix, and each process confirms it.

    Raises:
        TimeoutError: A process did not confirm in time. RuntimeError: Rank 0 did not answer in time.
    """
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"vicreg/token/{rank}", name)
        name = store.get(name).decode()  # waits
        store.set(f"{name}/{rank}", "")
        return name
    deadline, missing = time.monotonic() + timeout.total_seconds(), list(range(1, world_size))
    while missing:
        for other in missing:
            if store.check([f"vicreg/token/{other}"]):  # perhaps of an earlier attempt; nobody waits for that answer
                store.set(store.get(f"vicreg/token/{other}").decode(), name)
        time.sleep(0.02)
        missing = [other for other in missing if not store.check([f"{name}/{other}"])]
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"no sign of rank {', '.join(map(str, missing[:8]))}")
    return name


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; PyTorch appends C++ stack frames."""
    return str(error).strip().partition("\n")[0].rstrip(". ")
