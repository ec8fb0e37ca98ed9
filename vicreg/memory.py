"""How much memory a run is going to need, worked out before its first step without computing anything."""

import os
from pathlib import Path

import torch

from vicreg.models.backbones import create_backbone
from vicreg.models.vicreg import VICReg

_MARGIN = 1.2  # an estimate; only a plan that misses by more than this is refused


def bytes_of_one_pair(arch, in_chans, size, widths, bf16=False):
    """Memory that the forward pass keeps for the backward pass, and the size of the weights.

    The network runs on PyTorch's meta device, which knows shapes but holds no numbers.

    Args:
        arch, in_chans, widths: of the network. size: side of the views, pixels. bf16: autocast.

    Returns:
        (bytes kept for each pair of views, bytes of all parameters in float32).

    Raises:
        ValueError: the backbone does not take views of this size.
    """
    samples, kept = 2, {}
    network = _without_numbers(arch, in_chans, widths)
    views = torch.empty(samples, in_chans, size, size, device="meta")
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage  # held, so that no other storage gets this number
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = network(views, views)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{arch} cannot take views of {size} pixels ({error}); change --image-size") from error
    del outputs
    activations = sum(storage.nbytes() for storage in kept.values()) / samples
    return activations * (0.5 if bf16 else 1.0), sum(p.numel() * p.element_size() for p in network.parameters())


def _without_numbers(arch, in_chans, widths):
    """The network on the meta device; by way of the CPU where timm reads numbers as it builds (Swin before 1.0.22)."""
    try:
        with torch.device("meta"):
            return VICReg(create_backbone(arch, in_chans), widths)
    except NotImplementedError:
        return VICReg(create_backbone(arch, in_chans), widths).to("meta")


def estimate(pair, weights, share, batch_size, dim, accumulate=1, processes=1, bf16=False):
    """Peak memory of a training step in bytes, on one process.

    Args:
        pair, weights: from ``bytes_of_one_pair``. share: pairs of this process. batch_size: of all processes.
        dim: width of the embeddings. accumulate: micro-batches of a step.
    """
    # weights, gradients, momentum and LARS' updates; bf16 copies of the weights under autocast
    fixed = weights * (4.5 if bf16 else 4)
    micro = -(-share // accumulate)
    # both views: the embeddings of all processes, centered, gradients of our own; and one N x N (or D x D) at a time
    embeddings = 2 * 4 * dim * (2 * batch_size * (2 if processes > 1 else 1) + 2 * share)
    return fixed + micro * pair + embeddings + 2 * 4 * min(batch_size, dim) ** 2


_CGROUP = "/sys/fs/cgroup"


def available(device):
    """Bytes that this process may still take: free GPU memory, or its share of the machine's (or the container's)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _free_main_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _free_main_memory():
    free = float("inf")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024 * int(line.split()[1])
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        most, now = (_read(f"{_CGROUP}/{name}").strip() for name in (limit, used))
        if most.isdigit() and now.isdigit():
            counts = dict(line.split() for line in _read(f"{_CGROUP}/{stat}").splitlines() if len(line.split()) == 2)
            reclaimed = int(counts.get(cache, 0))  # pages of files that were read, which count as used until needed
            free = min(free, int(most) - int(now) + reclaimed)
    return free


def _read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def check_fits(need, have, fixed_numbers, accumulate, share):
    """Refuse a plan that cannot fit.

    Args:
        need, have: bytes. fixed_numbers: the other arguments of ``estimate`` as a dict.
        accumulate: micro-batches of the plan. share: pairs of this process.

    Raises:
        ValueError: with the flag to change.
    """
    if need <= _MARGIN * have:
        return
    message = f"a step needs about {need / 1e9:.1f} GB and {have / 1e9:.1f} GB are free"
    more = accumulate * 2
    while share // more >= 2:
        with_more = estimate(share=share, accumulate=more, **fixed_numbers)
        if with_more <= 0.9 * have:
            raise ValueError(f"{message}; --accumulate {more} would need {with_more / 1e9:.1f} GB")
        more *= 2
    raise ValueError(f"{message}; lower --batch-size, --image-size or the widths in --mlp, or choose a smaller --arch")
