"""Scripts of the repository in processes of their own, for benchmarks that compare settings."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def script_command(script: str, options: Mapping[str, Any]) -> list[str]:
    """Return the command that starts a script, such as ``"vicreg/main_vicreg_sn7.py"``, with options by name."""
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, str(ROOT / script), *words]


def run_bench_pretrain(options: Mapping[str, Any], *flags: str) -> list[str]:
    """Run ``bench_pretrain.py`` and return the lines of its output.

    Raises:
        ValueError: It failed; the message has the last line of its errors.
    """
    command = script_command("benchmarks/bench_pretrain.py", options)
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return done.stdout.strip().splitlines()
