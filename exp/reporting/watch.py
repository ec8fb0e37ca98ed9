"""Follow running jobs in the terminal by reading their logs again and again."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from exp.reporting.collect import Run, collect
from vicreg.common.files import printable
from vicreg.common.logger import format_eta

_CLEAR = "\x1b[H\x1b[2J"


def watch(folders: Sequence[Path], seconds: float = 2.0) -> None:
    """Print step, loss, throughput and expected end of running jobs, read every few seconds, until none is left."""
    followed: set[str] = set()
    shown = ""
    try:
        while True:
            runs = [run for run in collect(folders)[0] if run.status == "running" or run.name in followed]
            running = {run.name for run in runs if run.status == "running"}
            followed |= running
            text = "\n".join(map(format_progress, runs)) or "no running job"
            if text != shown:
                print(f"{_CLEAR if sys.stdout.isatty() else ''}{text}", flush=True)
                shown = text
            if not running:
                return
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()


def format_progress(run: Run) -> str:
    """Format the progress of a run in one line."""
    name, steps = printable(run.name, ""), run.plan.get("steps")
    parts = [f"step {run.step} of {steps}" if steps else f"step {run.step}"] if run.losses else ["no log line yet"]
    if run.losses:
        last = run.losses[-1]
        parts.append(f"epoch {last['epoch']}" if "epoch" in last else "")
        parts.append(f"loss {last['loss']:.4g}")
    if run.throughput:
        parts.append("{:.4g} {}/s".format(*run.throughput))
    if run.status != "running":
        parts.append(" ".join([run.status, printable(run.reason, "")]).strip())
    elif (left := run.remaining_seconds) is not None:
        parts.append(f"{format_eta(left)} left")
    return f"{name}: {', '.join(part for part in parts if part)}"
