"""Experiment trackers, which show the settings, metrics and pictures of a run beside its own files."""

import importlib
import os
import sys
import types
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vicreg.common import files

_ID_FILE = "tracker_id.txt"  # in the run folder, so that a resumed run continues there
_PROJECT = "vicreg"  # unless the variable of the tracker names another


class Tracker:
    """Receives what a run logs; this one drops it.

    Args:
        folder: Run folder.
        step: Step at which the run starts or resumes.
        hparams: Settings of the run, plain values by name.
    """

    def __init__(self, folder: Path, step: int, hparams: Mapping[str, Any]) -> None:
        pass

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""

    def log_image(self, path: Path, step: int) -> None:
        """Log a PNG file under the name of the file."""

    def close(self) -> None:
        """Finish the run."""


class TensorBoard(Tracker):
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path, step: int, hparams: Mapping[str, Any]) -> None:
        self._writer = summary_writer()(folder / "tensorboard", purge_step=step + 1 if step else None)
        if hparams:
            from torch.utils.tensorboard.summary import hparams as hparam_summaries

            for summary in hparam_summaries(dict(hparams), {"loss": 0.0}):  # add_hparams would begin another file
                self._writer.file_writer.add_summary(summary)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def log_image(self, path: Path, step: int) -> None:
        """Log a PNG file under the name of the file."""
        self._writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Wandb(Tracker):
    """Weights & Biases."""

    module = "wandb"

    def __init__(self, folder: Path, step: int, hparams: Mapping[str, Any]) -> None:
        self._module: Any = importlib.import_module(self.module)
        run_id = _read_id(folder, self.module) or _write_id(folder, self.module, uuid.uuid4().hex[:12])
        project = os.environ.get(f"{self.module.upper()}_PROJECT", _PROJECT)
        self._module.init(project=project, config=dict(hparams), resume="allow", **self._name(folder, run_id))

    def _name(self, folder: Path, run_id: str) -> dict[str, str]:
        return {"name": folder.name, "id": run_id, "dir": str(folder)}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        self._module.log(dict(metrics), step=step)

    def log_image(self, path: Path, step: int) -> None:
        """Log a PNG file under the name of the file."""
        self._module.log({path.stem: self._module.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._module.finish()


class Trackio(Wandb):
    """Trackio, which has the functions of Weights & Biases and tells runs apart by their names."""

    module = "trackio"

    def _name(self, folder: Path, run_id: str) -> dict[str, str]:
        return {"name": f"{folder.name}-{run_id}"}


class MLflow(Tracker):
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path, step: int, hparams: Mapping[str, Any]) -> None:
        self._module: Any = importlib.import_module("mlflow")
        self._module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        run_id = _read_id(folder, "mlflow")
        run = self._module.start_run(run_id=run_id, run_name=folder.name)
        if run_id is None:
            _write_id(folder, "mlflow", run.info.run_id)
            self._module.log_params(dict(hparams))  # MLflow refuses other values later

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""
        self._module.log_metrics(dict(metrics), step=step)

    def log_image(self, path: Path, step: int) -> None:
        """Log a PNG file under the name of the file."""
        self._module.log_artifact(str(path))

    def close(self) -> None:
        """Finish the run."""
        self._module.end_run()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow, "trackio": Trackio, "none": Tracker,
}  # fmt: skip


def check_tracker(name: str) -> None:
    """Check that the package of a tracker is installed.

    Raises:
        ValueError: It is not.
    """
    if name in ("none", "tensorboard"):
        return
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"--tracker {name} needs the package {name}: pip install {name} ({error})") from error


def start_tracker(name: str, folder: Path, step: int, config: Mapping[str, Any]) -> Tracker:
    """Start or resume a run in a tracker.

    Args:
        name: A key of ``TRACKERS``.
        folder: Run folder.
        step: Step at which the run starts or resumes.
        config: Settings of the run, as from ``config.to_dict``.

    Raises:
        ValueError: The tracker refuses, such as without a login.
    """
    try:
        return TRACKERS[name](folder, step, _flatten(config))
    except OSError:
        raise
    except Exception as error:  # every tracker has its own
        raise ValueError(f"--tracker {name}: {' '.join(str(error).split())}; --tracker none goes without") from error


def summary_writer() -> type:
    """Import PyTorch's ``SummaryWriter``; it is slow to import and only rank 0 needs it.

    TensorBoard then writes files by itself even if TensorFlow is installed, which would take seconds to import, occupy
    GPU memory, and raise errors other than OSError.
    """
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as numbers and text by their path, such as ``criterion.sim_coeff``."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= _flatten(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value if isinstance(value, (int, float, str)) else str(value)
    return values


def _read_id(folder: Path, tracker: str) -> str | None:
    path = folder / _ID_FILE
    name, _, run_id = path.read_text(errors="replace").strip().partition(" ") if path.is_file() else ("", "", "")
    return run_id if name == tracker else None


def _write_id(folder: Path, tracker: str, run_id: str) -> str:
    files.write_text(folder / _ID_FILE, f"{tracker} {run_id}\n")
    return run_id
