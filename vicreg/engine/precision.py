"""Precision of forward passes: float32, or bfloat16 autocast where that is faster."""

import time

import torch
from torch import nn

from vicreg import distributed
from vicreg.common.logger import log

_BF16_CAPABILITY = (8, 0)  # first CUDA compute capability with bfloat16 units (Ampere)
MIN_SPEEDUP = 1.15  # of bfloat16 on a CPU, to be worth its rounding
MIN_STEPS = 100  # of runs for which a CPU is measured
MIN_SIDE = 32  # smaller images reach strided convolutions as 1 x 1 maps, whose bf16 gradients are not always finite
_SECONDS, _MIN_ROUNDS = 1.0, 3


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether ``--precision`` means bfloat16 autocast; ``"auto"`` does on GPUs that do not emulate it."""
    if precision != "auto" or device.type != "cuda":
        return precision == "bf16"
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY


def choose_bf16(
    precision: str, device: torch.device, steps: int, saved: bool | None = None, side: int | None = None
) -> bool:
    """Return whether a training run uses bfloat16 autocast. A collective call.

    On a CPU, ``"auto"`` means float32 for images of less than ``MIN_SIDE`` pixels, and otherwise the precision of the
    checkpoint. A new run of ``MIN_STEPS`` steps or more measures both on rank 0 and logs the result; a shorter one uses
    float32.

    Args:
        precision: ``"auto"``, ``"bf16"`` or ``"fp32"``.
        device: Device of this process.
        steps: Optimizer steps of the run.
        saved: Whether the checkpoint's run used bfloat16; None for a new run.
        side: Side of the smallest images in pixels; None if it is large enough.
    """
    if precision != "auto" or device.type != "cpu":
        return use_bf16(precision, device)
    if (side or MIN_SIDE) < MIN_SIDE:
        return False
    if saved is not None or steps < MIN_STEPS:
        return bool(saved)
    choice = torch.zeros(1)
    if distributed.is_main():
        fp32, bf16 = measure_precisions()
        choice[0] = fp32 >= MIN_SPEEDUP * bf16
        log(
            f"--precision auto: {1e3 * fp32:.1f} ms in fp32 and {1e3 * bf16:.1f} ms in bf16 for some layers on one "
            f"core of this CPU; {'bf16' if choice else 'fp32'} is used"
        )
    return bool(distributed.all_reduce(choice))  # the other ranks add 0


def measure_precisions() -> tuple[float, float]:
    """Measure about a second of training on one core of this CPU.

    The layers are of the kinds that take most of a step: convolutions with BatchNorm, and wide linear layers as those
    of the expander. Passes in both precisions alternate, and the fastest one of each counts. They run in one thread and
    its processor time is taken, so that other work on the machine changes the result little.

    Returns:
        Seconds of a forward and backward pass in float32, and in bfloat16 autocast.
    """
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(
            nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True),
            nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1024), nn.ReLU(inplace=True), nn.Linear(1024, 1024),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        images = torch.randn(64, 64, 16, 16).to(memory_format=torch.channels_last)

    def seconds(bf16: bool) -> float:
        network.zero_grad()
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(images).float().square().mean()
        loss.backward()
        return time.thread_time() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds(False), seconds(True)  # allocate memory and compile kernels
        start = time.perf_counter()
        rounds: list[tuple[float, float]] = []
        while len(rounds) < _MIN_ROUNDS or time.perf_counter() < start + _SECONDS:
            rounds.append((seconds(False), seconds(True)))
    finally:
        torch.set_num_threads(threads)
    fp32, bf16 = (min(times) for times in zip(*rounds, strict=True))
    return fp32, bf16
