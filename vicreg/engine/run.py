"""A training run: everything around augmentation, forward pass and loss; ``pretrain.pretrain`` shows its use."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from vicreg import distributed
from vicreg.augmentations.batch import seed_step
from vicreg.common.config import to_dict
from vicreg.common.logger import MetricLogger, format_eta, log
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.engine import checkpoint
from vicreg.engine.config import RunConfig, RunPlan
from vicreg.engine.parallel import to_device, wrap_ddp
from vicreg.engine.preemption import PreemptionGuard, write_preempted_marker
from vicreg.engine.run_folder import CONFIG_FILE, RunFolder

ETA_STEPS = 20  # steps after which the remaining time is printed


class TrainingRun:
    """Resume, checkpoints, logging, preemption, and data parallelism of a run.

    Args:
        config: Configuration, which also gives the learning rate of each step.
        plan: Batch size and number of steps, see ``plan_run``.
        folder: Locked run folder; its checkpoint is loaded into model and optimizer, and released.
        model: Model with its initial weights.
        optimizer: Optimizer of the model's parameters. A group's learning rate is multiplied by its ``scale``, if any.
        device: Device of this process.
        describe: Function from a step to plain values for the checkpoint, such as ``{"backbone": …}``.
        summary: Lines to print at the start, by their first word.
        info: Plain values for ``config.json``, such as ``{"source": …}``.
        validate: Function that returns metrics as plain values, called by all processes after an epoch. Numbers are
            logged. ``best`` and ``last`` keep all of them.
        validate_every: Epochs between two calls of ``validate``, which is also called after the last step; 0 for none.
        monitor: Metric, higher is better and None the worst, whose best epoch is in ``best`` and ``best_model.pth``.
        on_line: Function of each log line, called in the main process.
        constants: Numbers to repeat in each log line.
        unit: What a sample is called in the throughput's key.

    Attributes:
        module: The bare model, on the device.
        model: The model to call in the training loop; wrapped by DistributedDataParallel for several processes.
        start_step: First step to train.
        last: Metrics of the last validation with their ``epoch`` and ``step``; empty before.
        best: Metrics of the best one by ``monitor``; empty before.
        outputs: Functions of a path that write the files of a finished run, by file name; to be set before the first
            step. Called in the main process before the last checkpoint, or if a finished run lacks the file.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: RunPlan,
        folder: RunFolder,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        describe: Callable[[int], dict[str, Any]] = lambda step: {},
        summary: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
        validate: Callable[[], dict[str, Any]] | None = None,
        validate_every: int = 1,
        monitor: str | None = None,
        on_line: Callable[[dict[str, Any]], Any] = lambda line: None,
        constants: Mapping[str, float] | None = None,
        unit: str = "images",
    ) -> None:
        self.config, self.plan, self.device = config, plan, device
        self.module, self.optimizer = to_device(model, device, config.compile), optimizer
        self.start_step = self._load(folder)
        self.last: dict[str, Any] = folder.checkpoint.get("last") or {}
        self.best: dict[str, Any] = folder.checkpoint.get("best") or {}
        folder.checkpoint = {}
        self.model = wrap_ddp(self.module.train())
        self._folder, self._describe, self._validate = folder, describe, validate
        self._validate_every, self._monitor = validate_every, monitor
        self._on_line, self._constants, self._unit = on_line, constants or {}, unit
        self.outputs: dict[str, Callable[[Path], Any]] = {}
        self._log_start(summary or {}, info or {})
        self._guard = PreemptionGuard(device, folder=folder.path)
        self._logger = MetricLogger(folder.path, self.start_step, plan.steps, config.tracker, to_dict(config))
        self._step, self._line_step, self._lr, self._data_time = self.start_step, self.start_step - 1, 0.0, 0.0

    def _load(self, folder: RunFolder) -> int:
        """Load the checkpoint, if any. The optimizer's settings are those of the current configuration."""
        if not folder.checkpoint:
            return 0
        self.module.load_state_dict(checkpoint.strip_module_prefix(folder.checkpoint["model"]))
        folder.check_steps(self.plan.steps)
        settings = [{key: group[key] for key in group if key != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(folder.checkpoint["optimizer"])
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)
        return folder.checkpoint["step"]

    def _log_start(self, summary: Mapping[str, str], info: Mapping[str, Any]) -> None:
        """Print the plan, record the start, and write ``config.json`` unless the run is finished."""
        plan, is_finished = self.plan, self.start_step >= self.plan.steps
        self._folder.record_start()
        if not (is_finished and (self._folder.path / CONFIG_FILE).exists()):
            self._folder.write_config(self.config, plan, info)
        lines = {**summary, **plan.summary(self.config)}
        if self.start_step:
            done = f"{self.start_step} of {plan.steps} steps; nothing left to do"
            lines |= {"done": done} if is_finished else {"resume": f"from step {self.start_step}"}
        title = f"{info.get('source', self._folder.kind)} -> {self._folder.path}"
        log("\n".join([title, *(f"  {name:7} {text}" for name, text in lines.items())]))

    def loader(self, dataset: Any, workers: int | None = None, steps: range | None = None) -> DataLoader:
        """Return a loader of this process's batches of the steps that are left.

        Args:
            dataset: Data set with a length and ``__getitems__``.
            workers: Loading processes, if not those of the configuration.
            steps: Steps that the loader is for; None for all.
        """
        share, steps = (distributed.rank(), distributed.world_size()), steps or range(self.plan.steps)
        length = steps.stop, max(steps.start, self.start_step)
        batches = ResumableBatchSampler(len(dataset), self.plan.batch_size, self.config.seed, *length, *share)
        self._folder.write_first_pairs(dataset, batches, length[1])
        configured = 0 if self.config.cache_on_device else self.config.workers
        return build_loader(dataset, batches, configured if workers is None else workers, self.device)

    def steps(self, loader: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the step and the batch of each step that is left.

        Before each step: save and exit if a signal was received, measure the time to fetch the batch, set the learning
        rate, clear the gradients, and seed the random numbers that the model draws.

        Raises:
            FloatingPointError: The loss of the previous step, or a weight, is not finite.
            SystemExit: A process received a signal, see ``PreemptionGuard``; the checkpoint is written.
        """
        batches = iter(loader)
        for step in range(self.start_step, self.plan.steps):
            if received := self._guard.check():
                self.save(step)
                log(f"{received.name}: saved at step {step}; run the same command to resume")
                sys.exit(write_preempted_marker(self._folder.path, received, step))
            start, batch = time.perf_counter(), next(batches)
            self._data_time = time.perf_counter() - start
            self._step, self._lr = step, self.config.learning_rate(step, self.plan)
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr * group.get("scale", 1.0)
            self.optimizer.zero_grad()
            self.seed()
            yield step, batch
        self._finish()

    def seed(self, part: int = 0) -> None:
        """Seed the random numbers that the model draws in this step's forward pass of a micro-batch."""
        seed_step(self.config.seed, self._step, part)

    def autocast(self) -> torch.autocast:
        """Return the context of forward passes: bfloat16 autocast if the plan says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bf16)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of a scalar loss and update the parameters."""
        self.record(loss)
        loss.backward()
        self.update()

    def record(self, loss: torch.Tensor) -> None:
        """Record the loss for the finite check, before the backward pass, during which a GPU copies it."""
        self._guard.put(self._step, loss, self._logger.seconds >= self.config.log_freq_time)

    def update(self) -> None:
        """Clip the gradients and take an optimizer step."""
        if self.config.grad_clip:
            nn.utils.clip_grad_value_(self.module.parameters(), self.config.grad_clip)
        self.optimizer.step()

    def log(self, losses: Mapping[str, torch.Tensor], **more: torch.Tensor | Callable[[], float]) -> None:
        """Record a step's values, and at the cadence write a log line, validate, and save a checkpoint.

        Args:
            losses: Scalar tensors, averaged over the steps of a log line.
            **more: Further values. Tensors are averaged too; all processes call functions when a line is written.
        """
        tensors = {key: value for key, value in more.items() if isinstance(value, torch.Tensor)}
        self._logger.add({**losses, **tensors}, self._data_time)
        plan, done, epoch = self.plan, self._step + 1, self._step // self.plan.steps_per_epoch
        is_last = done == plan.steps
        epoch_ends = is_last or done % plan.steps_per_epoch == 0
        if done == self.start_step + ETA_STEPS < plan.steps:
            log(f"{format_eta(self._logger.seconds_per_step * (plan.steps - done))} left at this pace")
        due = self._guard.log_due and self._step > self._line_step + 1  # all processes agreed on it a step ago
        if epoch_ends or due or self.config.log_freq_time == 0:
            self._line_step = self._step
            line = {"epoch": epoch, "step": done, "lr": self._lr, **self._logger.averages(plan.batch_size, self._unit)}
            line |= {**{key: more[key]() for key in more if key not in tensors}, **self._constants}  # type: ignore[operator]
            if epoch_ends and self._validate and (n := self._validate_every) and (is_last or (epoch + 1) % n == 0):
                line |= self._run_validation(self._validate, epoch, done)
            self._logger.write(line)
            if distributed.is_main():
                self._on_line(line)
            self._logger.restart_clock()
        if is_last or done % plan.checkpoint_every == 0:
            self._guard.check()  # no weights after a loss that is not finite
            if is_last:
                self._write_outputs(self.outputs)
            self.save(done)

    def _run_validation(self, validate: Callable[[], dict[str, Any]], epoch: int, step: int) -> dict[str, Any]:
        """Validate, keep the last and the best metrics, and return those that are numbers."""
        self._guard.check()  # a model with a non-finite loss is not evaluated
        checkpoint.check_finite(self.module, step)
        self.last = {"epoch": epoch, "step": step, **validate()}
        self.module.train()
        score, best = (found.get(self._monitor or "") for found in (self.last, self.best))
        if self._monitor and (not self.best or (score is not None and (best is None or score > best))):
            self.best = self.last
            if distributed.is_main():
                self._folder.save_best(self._payload(step))
        return {key: value for key, value in self.last.items() if isinstance(value, (int, float))}

    def _payload(self, step: int) -> dict[str, Any]:
        """Return the checkpoint without the optimizer's state."""
        about: dict[str, Any] = {"kind": self._folder.kind, "config": to_dict(self.config), "step": step}
        about |= {"batch_size": self.plan.batch_size, "steps": self.plan.steps, "bf16": self.plan.bf16}
        about |= {"last": self.last, "best": self.best, **self._describe(step)}
        return {"model": checkpoint.add_module_prefix(self.module), **about}

    def save(self, step: int) -> None:
        """Write the checkpoint ``model.pth`` from the main process, unless a weight is not finite."""
        checkpoint.check_finite(self.module, step)
        if distributed.is_main():
            self._folder.save({**self._payload(step), "optimizer": self.optimizer.state_dict()})

    def _write_outputs(self, names: Iterable[str]) -> None:
        """Write files of a finished run, unless a weight is not finite."""
        checkpoint.check_finite(self.module, self.plan.steps)
        for name in names if distributed.is_main() else ():
            self.outputs[name](self._folder.path / name)

    def _finish(self) -> None:
        """Restore the signals, and write the files that a run that was killed at its end lacks."""
        if self.start_step >= self.plan.steps:
            if self._validate and self._monitor and not self.last:  # an older checkpoint, without these metrics
                epoch = (self.start_step - 1) // self.plan.steps_per_epoch
                self._run_validation(self._validate, epoch, self.start_step)
            self._write_outputs([name for name in self.outputs if not (self._folder.path / name).exists()])
        self._guard.close()
        self._logger.close()

    def close(self) -> None:
        """Release the run folder and leave the process group."""
        self._folder.close()
        distributed.destroy()
