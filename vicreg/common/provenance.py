"""Provenance of a run folder: command, commit, versions, device, data, times and how it ended, in one JSON file.

``start`` appends a session to ``provenance.json`` when a script begins to write to the folder, and again when it
resumes; ``cli.run`` calls ``finish`` however the script ends. The status of a session is ``running``, ``finished``,
``stopped`` (by a signal that the script handles) or ``failed``. A process that a signal ends leaves ``running`` and
releases the lock of the folder.
"""

import contextlib
import functools
import importlib.metadata
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from vicreg.common.devices import device_name
from vicreg.common.files import write_json
from vicreg.common.json_files import read_json
from vicreg.distributed.process_group import is_main, world_size

SCHEMA = 1
PROVENANCE_FILE = "provenance.json"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn")
_open: dict[Path, dict[str, Any]] = {}  # content of the files whose last session is of this process


def start(folder: str | Path, kind: str, device: torch.device, data: Mapping[str, str] | None = None) -> None:
    """Append a session to the provenance of a folder that this process has locked; does nothing but on rank 0.

    Args:
        folder: Run folder.
        kind: What runs, such as ``"pretraining"``.
        device: Device of this process.
        data: Digests by what they are of, such as ``"training samples"``.

    Raises:
        OSError: The folder is not writable.
    """
    if not is_main():
        return
    path, session = Path(folder) / PROVENANCE_FILE, {"command": _command(), "directory": os.getcwd(), **_commit()}
    session |= {"versions": _versions(), "device": device_name(device), "processes": world_size()}
    session |= {"host": socket.gethostname(), "data": dict(data or {}), "start": _now(), "end": None}
    sessions = read(folder).get("sessions") or []
    content = {"schema": SCHEMA, "kind": kind, "sessions": [*sessions, session | {"status": "running", "message": ""}]}
    write_json(path, content)
    _open[path] = content


def finish(status: str = "finished", message: str = "", folder: str | Path | None = None) -> None:
    """Write the end of the sessions of this process.

    Args:
        status: ``"finished"``, ``"stopped"`` or ``"failed"``.
        message: Signal or error.
        folder: Only the session of this folder.
    """
    for path in [Path(folder) / PROVENANCE_FILE] if folder else list(_open):
        if content := _open.pop(path, None):
            content["sessions"][-1] |= {"end": _now(), "status": status, "message": message}
            with contextlib.suppress(OSError):  # a full disk; the error that ends the script is reported
                write_json(path, content)


def exit_status(code: Any) -> tuple[str, str]:
    """Return the status and the message of a script that exits with a code; see ``finish``."""
    signals = {128 + number: number.name for number in signal.Signals}
    if code in signals:
        return "stopped", signals[code]
    return ("failed", f"exit status {code}") if code else ("finished", "")


def read(folder: str | Path) -> dict[str, Any]:
    """Read the provenance of a folder; {} if it has none or the file is damaged."""
    try:
        content = read_json(Path(folder) / PROVENANCE_FILE)
    except (OSError, ValueError):
        return {}
    sessions = content.get("sessions") if isinstance(content, dict) else None
    valid = isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions)
    return content if valid else {}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _command() -> str:
    """Return the command line, with the launcher that started the processes."""
    launcher = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        launcher = ["torchrun", f"--nnodes={world_size() // local}", f"--nproc-per-node={local}"]
    elif world_size() > 1 and "SLURM_JOB_ID" in os.environ:
        launcher = ["srun", f"--ntasks={world_size()}", "python"]
    return shlex.join([*launcher, *sys.argv])


@functools.cache
def _commit() -> dict[str, Any]:
    """Return commit and dirty flag of the repository; None if this is no repository or there is no git."""
    root = Path(__file__).resolve().parents[2]
    top = (_git(root, "rev-parse", "--show-toplevel", "HEAD") or "").split("\n")
    if Path(top[0]) != root:  # such as an environment inside of another repository
        return {"commit": None, "dirty": None}
    state = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return {"commit": top[1], "dirty": None if state is None else bool(state)}


def _git(root: Path, *words: str) -> str | None:
    try:
        ran = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {name: version for name, version in versions.items() if version}
