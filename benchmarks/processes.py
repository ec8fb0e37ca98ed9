"""Scripts of the repository in processes of their own, for benchmarks that compare settings."""

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def script_command(script: str, options: Mapping[str, Any], *words: object) -> list[str]:
    """Return the command that starts a script, such as ``"vicreg/main_vicreg_sn7.py"``, with options by name."""
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, str(ROOT / script), *map(str, [*words, *named])]


def run(command: list[str]) -> str:
    """Run a command and return its output.

    Raises:
        ValueError: It failed; the message has the last line of its errors.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise ValueError(f"{shlex.join(command[1:])} failed: {lines[-1]}")
    return done.stdout


def measure(command: list[str]) -> tuple[float, float, resource.struct_rusage]:
    """Run a command; return its seconds, the peak of ``own_memory`` of its process in GB, and its resource usage.

    Raises:
        ValueError: It failed; the message has the last line of its output.
    """
    started, peak, ended = time.perf_counter(), 0.0, 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while not ended:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.05)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise ValueError(f"{shlex.join(command[1:])} failed: {[*output][-1:]}")
    return seconds, peak, usage


def own_memory(process: int) -> float:
    """Return the anonymous memory of a process in GB, without mapped files; 0 if it has ended, or without Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e9


def run_bench_pretrain(
    args: argparse.Namespace, arch: str, side: int, batch: int, width: int, *words: str
) -> list[str]:
    """Run ``bench_pretrain.py`` with ``--steps``, ``--precision`` and ``--device`` of ``args``; return its lines."""
    options = {"arch": arch, "image-size": side, "batch-size": batch, "mlp": f"{width}-{width}-{width}"}
    options |= {"steps": args.steps, "precision": args.precision, "device": args.device}
    return run(script_command("benchmarks/bench_pretrain.py", options, *words)).splitlines()
