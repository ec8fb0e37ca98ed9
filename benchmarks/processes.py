"""Scripts of the repository in processes of their own, for benchmarks that compare settings."""

import argparse
import shlex
import subprocess
import sys
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


def run_bench_pretrain(
    args: argparse.Namespace, arch: str, side: int, batch: int, width: int, *words: str
) -> list[str]:
    """Run ``bench_pretrain.py`` with ``--steps``, ``--precision`` and ``--device`` of ``args``; return its lines."""
    options = {"arch": arch, "image-size": side, "batch-size": batch, "mlp": f"{width}-{width}-{width}"}
    options |= {"steps": args.steps, "precision": args.precision, "device": args.device}
    return run(script_command("benchmarks/bench_pretrain.py", options, *words)).splitlines()
