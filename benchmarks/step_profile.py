"""What benchmarks share: the parts of a training step, turns of several pipelines, and the machine."""

import collections
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from vicreg.common.devices import device_name


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Return the name of a device, the number of threads, and the version of PyTorch."""
    return f"{device_name(torch.device(device))}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def synchronize(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Profile:
    """Measure the parts of a step: wall time, user time, system time and minor page faults of each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self.restart()

    def _now(self) -> np.ndarray:
        synchronize(self._device)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return np.array([time.perf_counter(), usage.ru_utime, usage.ru_stime, usage.ru_minflt])

    def restart(self) -> None:
        """Begin a step."""
        self._last = self._now()

    def __call__(self, name: str) -> None:
        """End a part of the step."""
        now = self._now()
        self.parts[name].append(now - self._last)
        self._last = now

    def table(self) -> str:
        """Format the medians over the steps."""
        rows = {name: np.median(values, 0) for name, values in self.parts.items()}
        rows["whole step"] = np.sum(list(rows.values()), 0)
        lines = [f"{'':14}{'wall s':>9}{'user s':>9}{'system s':>10}{'page faults':>13}"]
        lines += [f"{name:14}{w:9.3f}{u:9.3f}{s:10.3f}{f:13,.0f}" for name, (w, u, s, f) in rows.items()]
        return "\n".join(lines)


def processor_seconds(pipelines: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the processor time of each call of functions of the step, which take turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for step in range(repeats + 1):
        for name, run in pipelines.items():
            started = time.process_time()
            run(step)
            if step:
                seconds[name].append(time.process_time() - started)
    return seconds


def format_ratio(seconds: Mapping[str, list[float]], name: str) -> str:
    """Return how many times as fast ``"ours"`` is as another one, with the range; "" for itself."""
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds[name], strict=True)]
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if name != "ours" else ""
