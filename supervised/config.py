"""Settings of supervised training."""

import dataclasses
from collections.abc import Sequence

from vicreg.common import cli
from vicreg.common.config import setting
from vicreg.data.subsets import check_percent
from vicreg.engine.config import RunConfig, RunPlan
from vicreg.engine.optim import cosine_lr
from vicreg.eval.config import check_weight_bands
from vicreg.eval.features import center_crop_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(RunConfig):
    """Settings of supervised training; see ``main_supervised_sn7.py --help``."""

    arch: str = setting("resnet18", compare="must_match")
    init_from: str | None = setting(None)
    weight_bands: Sequence[int] | None = setting(None)
    label_smoothing: float = setting(0.0)
    class_weights: str = setting("none")
    train_percent: int = setting(100)
    augment: str = setting("crop")
    aug_override: Sequence[str] = setting(())
    image_size: int | None = setting(None)
    optimizer: str = setting("sgd", compare="must_match")
    momentum: float = setting(0.9)
    warmup_epochs: float = setting(0.0)
    schedule: str = setting("cosine")
    milestones: Sequence[int] = setting(())
    gamma: float = setting(0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        cli.check_positive(self, "image_size", "gamma")
        check_weight_bands(self.weight_bands, self.init_from, "--init-from")
        check_percent(self.train_percent)
        for name in ("label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)}: must be 0 or more and below 1")
        if second := [change for change in self.aug_override if change.startswith("2.")]:
            raise ValueError(f"--aug-override {second[0]}: supervised training has one view; leave the '2.' out")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError("--warmup-epochs must be 0 or more and fewer than --epochs")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("--schedule step needs --milestones, such as 60 80, and no other schedule takes any")

    def view_size(self, patch_size: int) -> int:
        """Return the side of the views in pixels for images of ``patch_size`` pixels."""
        return self.image_size or center_crop_size(patch_size)

    def warmup_steps(self, steps_per_epoch: int, steps: int) -> int:
        """Return the steps of ``warmup_epochs``."""
        return min(round(self.warmup_epochs * steps_per_epoch), steps)

    def learning_rate(self, step: int, plan: RunPlan) -> float:
        """Return the learning rate at a step: linear warm-up, then the schedule.

        ``cosine`` falls to a thousandth of the peak, ``step`` is multiplied by ``gamma`` at each milestone (in epochs),
        ``constant`` stays.
        """
        if self.schedule == "cosine":
            return cosine_lr(step, plan.steps, plan.warmup_steps, plan.peak_lr)
        warmup = min(1.0, step / plan.warmup_steps) if plan.warmup_steps else 1.0
        passed = sum(step >= epoch * plan.steps_per_epoch for epoch in self.milestones)
        return plan.peak_lr * warmup * self.gamma**passed
