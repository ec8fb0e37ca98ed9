"""Processes: who am I, how many are we, and the few collectives that the rest needs.

Everything here works in one process too, where no process group exists.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from vicreg import heartbeat
from vicreg.distributed import slurm
from vicreg.rendezvous import first_line, meet


def add_arguments(parser):
    """Arguments that launchers pass (both spellings: ``torch.distributed.launch`` changed its own), and of waiting."""
    group = parser.add_argument_group("processes (told by torchrun, torch.distributed.launch or srun)")
    group.add_argument("--local-rank", "--local_rank", type=int, default=0, help="ignored where LOCAL_RANK is set")
    group.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU for each process if there is one"
    )
    group.add_argument(
        "--timeout-minutes", type=float, default=10.0,
        help="how long processes wait for each other, at the start and in each exchange; more for slow disks",
    )  # fmt: skip
    group.add_argument(
        "--lost-after", type=float, default=40.0,
        help="seconds without a sign of life until a process counts as lost and all others end; 0: never",
    )  # fmt: skip


def init(device="auto", local_rank=0, timeout_minutes=10.0, lost_after=40.0):
    """Join the process group that the launcher describes in the environment, if it describes one.

    Args:
        device: "auto", "cuda" or "cpu". GPUs talk nccl, CPUs gloo.
        local_rank: used where the launcher sets no LOCAL_RANK.
        timeout_minutes: how long to wait for the others, here and in each collective.
        lost_after: seconds without a sign of life until another process counts as lost; 0 never.

    Returns:
        torch.device of this process.

    Raises:
        ValueError: numbers that cannot be, CUDA was asked for and there is none, or there are more processes than GPUs
            on this machine.
        ConnectionError: the processes did not find each other.
    """
    if not timeout_minutes > 0 or not (lost_after == 0 or lost_after >= 1):
        raise ValueError("--timeout-minutes must be positive, --lost-after 0 or a second at least")
    if not dist.is_initialized():  # else it is settled already who is who, here or by another launcher
        os.environ.update(slurm.process(os.environ))  # as torchrun leaves it, for everything that reads RANK
    timeout, group = timedelta(minutes=timeout_minutes), {}
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        store, number, processes, name = meet(timeout_minutes)
        store = dist.PrefixStore(f"vicreg/{name}", store)
        if processes > 1 and lost_after:
            heartbeat.start(store, number, processes, lost_after, name)
        group = {"store": store, "rank": number, "world_size": processes}
    place = _choose_device(device, int(os.environ.get("LOCAL_RANK", local_rank)))
    if group:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timeout, **group)
    return place


def _choose_device(device, local_rank):
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU is visible to PyTorch; use --device cpu or check nvidia-smi")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if slurm.TASK in os.environ and visible == 1:
        local_rank = 0  # srun --gpus-per-task=1 shows each task its own GPU only
    if local_rank >= visible:
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: {visible} visible; lower --nproc_per_node "
            "(or --ntasks-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def destroy():
    """Leave the process group, once all processes have come as far."""
    heartbeat.leave()
    if dist.is_initialized():
        dist.destroy_process_group()


def is_collective_error(error):
    """What a failed collective says, in one line; None where an error is something else.

    Gloo raises plain RuntimeErrors ("[…/gloo/transport/tcp/pair.cc:534] Connection closed by peer …").
    """
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return first_line(error).partition("] ")[2] or first_line(error)
    return None


def rank():
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    """True in the one process that writes files and talks to the terminal."""
    return rank() == 0


def all_reduce(tensor, op="sum"):
    """Sum (or ``op="max"``) of a tensor over the processes, in place, without gradient."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
    return tensor


def all_gather_cat(tensor):
    """Join the rows of all processes, in rank order, without gradient.

    Args:
        tensor: (n, …), with an n that may differ between processes.

    Returns:
        tensor (sum of all n, …) on every process.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    counts = torch.zeros(world_size(), dtype=torch.long, device=tensor.device)
    counts[rank()] = len(tensor)
    counts = all_reduce(counts).tolist()
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast_buffers(module):
    """Give every process the first one's buffers: BatchNorm statistics that are not synchronized drift apart."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def assert_equal_across_ranks(number, what, device):
    """Make sure that all processes found as many of something.

    Args:
        number: that this process found. what: in words. device: of this process.

    Raises:
        ValueError: they did not; training would stop dead where the first one ends.
    """
    least, most = (all_reduce(torch.tensor(sign * number, device=device), "max").item() * sign for sign in (-1, 1))
    if least != most:
        raise ValueError(f"the processes found between {least} and {most} {what}; do all machines see the same folder?")
