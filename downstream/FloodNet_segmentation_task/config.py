"""Settings of flood segmentation."""

import dataclasses
from pathlib import Path

from downstream.FloodNet_segmentation_task.segmentation_folder import Classes, task_classes
from vicreg.common import cli
from vicreg.common.config import setting
from vicreg.engine.checkpoint import load_task
from vicreg.engine.config import RunPlan
from vicreg.engine.finetune import FinetuneConfig
from vicreg.engine.optim import cosine_lr

TASK = "flood segmentation"  # name in checkpoints
MAX_OVERLAP = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloodConfig(FinetuneConfig):
    """Settings of a run; see ``train_floodnet.py --help``. The digest of the split stands for the data's settings."""

    init_from: str | None = setting(None, compare="must_match")
    decoder: str = setting("unet", compare="must_match")
    task: str = setting(compare="must_match")
    schedule: str = setting("constant")
    cross_entropy: float = setting(0.0)
    data_dir: Path = setting(compare="ignore")
    val_fraction: float = setting(0.2, compare="ignore")
    image_size: int | None = setting(None)
    scale: float = setting(1.0)
    crop: int | None = setting(None)
    repeats: int = setting(1)
    overlap: float = setting(0.5)
    cache_dir: Path | None = setting(None, compare="ignore")
    examples: int = setting(4, compare="ignore")

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check_positive(self, "image_size", "scale", "crop", "repeats")
        cli.check_not_negative(self, "cross_entropy", "examples")
        if (self.pretrained is None) == (self.init_from is None):
            raise ValueError("one of --pretrained (a backbone) and --init-from (a run of this script) is needed")
        if self.scale > 1:
            raise ValueError(f"--scale {self.scale:g}: 1 or less; images are reduced, never enlarged")
        if self.crop and self.crop % 32:
            raise ValueError(f"--crop {self.crop}: a multiple of 32 is needed")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ValueError(f"--overlap {self.overlap:g}: 0 to {MAX_OVERLAP} is needed")
        if self.decoder == "deeplabv3plus" and self.batch_size < 2:
            raise ValueError("--decoder deeplabv3plus normalizes over the batch; --batch-size 2 or more is needed")

    @property
    def classes(self) -> Classes:
        """Names and colors of the task's classes."""
        return task_classes(self.task, self.data_dir)

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate at a step: constant, or a half cosine."""
        return plan.peak_lr if self.schedule == "constant" else cosine_lr(step, plan.steps, 0, plan.peak_lr)


def resolve_decoder(task: str, num_classes: int, init_from: str | None, arch: str | None, decoder: str | None) -> str:
    """Return ``--decoder``, by default that of ``--init-from`` or a U-Net; ``num_classes`` are those of ``task``.

    Raises:
        FileNotFoundError: ``init_from`` does not exist.
        ValueError: It is not a checkpoint of this task, or has another shape.
    """
    if init_from is None:
        return decoder or "unet"
    saved = load_task(init_from, TASK)[1]
    kept, kept_arch = saved["task"], saved["backbone"]["arch"]
    decoder = decoder or kept["decoder"]
    if arch not in (None, kept_arch):
        raise ValueError(f"{init_from} is a network over {kept_arch}, not {arch}; leave --arch out")
    if decoder != kept["decoder"] or len(kept["classes"]) != num_classes:
        raise ValueError(
            f"{init_from} is a {kept['decoder']} of {len(kept['classes'])} classes ({kept['kind']}); it cannot "
            f"initialize a {decoder} of {num_classes} (--task {task})"
        )
    return decoder
