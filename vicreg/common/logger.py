"""The record of a run in its folder: args.json, stats.txt (JSON lines), TensorBoard, and the terminal."""

import fcntl
import json
import sys
import time
import types
from pathlib import Path

import torch
from tqdm import tqdm

from vicreg.common import files
from vicreg.distributed.process_group import is_main


def summary_writer():
    """PyTorch's ``SummaryWriter``, which is slow to import and of use to the main process alone.

    TensorBoard then writes files by itself even where TensorFlow is installed, which would take seconds to import, take
    GPU memory, and raise other errors than OSErrors.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def lock_run_dir(folder):
    """Make a run's folder and keep it to this process for as long as the returned file is open.

    Raises:
        ValueError: another process is writing there now.
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a")
    try:
        # not flock: loading processes inherit that one, and hold it for seconds after this one was killed
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise ValueError(f"another run is writing to {folder} now; wait for it or choose another --exp-dir") from error
    except OSError:
        pass  # a file system without locks: nothing to hold on to
    return file


def log(*words):
    """Print from the main process, above the progress bar if there is one."""
    if is_main():
        with tqdm.external_write_mode(file=sys.stdout):
            print(*words, flush=True)


def format_eta(seconds):
    """A duration in words, such as ``2 h 05 min``, and the time of day (and the date) when it will have passed."""
    minutes = round(seconds / 60)
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{duration} (until {time.strftime('%Y-%m-%d %H:%M', time.localtime(time.time() + seconds))})"


class MetricLogger:
    """Averages over intervals, written as lines. Silent in all processes but the main one.

    Args:
        exp_dir: the run's folder, see ``lock_run_dir``.
        step: where the run starts; lines of a run cut off after that step are dropped, they will come again.
        total_steps: for the progress bar. unit: what one step counts in.
    """

    def __init__(self, exp_dir, step=0, total_steps=None, unit="step"):
        self._sums, self._counts, self._waited = {}, 0, 0.0
        self._mark = time.perf_counter()
        self._file = self._board = None
        hidden = not (is_main() and sys.stderr.isatty())
        self._bar = tqdm(total=total_steps, initial=step, unit=unit, disable=hidden, dynamic_ncols=True)
        if not is_main():
            return

        exp_dir = Path(exp_dir)
        path = exp_dir / "stats.txt"
        kept = [line for line in read_stats(path) if line.get("step", 0) <= step] if step else []
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")
        self._board = summary_writer()(exp_dir / "tensorboard", purge_step=step + 1 if step else None)

    def add(self, values, waited=0.0):
        """Count one step: dict of scalar tensors (not read until the line is written), seconds waited for data."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.detach().float()
        self._counts += 1
        self._waited += waited
        self._bar.update()

    @property
    def seconds(self):
        """Seconds since the last line."""
        return time.perf_counter() - self._mark

    @property
    def seconds_a_step(self):
        """Mean duration of a step since the last line."""
        return self.seconds / max(1, self._counts)

    def averages(self, per_step, unit="pairs"):
        """Means since the last line, and begin the next interval.

        Args:
            per_step: pairs of a step, for the throughput. unit: what they are, if no pairs.
        """
        steps, seconds = max(1, self._counts), max(self.seconds, 1e-9)
        keys = list(self._sums)
        means = (torch.stack([self._sums[key] for key in keys]) / steps).tolist() if keys else []
        line = {key: round(value, 6) for key, value in zip(keys, means, strict=True)}
        line[f"{unit}_per_second"] = round(per_step * self._counts / seconds, 1)
        line["data_time"] = round(self._waited / seconds, 4)
        self._sums, self._counts, self._waited, self._mark = {}, 0, 0.0, time.perf_counter()
        return line

    def write(self, line, show=True):
        """Write one line to stats.txt and TensorBoard, and print it."""
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, value in line.items():
            if key != "step" and isinstance(value, (int, float)):
                self._board.add_scalar(key, value, line.get("step", 0))
        if show:
            words = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in line.items()}
            log("  ".join(f"{key} {word}" for key, word in words.items()))

    def restart_clock(self):
        """Begin the interval now, after work that is not training (a probe, a checkpoint) has followed a line."""
        self._mark = time.perf_counter()

    def close(self):
        """Close files and the bar."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._board.close()


def read_stats(path):
    """Lines of a stats.txt as dicts; a last line cut short by a crash is left out."""
    path = Path(path)
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
