"""Device placement and data parallelism: memory, channels_last, SyncBatchNorm, DistributedDataParallel."""

import ctypes
import os
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vicreg import distributed
from vicreg.common.config import by_flag
from vicreg.engine.config import RunConfig

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def init_device(config: RunConfig) -> torch.device:
    """Join the process group, choose this process's device, and select deterministic algorithms if configured.

    Call it before the first CUDA operation. Further calls return the same device.

    Raises:
        ValueError: Another process was started with another configuration.
    """
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    device = distributed.init(config.device, config.local_rank, config.timeout_minutes)
    if device.type == "cpu":
        reuse_freed_memory()
    distributed.check_same_across_ranks(by_flag(config))
    return device


def reuse_freed_memory() -> bool:
    """Let the C library keep freed memory for later allocations of this process.

    By default, glibc returns every freed block above 32 MiB to the kernel. A training step on a CPU allocates the same
    gigabytes as the one before, and the kernel would clear and map each page anew. With a GPU, memory that is freed
    before training would be kept for nothing. Environment variables of the allocator (``MALLOC_*``,
    ``GLIBC_TUNABLES``) take precedence.

    Returns:
        Whether the C library took the setting; False for other libraries than glibc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def to_device(model: nn.Module, device: torch.device, compile: bool = False) -> nn.Module:
    """Move a model to a device in channels_last format, with SyncBatchNorm on several GPUs.

    The parameters keep their identity, so an optimizer may be built before or after.

    Args:
        model: Model, changed in place except for a BatchNorm layer at its root.
        device: Device.
        compile: Whether to compile the model in place.

    Returns:
        The model.
    """
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        if distributed.world_size() > 1:
            model = convert_sync_batchnorm(model)  # timm's version keeps the activations of its fused norm layers
    if compile:
        model.compile()
    return model


class _DDPBucketWarmup(nn.Module):
    """Return, if called without inputs, a sum over all parameters whose gradient is 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> Any:
        if inputs:
            return self.network(*inputs)
        return 0.0 * sum(p.sum() for p in self.network.parameters() if p.requires_grad)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model in DistributedDataParallel if there are several processes.

    After its first backward pass, DistributedDataParallel rebuilds its gradient buckets. With three or more processes
    an element's place in its bucket decides the order of the sum, so a resumed run would take its first step with other
    bits than an uninterrupted one. A backward pass with zero gradients rebuilds the buckets here, before any step.

    Inputs have to be on the model's device: with ``device_ids`` DistributedDataParallel would move them there, but it
    cannot be called without inputs then.
    """
    if distributed.world_size() == 1:
        return model
    parallel = DistributedDataParallel(_DDPBucketWarmup(model), gradient_as_bucket_view=True)
    parallel().backward()
    for parameter in model.parameters():
        parameter.grad = None
    return parallel
