"""Read run folders of any state and version: crashed, running, older and newer ones; what cannot be read is named."""

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vicreg.common import provenance, results
from vicreg.common.logger import LOCK_FILE, STATS_FILE, read_stats

CONFIG_FILES = ("config.json", "args.json")  # args.json is that of older runs
DETECTRON2_LOG = "metrics.json"  # JSON lines of Detectron2
MARKERS = (provenance.PROVENANCE_FILE, *CONFIG_FILES, STATS_FILE, results.RESULT_FILE)
SKIPPED = {"tensorboard", "features", "logs", "working_copies", "__pycache__"}
OWN_FILES = {"report.html", "curves.png", "source.txt", "splits.md"}
RECIPES = Path(__file__).resolve().parents[1]  # exp/, whose recipes and code are no runs
FRESH_SECONDS = 600  # where locks are not supported, a folder that changed since then holds a running job


class Problem(NamedTuple):
    """Something that is not in the report, or only in part."""

    path: Path
    reason: str


@dataclass
class Run:
    """A run folder."""

    path: Path
    name: str  # its path from the folder that was searched
    config: dict[str, Any] = field(default_factory=dict)  # ``config`` of config.json, or ``args`` of a result
    plan: dict[str, Any] = field(default_factory=dict)  # steps, batch size and device of training
    kind: str = ""  # what ran, such as "pretraining"
    sessions: list[dict[str, Any]] = field(default_factory=list)  # starts, see ``vicreg.common.provenance``
    lines: list[dict[str, Any]] = field(default_factory=list)  # of the log
    result: dict[str, Any] = field(default_factory=dict)  # of an evaluation
    status: str = "unknown"  # or running, finished, stopped, failed, killed (ended without a record)
    reason: str = ""  # signal or error that ended the run

    @property
    def session(self) -> dict[str, Any]:
        """The last session; {} for older versions."""
        return self.sessions[-1] if self.sessions else {}

    @property
    def losses(self) -> list[dict[str, Any]]:
        """Log lines of training."""
        return [line for line in self.lines if number(line.get("loss")) is not None]

    @property
    def step(self) -> int:
        """Last logged step."""
        return int(number(self.losses[-1].get("step")) or 0) if self.losses else 0

    @property
    def throughput(self) -> tuple[float, str] | None:
        """Samples per second of the last log line, and what a sample is."""
        for line in reversed(self.losses):
            for key, value in line.items():
                if key.endswith("_per_second") and number(value) is not None:
                    return float(value), key.removesuffix("_per_second")
        return None

    @property
    def remaining_seconds(self) -> float | None:
        """Expected time from now to the last step."""
        steps, batch = number(self.plan.get("steps")), number(self.plan.get("batch_size"))
        if not (steps and batch and self.throughput and self.throughput[0] > 0):
            return None
        since = time.time() - (self.path / STATS_FILE).stat().st_mtime
        return max(0.0, (steps - self.step) * batch / self.throughput[0] - since)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:
        return None
    return float(value)


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """Read all runs below folders, at any depth; return them, and what is no run or cannot be read."""
    runs: dict[Path, Run] = {}
    problems: list[Problem] = []
    for root in folders:
        if not root.is_dir():
            problems.append(Problem(root, "no folder" if not root.exists() else "not a run folder but a file"))
            continue
        run_folders = list(_run_folders(root, problems))
        base = root.parent if root in run_folders else root
        for folder in run_folders:
            if folder.resolve() not in runs and (run := read_run(folder, str(folder.relative_to(base)), problems)):
                runs[folder.resolve()] = run
        if root not in run_folders:
            others = [path for path in sorted(root.iterdir()) if not _is_known(path, run_folders)]
            problems += [Problem(path, "no run in it" if path.is_dir() else "not a run") for path in others]
    return list(runs.values()), problems


def _run_folders(root: Path, problems: list[Problem]) -> list[Path]:
    run_folders = []
    on_error = lambda error: problems.append(Problem(Path(error.filename), error.strerror))  # noqa: E731
    for folder, names, file_names in os.walk(root, onerror=on_error):
        names[:] = sorted(name for name in names if name not in SKIPPED and not name.startswith("."))
        if not set(MARKERS).isdisjoint(file_names):
            run_folders.append(Path(folder))
    return run_folders


def _is_known(path: Path, runs: Sequence[Path]) -> bool:
    hidden = path.name.startswith(".") or path.name in OWN_FILES | SKIPPED
    hidden |= path.parent.resolve() == RECIPES and (path.is_file() or path.name in ("reporting", "slurm"))
    return hidden or any(path == run or path in run.parents for run in runs)


def read_run(folder: Path, name: str, problems: list[Problem]) -> Run | None:
    """Read one folder; None if it is a part of another run, such as one of several seeds."""
    if folder.name.startswith("seed_") and (folder.parent / results.RESULT_FILE).is_file():
        return None
    run = Run(folder, name, lines=_read_lines(folder))
    for file_name in CONFIG_FILES:
        content = _read_object(folder / file_name, problems)
        run.config |= as_dict(content.get("config")) or ({} if "plan" in content else content)
        run.plan |= as_dict(content.get("plan"))
        run.kind = run.kind or str(content.get("kind") or "")
    run.result = _read_object(folder / results.RESULT_FILE, problems, results.SCHEMA)
    run.config = run.config or as_dict(run.result.get("config")) or as_dict(run.result.get("args"))
    home, has_record = folder, (folder / provenance.PROVENANCE_FILE).is_file()
    if not has_record:  # a comparison has one for the folders of its backbones
        kind = _read_object(folder.parent / provenance.PROVENANCE_FILE, []).get("kind")
        home = folder.parent if kind == "embedding benchmark" else folder
    record = _read_object(home / provenance.PROVENANCE_FILE, problems if home == folder else [], provenance.SCHEMA)
    run.sessions = [session for session in as_list(record.get("sessions")) if isinstance(session, dict)]
    run.kind = str(record.get("kind") or run.kind or ("evaluation" if run.result else "training"))
    if not (run.result or run.lines or run.config) and (not has_record or any(folder.glob(f"*/{results.RESULT_FILE}"))):
        return None  # the folder of a comparison, whose results are in its folders
    run.status, run.reason = _status(run, home)
    return run


def _status(run: Run, home: Path) -> tuple[str, str]:
    """Return status and reason; a session that says running but has released its lock was killed."""
    status = run.session.get("status")
    if status in ("finished", "stopped", "failed"):
        return status, str(run.session.get("message") or "")
    if _is_locked(home):
        return "running", ""
    if status == "running":
        return "killed", "ended without a record, such as by SIGKILL, a full memory or a power failure"
    if run.result or (run.path / "trained_model.pth").is_file():
        return "finished", ""
    return "unknown", "no record of its end"


def _is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run folder."""
    path = folder / LOCK_FILE
    try:
        with path.open() as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # the file system does not support locks
        return time.time() - max(file.stat().st_mtime for file in folder.iterdir()) < FRESH_SECONDS
    return False


def _read_object(path: Path, problems: list[Problem], schema: int | None = None) -> dict[str, Any]:
    """Read a JSON object; {} if there is none, or it is damaged, which is noted."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (ValueError, OSError, RecursionError) as error:
        problems.append(Problem(path, f"cannot be read: {error}"))
        return {}
    if schema and (version := content.get("schema", schema)) != schema:
        problems.append(Problem(path, f"written by another version (schema {version}, not {schema}); shown in part"))
    return content


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the log lines of a run, or those of Detectron2 under the names of this project."""
    lines = read_stats(folder / STATS_FILE)
    if lines or not (folder / DETECTRON2_LOG).is_file():
        return lines
    names = {"iteration": "step", "total_loss": "loss", "lr": "lr", "bbox/AP": "box_AP", "segm/AP": "mask_AP"}
    read = read_stats(folder / DETECTRON2_LOG)
    return [{names[key]: value for key, value in line.items() if key in names} for line in read]


def as_list(value: Any) -> list[Any]:
    """Return a list, or [] for anything else."""
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    """Return a dict, or {} for anything else."""
    return value if isinstance(value, dict) else {}
