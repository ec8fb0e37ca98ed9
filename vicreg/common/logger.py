"""Log a run: stats.txt (JSON lines) in its folder, a tracker such as TensorBoard, and the terminal."""

import fcntl
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from vicreg.common import files, trackers
from vicreg.common.json_files import read_json
from vicreg.distributed.process_group import is_main

STATS_FILE = "stats.txt"
LOCK_FILE = ".lock"
VIEWS_FILE = "views.png"  # the views of the first step, which the tracker shows too


def lock_run_dir(folder: str | Path, flag: str = "--exp-dir") -> TextIO:
    """Make a run folder and lock it for as long as the returned file is open; remove what killed processes left there.

    Args:
        folder: The folder.
        flag: Option that named it.

    Raises:
        ValueError: Another process has locked the folder.
        OSError: The folder cannot be made or is not writable.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK_FILE).open("a")
    try:
        # not flock: loader processes inherit that lock and hold it for seconds after this process was killed
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise ValueError(f"another run is writing to {folder} now; wait for it or choose another {flag}") from error
    except OSError:
        pass  # the file system does not support locks
    else:
        files.remove_partial_files(folder)
    return file


def lock_results(folder: str | Path, results: Iterable[Path]) -> TextIO:
    """Lock a folder as ``lock_run_dir``, and log which of the results that will be written there exist already."""
    file = lock_run_dir(folder)
    for path in filter(Path.is_file, results):
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        try:
            of = read_json(path).get("pretrained")
        except (ValueError, AttributeError):
            of = "a damaged file"
        log(f"note: {path} of {written} ({of}) will be replaced; another --exp-dir keeps it")
    return file


def log(*values: object) -> None:
    """Print on rank 0, above the progress bar if there is one."""
    if is_main():
        with tqdm.external_write_mode(file=sys.stdout):
            print(*map(files.printable, values), flush=True)


def format_eta(seconds: float) -> str:
    """Format a duration and the local time at its end, such as ``2 h 05 min (until 2024-05-01 14:20)``."""
    minutes = round(seconds / 60)
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{duration} (until {time.strftime('%Y-%m-%d %H:%M', time.localtime(time.time() + seconds))})"


class GuardedTracker:
    """A tracker, see ``trackers.start_tracker``, that gets no more values once it has failed: it must not end a run."""

    def __init__(self, name: str, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        self._tracker: trackers.Tracker | None = trackers.start_tracker(name, folder, step, config)

    def __call__(self, function: str, *arguments: Any) -> None:
        """Call a function of the tracker; log its error."""
        try:
            if self._tracker:
                getattr(self._tracker, function)(*arguments)
        except Exception as error:
            log(f"warning: the tracker failed and gets no more values; they are in the run folder: {error}")
            self._tracker = None


class MetricLogger:
    """Average metrics over intervals and write them, one line per interval, on rank 0.

    Args:
        exp_dir: Run folder; see ``lock_run_dir``.
        step: Step at which the run starts or resumes. Lines of later steps are dropped, since those steps are repeated.
        total_steps: Length of the progress bar.
        tracker: Tracker, a key of ``trackers.TRACKERS``.
        config: Settings of the run, for the tracker.

    Raises:
        ValueError: The tracker cannot be started.
    """

    def __init__(
        self,
        exp_dir: str | Path,
        step: int = 0,
        total_steps: int | None = None,
        tracker: str = "tensorboard",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._data_seconds = 0, 0.0
        self._start = time.perf_counter()
        self._file: TextIO | None = None
        self._views = None if step else Path(exp_dir) / VIEWS_FILE
        hidden = not (is_main() and sys.stderr.isatty())
        self._bar = tqdm(total=total_steps, initial=step, unit="step", disable=hidden, dynamic_ncols=True)
        if not is_main():
            return

        path = Path(exp_dir) / STATS_FILE
        lines = [line for line in read_stats(path) if _step(line) <= step] if step else []
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = path.open("a")
        self._track = GuardedTracker(tracker, path.parent, step, config or {})

    def add(self, metrics: Mapping[str, torch.Tensor], data_seconds: float = 0.0) -> None:
        """Add the metrics of one step.

        Args:
            metrics: Scalar tensors. Their values are not read before ``averages``, so that a GPU is not stalled.
            data_seconds: Time that the step waited for its batch.
        """
        for key, value in metrics.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.detach().float()
        self._count += 1
        self._data_seconds += data_seconds
        self._bar.update()

    @property
    def seconds(self) -> float:
        """Seconds since the interval began."""
        return time.perf_counter() - self._start

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of the steps of the interval."""
        return self.seconds / max(1, self._count)

    def averages(self, batch_size: int, unit: str = "pairs") -> dict[str, float]:
        """Return the means of the interval and begin the next one.

        Args:
            batch_size: Samples per step, of all processes.
            unit: What a sample is, for the key of the throughput.

        Returns:
            Mean of each metric, ``<unit>_per_second`` and ``data_time``, the fraction of time spent waiting for data.
        """
        steps, seconds = max(1, self._count), max(self.seconds, 1e-9)
        keys = list(self._sums)
        means = (torch.stack([self._sums[key] for key in keys]) / steps).tolist() if keys else []
        line = {key: round(value, 6) for key, value in zip(keys, means, strict=True)}
        line[f"{unit}_per_second"] = round(batch_size * self._count / seconds, 1)
        line["data_time"] = round(self._data_seconds / seconds, 4)
        self._sums, self._count, self._data_seconds = {}, 0, 0.0
        self.restart_clock()
        return line

    def write(self, line: Mapping[str, Any], show: bool = True) -> None:
        """Write a line to stats.txt and the tracker.

        Args:
            line: Metrics, with ``step``.
            show: Also print it.
        """
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        step = line.get("step", 0)
        numbers = {key: value for key, value in line.items() if key != "step" and isinstance(value, (int, float))}
        self._track("log", numbers, step)
        if self._views and self._views.is_file():
            self._track("log_image", self._views, step)
        self._views = None
        if show:
            log("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                          for key, value in line.items()))  # fmt: skip

    def restart_clock(self) -> None:
        """Start the clock of the interval anew, after work other than training."""
        self._start = time.perf_counter()

    def close(self) -> None:
        """Close the files and the progress bar."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._track("close")


def _step(line: Mapping[str, Any]) -> float:
    """Return the step of a line; one that is no number, in a damaged line, is beyond all steps."""
    step = line.get("step", 0)
    return step if isinstance(step, (int, float)) else float("inf")


def read_stats(path: str | Path) -> list[dict[str, Any]]:
    """Read the lines of a stats.txt as dicts; skip lines that are not JSON objects, such as a truncated last line."""
    path, lines = Path(path), []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # also numbers of thousands of digits
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
