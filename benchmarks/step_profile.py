"""What benchmarks share: the parts of a training step, turns of several pipelines, and the name of the processor."""

import collections
import platform
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Profile:
    """Measure the parts of a step: wall time, user time, system time and minor page faults of each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self.restart()

    def _now(self) -> np.ndarray:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
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


def cpu_name() -> str:
    """Return the processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
