"""Configuration of training runs: frozen dataclasses, and the plan that follows from one."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from vicreg import distributed
from vicreg.common import cli
from vicreg.common.config import setting
from vicreg.common.trackers import check_tracker
from vicreg.engine.precision import choose_bf16


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Numbers that follow from a configuration, the number of samples, and the number of processes.

    Attributes:
        samples: Number of training samples.
        world_size: Number of processes.
        local_batch_size: Samples per process and step.
        steps_per_epoch: Whole batches in the data set; the remainder is dropped.
        steps: Optimizer steps of the whole run.
        warmup_steps: Steps over which the learning rate rises from 0.
        peak_lr: Highest learning rate.
        checkpoint_every: Steps between checkpoints.
        bf16: Whether forward passes run under bfloat16 autocast.
        device: Name of the device.
    """

    samples: int
    world_size: int
    local_batch_size: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    peak_lr: float
    checkpoint_every: int
    bf16: bool
    device: str

    @property
    def batch_size(self) -> int:
        """Samples per step over all processes."""
        return self.local_batch_size * self.world_size

    @property
    def epochs(self) -> int:
        """Epochs of the run; the last one may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def summary(self, config: "RunConfig") -> dict[str, str]:
        """Return lines to print at the start of a run, by their first word."""
        rounded = "" if self.batch_size == config.batch_size else f" (of {config.batch_size} asked for)"
        precision = "bf16 autocast" if self.bf16 else "fp32"
        return {
            "batch": f"{self.batch_size}{rounded} = {self.local_batch_size} x {self.world_size} process(es), "
            f"{self.device}, {precision}",
            "steps": f"{self.steps} ({self.steps_per_epoch} per epoch), warm-up {self.warmup_steps}, peak learning "
            f"rate {self.peak_lr:.4g}",
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, with ``batch_size``."""
        return {"batch_size": self.batch_size, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of every training run; tasks derive their own class with more fields.

    A class that changes the default of a field declares it with ``setting`` again, with the same ``compare``.

    Attributes:
        exp_dir: Run folder.
        epochs: Passes over the data.
        batch_size: Samples per step over all processes.
        lr: Learning rate; ``peak_lr`` says how it is scaled.
        weight_decay: Weight decay.
        grad_clip: Largest absolute value of a gradient's elements; 0 does not clip.
        seed: Seed of weights, order, and augmentation.
        max_steps: Upper limit for the number of steps.
        precision: ``"auto"``, ``"bf16"`` or ``"fp32"``.
        deterministic: Whether to use deterministic GPU algorithms.
        compile: Whether to ``torch.compile`` the network.
        workers: Loading processes per training process.
        cache_on_device: Whether the data set is kept in the device's memory.
        checkpoint_every: Steps between checkpoints; None is one epoch.
        log_freq_time: Seconds between log lines within an epoch.
        tracker: Experiment tracker, a key of ``trackers.TRACKERS``.
        device: ``"auto"``, ``"cuda"`` or ``"cpu"``.
        local_rank: Local rank, used if the launcher does not set LOCAL_RANK.
        timeout_minutes: Time limit of collectives.

    Raises:
        ValueError: A value is out of range; the message names the flag.
    """

    exp_dir: Path = setting(compare="ignore")
    epochs: int = setting(100, compare="length")
    batch_size: int = setting(256)
    lr: float = setting(0.3)
    weight_decay: float = setting(0.0)
    grad_clip: float = setting(0.0)
    seed: int = setting(0)
    max_steps: int | None = setting(None, compare="length")
    precision: str = setting("auto")
    deterministic: bool = setting(False, compare="ignore")
    compile: bool = setting(False, compare="ignore")
    workers: int = setting(2, compare="ignore")
    cache_on_device: bool = setting(False, compare="ignore")
    checkpoint_every: int | None = setting(None, compare="ignore")
    log_freq_time: float = setting(60.0, compare="ignore")
    tracker: str = setting("tensorboard", compare="ignore")
    device: str = setting("auto", compare="ignore")
    local_rank: int = setting(0, compare="ignore")
    timeout_minutes: float = setting(5.0, compare="ignore")

    def __post_init__(self) -> None:
        cli.check_positive(self, "epochs", "batch_size", "lr", "max_steps", "checkpoint_every")
        cli.check_not_negative(self, "weight_decay", "grad_clip", "workers", "log_freq_time")
        check_tracker(self.tracker)

    def peak_lr(self, batch_size: int) -> float:
        """Return the highest learning rate for a total batch size."""
        return self.lr

    def warmup_steps(self, steps_per_epoch: int, steps: int) -> int:
        """Return the number of warm-up steps."""
        return 0

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate at a step, counted from 0. The default is constant."""
        return plan.peak_lr


def plan_run(
    config: RunConfig,
    samples: int,
    device: torch.device,
    saved_batch_size: int | None = None,
    saved_bf16: bool | None = None,
    side: int | None = None,
) -> RunPlan:
    """Derive batch size, steps, learning rate, and precision. A collective call.

    Args:
        config: Configuration of the run.
        samples: Number of training samples.
        device: Device of this process.
        saved_batch_size: Total batch size of the checkpoint to resume from, kept with any number of processes.
        saved_bf16: Precision of the checkpoint, see ``choose_bf16``.
        side: Side of the smallest images in pixels; None if it is large enough for either precision.

    Raises:
        ValueError: The samples do not fill a batch, or the batch cannot be divided; the message names the flag.
    """
    world_size = distributed.world_size()
    local = local_batch_size(config, world_size, saved_batch_size)
    batch_size = local * world_size
    if samples < batch_size:
        raise ValueError(f"{samples} samples do not fill a batch of {batch_size}; lower --batch-size")
    steps_per_epoch = samples // batch_size
    steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    return RunPlan(
        samples=samples,
        world_size=world_size,
        local_batch_size=local,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=config.warmup_steps(steps_per_epoch, steps),
        peak_lr=config.peak_lr(batch_size),
        checkpoint_every=config.checkpoint_every or steps_per_epoch,
        bf16=choose_bf16(config.precision, device, steps, saved_bf16, side),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )


def local_batch_size(config: RunConfig, world_size: int, saved_batch_size: int | None = None) -> int:
    """Return the samples per process: of ``--batch-size`` rounded down, or of the checkpoint's batch size.

    Raises:
        ValueError: The checkpoint's batch size cannot be divided by ``world_size``, or a process gets no sample.
    """
    local = config.batch_size // world_size
    if saved_batch_size and local * world_size != saved_batch_size:
        if saved_batch_size % world_size:
            raise ValueError(
                f"{config.exp_dir} holds a run with a batch size of {saved_batch_size}, which {world_size} processes "
                "do not divide; resume with a number of processes that does"
            )
        local = saved_batch_size // world_size
    if not local:
        raise ValueError(f"--batch-size {config.batch_size} is less than the number of processes, {world_size}")
    return local
