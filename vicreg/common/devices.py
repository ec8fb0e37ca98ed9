"""Names of devices, and copies from the CPU to a device that do not wait for the device."""

import contextlib
import platform

import torch


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    return platform.processor() or device.type


def send(values: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Copy a tensor to a device. The copy takes its turn among the device's work, for which Python does not wait.

    A copy from ordinary memory would end only after all work that was given to a GPU before, so that the GPU would run
    dry in each step.

    Args:
        values: Tensor on any device.
        device: Device of the result.
        dtype: Type of the result, if another one.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, dtype or values.dtype, non_blocking=True)
