"""The folder of a training run: its lock, its checkpoint, and its configuration file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vicreg import distributed
from vicreg.common import checkpoint_io, provenance
from vicreg.common.config import check_resume, to_dict
from vicreg.common.files import write_json
from vicreg.common.logger import lock_run_dir
from vicreg.common.plots import VIEW_PAIRS
from vicreg.data.base import BaseDataset, SampleKey
from vicreg.engine import checkpoint
from vicreg.engine.config import RunConfig, RunPlan
from vicreg.engine.preemption import clear_preempted_marker

CONFIG_FILE = "config.json"


class RunFolder:
    """A locked run folder, and the checkpoint in it, whose configuration is compared with the current one.

    Args:
        config: Configuration of the run.
        kind: What is trained, such as ``"pretraining"``; a checkpoint of another kind is refused.
        device: Device of this process.

    Attributes:
        path: The folder.
        checkpoint: Checkpoint to resume from; empty for a new run.
        batch_size: Total batch size to keep, also with another number of processes; None for a new run, and if another
            ``--batch-size`` is asked for.
        bf16: Whether the checkpoint's run used bfloat16; None for a new run.

    Raises:
        ValueError: Another process writes to the folder, it holds something else, or a setting cannot change.
    """

    def __init__(self, config: RunConfig, kind: str, device: torch.device) -> None:
        self.path, self.kind, self._device = Path(config.exp_dir), kind, device
        self._data: dict[str, str] = {}
        self._lock = lock_run_dir(self.path) if distributed.is_main() else None
        clear_preempted_marker(self.path)
        self.checkpoint: dict[str, Any] = {}
        self.batch_size: int | None = None
        self.bf16: bool | None = None
        state, path = checkpoint.load_latest(self.path, device)
        if state is None:
            return
        self.checkpoint = checkpoint.upgrade(state)
        if self.checkpoint.get("kind") != kind:
            raise ValueError(f"{path} is not a checkpoint of {kind}; choose another --exp-dir")
        saved, self.bf16 = self.checkpoint["config"], state.get("bf16", False)
        check_resume(saved, config, self.path, finished=state["step"] >= state.get("steps", state["step"] + 1))
        if saved["batch_size"] == config.batch_size:
            self.batch_size = state.get("batch_size")

    def check_data(self, data: Mapping[str, str]) -> None:
        """Compare digests of the data with those of the checkpoint and of the other processes. A collective call.

        A checkpoint holds its digests under ``data``, or ``task`` for downstream tasks. Those that it does not have
        are skipped.

        Args:
            data: Digests by what they are of, such as ``"training samples"``.

        Raises:
            ValueError: The run has other data, or another process sees other data.
        """
        distributed.check_same_across_ranks(data, "data")
        self._data = dict(data)
        saved = self.checkpoint.get("data") or self.checkpoint.get("task") or {}
        if changed := [name for name in data if saved.get(name, data[name]) != data[name]]:
            raise ValueError(
                f"{self.path} holds a run with other data ({', '.join(changed)}); choose another --exp-dir, or the "
                "same data and split"
            )

    def check_steps(self, steps: int) -> None:
        """Raise ValueError if the checkpoint is beyond the last step of the run."""
        if (step := self.checkpoint["step"]) > steps:
            raise ValueError(
                f"{self.path} holds a run at step {step}, beyond the {steps} steps asked for; raise --epochs (or "
                "--max-steps), or choose another --exp-dir"
            )

    def write_config(self, config: RunConfig, plan: RunPlan, info: Mapping[str, Any]) -> None:
        """Write ``config.json``: the configuration, and the plan with ``info``."""
        if distributed.is_main():
            content = {"kind": self.kind, "config": to_dict(config), "plan": {**info, **plan.to_dict()}}
            write_json(self.path / CONFIG_FILE, content)

    def write_first_pairs(self, dataset: Any, batches: Iterable[Sequence[SampleKey]], start: int) -> None:
        """Write ``views.json``: what a data set of pairs knows of those in ``views.png``, such as location and date.

        Args:
            dataset: Data set; only a ``BaseDataset`` has pairs.
            batches: Keys of each batch from ``start`` on.
            start: Step at which the run starts; nothing is written by a run that resumes.
        """
        if start == 0 and distributed.is_main() and isinstance(dataset, BaseDataset):
            pairs = [(index, dataset.positive_index(index, seed)) for index, seed in next(iter(batches))[:VIEW_PAIRS]]
            known = dataset.sample_info([index for pair in pairs for index in pair])
            info = {name: map(str, known[name]) for name in ("image", "location", "date") if name in known}
            samples = [dict(zip(info, values, strict=True)) for values in zip(*info.values(), strict=True)]
            write_json(self.path / "views.json", list(zip(samples[::2], samples[1::2], strict=True)))

    def record_start(self) -> None:
        """Add a session to the provenance of the folder. Call it once the run is sure to start."""
        provenance.start(self.path, self.kind, self._device, self._data)

    def save(self, payload: dict[str, Any]) -> None:
        """Write the checkpoint ``model.pth``, and keep the one before. Call it in the main process."""
        checkpoint_io.save(payload, self.path / checkpoint_io.MODEL_FILE, previous=checkpoint.PREVIOUS_FILE)

    def save_best(self, payload: dict[str, Any]) -> None:
        """Write ``best_model.pth``. Call it in the main process."""
        checkpoint_io.save(payload, self.path / checkpoint.BEST_FILE)

    def close(self) -> None:
        """Record that the run has finished, and release the lock."""
        provenance.finish(folder=self.path)
        if self._lock:
            self._lock.close()
