"""Set up the process group, and the collectives that training and evaluation need.

Every function also works in a single process without a process group.
"""

import argparse
import atexit
import contextlib
import gc
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # DistributedDataParallel imports it; see _release_groups

from vicreg.distributed import slurm
from vicreg.distributed.rendezvous import first_line, rendezvous

_MAX_MINUTES = 1e6
_timeout = timedelta(minutes=5)  # of the process group, set by init
_groups: list[dist.ProcessGroup | None] = []  # until Python exits; see _release_groups


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--local-rank``, ``--device`` and ``--timeout-minutes`` to a parser.

    ``torch.distributed.launch`` passes ``--local_rank`` or ``--local-rank``, depending on its version.
    """
    group = parser.add_argument_group("distributed (torchrun, torch.distributed.launch or srun set the rest)")
    group.add_argument("--local-rank", "--local_rank", type=int, default=0, help="ignored if LOCAL_RANK is set")
    group.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: one GPU per process if available"
    )
    group.add_argument(
        "--timeout-minutes", type=float, default=5.0,
        help="time-out of the process group: how long a process waits for the others at the start and in each "
        "collective before it exits",
    )  # fmt: skip


def init(device: str = "auto", local_rank: int = 0, timeout_minutes: float = 5.0) -> torch.device:
    """Select the device and join the process group that RANK and WORLD_SIZE describe, if they are set.

    Args:
        device: ``"auto"``, ``"cuda"`` or ``"cpu"``. The backend is NCCL on GPUs and Gloo on CPUs.
        local_rank: Index of this process on its machine; LOCAL_RANK takes precedence.
        timeout_minutes: How long to wait for the other processes, at the start and in each collective.

    Returns:
        The device of this process.

    Raises:
        ValueError: ``timeout_minutes`` is not positive, CUDA is requested but not available, or this machine has fewer
            GPUs than processes.
        ConnectionError: Another process did not connect within the time-out.
    """
    global _timeout
    if not 0 < timeout_minutes < _MAX_MINUTES:
        raise ValueError(f"--timeout-minutes {timeout_minutes:g}: must be positive and less than {_MAX_MINUTES:g}")
    if not dist.is_initialized():  # else another launcher has assigned the ranks
        os.environ.update(slurm.launch_environment(os.environ))
    selected = _select_device(device, int(os.environ.get("LOCAL_RANK", local_rank)))
    _timeout = timedelta(minutes=timeout_minutes)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        store, rank, world_size = rendezvous(_timeout)
        backend = "nccl" if selected.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_timeout)
        _groups.append(dist.group.WORLD)
        atexit.register(_release_groups)
    return selected


def _select_device(device: str, local_rank: int) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU is visible to PyTorch; use --device cpu or check nvidia-smi")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if slurm.SRUN_TASK in os.environ and visible == 1:
        local_rank = 0  # srun --gpus-per-task=1 shows each task only its own GPU
    if local_rank >= visible:
        raise ValueError(
            f"local rank {local_rank} has no GPU: {visible} visible on {socket.gethostname()}; lower --nproc_per_node "
            "(or --ntasks-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def timeout_seconds() -> float:
    """Return the time-out of the process group, that of ``init``."""
    return _timeout.total_seconds()


def destroy(wait: bool = False) -> None:
    """Leave the process group.

    Args:
        wait: First wait for the other processes. For an exit code other than 0, at which launchers end the processes
            that are still at work, such as rank 0 writing a checkpoint.
    """
    if not dist.is_initialized():
        return
    if wait:
        with contextlib.suppress(RuntimeError):
            dist.barrier()
    dist.destroy_process_group()


def _release_groups() -> None:
    """Release the process groups, and wait for their threads, before Python exits.

    A thread of Gloo that still releases the tensor of a collective when Python exits aborts the process ("terminate
    called without an active exception"; PyTorch pull request 179291). The threads end with the last reference to the
    process group. That has to be the one here: a model under DistributedDataParallel, which is often part of a cycle,
    would wait for them with the lock that they need. The default arguments of ``torch.distributed.nn.functional`` are
    references as well if it is imported after ``init``.
    """
    gc.collect()
    _groups.clear()


def synchronize(event: torch.cuda.Event) -> None:
    """Wait for a CUDA event that depends on a collective, for less than the time-out of the process group.

    NCCL collectives time out in a thread of PyTorch that aborts the process. Here the caller gets an exception first.

    Raises:
        RuntimeError: The event did not complete in time; ``collective_error`` describes it.
    """
    deadline = time.monotonic() + 0.9 * _timeout.total_seconds()
    while not event.query():
        if time.monotonic() > deadline:
            raise dist.DistError(f"NCCL: timed out after {0.9 * _timeout.total_seconds():.0f} s")
        time.sleep(2e-4)


def collective_error(error: BaseException) -> str | None:
    """Return the message of a failed collective in one line, or None for any other error.

    Gloo raises plain RuntimeErrors ("[…/gloo/transport/tcp/pair.cc:534] Connection closed by peer …").
    """
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return first_line(error).partition("] ")[2] or first_line(error)
    return None


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return True in rank 0, the process that writes files and prints."""
    return rank() == 0


def all_reduce(tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
    """Reduce a tensor over all processes, in place and without gradient.

    Args:
        tensor: Tensor of the same shape on every process.
        op: ``"sum"`` or ``"max"``.
    """
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
    return tensor


def average(**values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Average scalar tensors over the processes. One collective call."""
    joined = all_reduce(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, joined / world_size(), strict=True))


def all_gather_cat(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all processes in rank order, without gradient.

    Args:
        tensor: Shape (n, …); n may differ between processes.

    Returns:
        Tensor of shape (sum of all n, …), the same on every process.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    counts = torch.zeros(world_size(), dtype=torch.long, device=tensor.device)
    counts[rank()] = len(tensor)
    sizes = all_reduce(counts).tolist()
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])


def all_gather_equal(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Gather tensors as ``all_gather_cat`` does, in one collective and without reading anything back from a GPU.

    Args:
        *tensors: Shape (n, …), one for all of them; n is the same on every process.
    """
    tensors = tuple(tensor.detach() for tensor in tensors)
    if world_size() == 1:
        return list(tensors)
    stacked = torch.stack(tensors, 1)
    gathered = [torch.empty_like(stacked) for _ in range(world_size())]
    dist.all_gather(gathered, stacked)
    return [rows.contiguous() for rows in torch.cat(gathered).unbind(1)]


def scale_gradient(local: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` with the gradient of ``local`` times the number of processes, by which DDP divides it."""
    return value + world_size() * (local - local.detach())


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Copy the buffers of rank 0 to all processes: BatchNorm statistics differ between them without SyncBatchNorm."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def check_same_across_ranks(values: Mapping[str, Any], what: str = "options") -> None:
    """Check that all processes have the same values, such as their options. A collective call.

    Args:
        values: Values by their name, compared as text.
        what: What the values are, for the message.

    Raises:
        ValueError: A value differs; all processes raise the same message, which names the values and the ranks.
    """
    gathered: list[dict[str, str]] = [{}] * world_size()
    if world_size() > 1:
        dist.all_gather_object(gathered, {name: str(value) for name, value in values.items()})
    differences = []
    for name in dict.fromkeys(name for one in gathered for name in one):
        ranks: dict[str, list[str]] = {}
        for number, one in enumerate(gathered):
            ranks.setdefault(one.get(name, "nothing"), []).append(str(number))
        if len(ranks) > 1:
            parts = [f"{value} on rank {', '.join(numbers)}" for value, numbers in ranks.items()]
            differences.append(f"{name} is {' and '.join(parts)}")
    if differences:
        raise ValueError(f"the processes were started with different {what}: {'; '.join(differences)}")
