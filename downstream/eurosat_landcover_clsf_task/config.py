"""Settings of training on EuroSAT."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from downstream.eurosat_landcover_clsf_task.transforms import get_view
from vicreg.common import cli
from vicreg.common.config import setting
from vicreg.data.subsets import check_percent
from vicreg.engine.config import RunPlan
from vicreg.engine.finetune import FinetuneConfig
from vicreg.engine.optim import one_cycle_lr
from vicreg.eval.lr_sweep import DEFAULT_LRS

TASK = "EuroSAT"  # name in checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class EurosatConfig(FinetuneConfig):
    """Settings of a run; see ``train_eurosat.py --help``. The digest of the split stands for the data's settings."""

    weights: str = setting("finetune", compare="must_match")
    optimizer: str = setting("adam", compare="must_match")
    label_smoothing: float = setting(0.0)
    lr_head: Sequence[float] = setting(tuple(DEFAULT_LRS))
    data_dir: Path = setting(compare="ignore")
    val_fraction: float = setting(0.2, compare="ignore")
    split_seed: int = setting(0, compare="ignore")
    train_list: Path | None = setting(None, compare="ignore")
    val_list: Path | None = setting(None, compare="ignore")
    train_percent: int = setting(100, compare="ignore")
    image_size: int | None = setting(None)
    augment: str = setting("turns")
    aug_override: Sequence[str] = setting(())
    views: int = setting(2)
    tta: bool = setting(False, compare="ignore")

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check_positive(self, "image_size", "views")
        check_percent(self.train_percent)
        if not all(lr > 0 for lr in self.lr_head):
            raise ValueError(f"--lr-head {' '.join(map(str, self.lr_head))}: must be positive")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing {self.label_smoothing}: must be 0 or more and below 1")
        if self.frozen and self.max_steps:
            raise ValueError("--max-steps shortens finetuning only; a head on frozen features takes --epochs")
        get_view(self.augment, self.aug_override)

    @property
    def frozen(self) -> bool:
        """Whether only a linear head is trained."""
        return self.weights == "freeze"

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate of the one-cycle schedule at a step."""
        return one_cycle_lr(step, plan.steps, plan.peak_lr)
