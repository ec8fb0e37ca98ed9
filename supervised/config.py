"""Settings of supervised training, and their command-line arguments."""

import argparse
import dataclasses
from collections.abc import Sequence

from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.common import cli
from vicreg.common.config import setting
from vicreg.data.subsets import check_percent
from vicreg.engine.arguments import (
    add_aug_override,
    add_data_arguments,
    add_init_arguments,
    add_optimization_arguments,
    add_run_arguments,
)
from vicreg.engine.config import RunConfig, RunPlan
from vicreg.engine.optim import cosine_lr
from vicreg.eval.config import check_weight_bands


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(RunConfig):
    """Settings of supervised training; see ``get_parser`` for their meaning."""

    arch: str = setting("resnet18", compare="must_match")
    in_chans: int = setting(3, compare="must_match")
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
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError("--warmup-epochs must be 0 or more and fewer than --epochs")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("--schedule step needs --milestones, such as 60 80, and no other schedule takes any")

    def view_size(self, patch_size: int) -> int:
        """Return the side of the views in pixels for images of ``patch_size`` pixels."""
        return self.image_size or max(1, round(patch_size * 7 / 8))

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


def get_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of supervised training; scripts add those of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=cli.HelpFormatter)
    add_run_arguments(parser, "weights, subset, order and augmentation")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    add_init_arguments(model)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--label-smoothing", type=float, default=0.0, help="target probability spread over all classes")
    loss.add_argument(
        "--class-weights", choices=["none", "sqrt", "inverse"], default="none",
        help="weight of a class by its number of samples n: equal, 1 / sqrt(n), or 1 / n (all classes count alike)",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--train-percent", type=int, default=100, help="percentage of each class's labels, 1 to 100")
    data.add_argument(
        "--augment", default="crop", choices=list(presets.PRESETS), help="preset, whose first view is used"
    )
    add_aug_override(data, "scale=0.3,1 vertical_flip=0.5")
    add_data_arguments(data)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd", help="biases and norms do not decay")
    add_optimization_arguments(optim, batch_size=64, weight_decay=1e-4)
    optim.add_argument("--lr", type=float, default=0.01, help="peak learning rate; does not scale with the batch size")
    optim.add_argument("--momentum", type=float, default=0.9, help="momentum of sgd")
    optim.add_argument("--warmup-epochs", type=float, default=0.0, help="epochs of linear warm-up")
    optim.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine", help="after the warm-up")
    optim.add_argument("--milestones", type=int, nargs="+", default=[], help="epochs at which --schedule step falls")
    optim.add_argument("--gamma", type=float, default=0.1, help="factor at each milestone")
    distributed.add_arguments(parser)
    return parser
