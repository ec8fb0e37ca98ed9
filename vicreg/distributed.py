"""Processes: who am I, how many are we, and the few collectives that the rest needs.

Everything here works in one process too, where no process group exists.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist


def add_arguments(parser):
    """Arguments that launchers pass. Both spellings, since ``torch.distributed.launch`` changed its own."""
    group = parser.add_argument_group("processes (set by torchrun or torch.distributed.launch)")
    group.add_argument("--local-rank", "--local_rank", type=int, default=0, help="ignored where LOCAL_RANK is set")
    group.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU for each process if there is one"
    )


def start(device="auto", local_rank=0):
    """Join the process group that the launcher describes in the environment, if it describes one.

    Args:
        device: "auto", "cuda" or "cpu". GPUs talk nccl, CPUs gloo.
        local_rank: used where the launcher sets no LOCAL_RANK.

    Returns:
        torch.device of this process.

    Raises:
        ValueError: CUDA was asked for and there is none, or there are more processes than GPUs on this machine.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", local_rank))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU is visible to PyTorch; use --device cpu or check nvidia-smi")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} visible; "
                "lower --nproc_per_node"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    else:
        place = torch.device("cpu")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    return place


def stop():
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


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


def gather_rows(tensor):
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


def share_buffers(module):
    """Give every process the first one's buffers: BatchNorm statistics that are not synchronised drift apart."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def same_everywhere(number, what, device):
    """Make sure that all processes found as many of something.

    Args:
        number: that this process found. what: in words. device: of this process.

    Raises:
        ValueError: they did not; training would stop dead where the first one ends.
    """
    least, most = (all_reduce(torch.tensor(sign * number, device=device), "max").item() * sign for sign in (-1, 1))
    if least != most:
        raise ValueError(f"the processes found between {least} and {most} {what}; do all machines see the same folder?")
