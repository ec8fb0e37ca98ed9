"""Curves of all runs by metric, over the same steps."""

from collections.abc import Sequence
from typing import Any

from exp.reporting.collect import Run, number

MAX_POINTS, MIN_POINTS, ALL_POINTS = 400, 25, 80_000  # of a curve, and of all curves
HIDDEN_KEYS = {
    "step", "epoch", "image_size", "loss_lower_bound", "iteration", "best_epoch", "lr_head", "knn20_top5",
    "knn200_top5",
}  # fmt: skip
NAMES = {
    "lr": "Learning rate", "knn20_top1": "kNN-20 probe", "top1": "Top-1", "top5": "Top-5", "box_AP": "Box AP",
    "train_top1": "Training top-1", "mean_iou": "Mean IoU", "mean_dice": "Mean Dice", "mask_AP": "Mask AP",
    "data_time": "Waiting for data",
}  # fmt: skip
HELP = {
    "loss": "Training loss, averaged over each log interval; the triangle is the lower bound of this batch size",
    "lr": "Learning rate of each step",
    "throughput": "Samples per second of all processes",
    "knn20_top1": "kNN-20 probe on labeled validation samples during training",
    "top1": "Accuracy on the validation samples",
    "effective_rank": "Effective dimensions of the features (RankMe); a collapse shows as a drop",
    "embedding_std": "Standard deviation of the embeddings over a batch; VICReg aims at 1",
    "data_time": "Fraction of the time spent waiting for data",
    "train_top1": "Accuracy on the augmented training batches",
    "mean_iou": "Mean IoU on the validation images",
}
_FIRST = ("loss", "term", "knn20_top1", "top1", "mean_iou", "effective_rank", "embedding_std", "lr", "throughput")


def curves(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the curves of all runs by metric, thinned out to a number of points that suits their number.

    Losses of different kinds are in different charts, since their values have nothing in common.
    """
    trained = [run for run in runs if run.losses and run.kind != "evaluation"]
    plotted = [(index, run, _series(run)) for index, run in enumerate(trained)]
    total = sum(len(series) for _, _, series in plotted)
    limit = max(MIN_POINTS, min(MAX_POINTS, ALL_POINTS // max(1, total)))
    several = len({_loss_name(run) for run in trained}) > 1
    charts: dict[str, dict[str, Any]] = {}
    for index, run, series in plotted:
        for key, points in series.items():
            name = f"loss {_loss_name(run)}" if key == "loss" and several else key
            chart = charts.setdefault(name, {"title": _title(name), "help": _help(key), "traces": [], "bounds": []})
            steps, values = zip(*_thin_out(points, limit), strict=True)
            chart["traces"].append({"run": index, "step": steps, "y": values})
            bound = number(next((line.get("loss_lower_bound") for line in reversed(run.losses)), None))
            if key == "loss" and bound is not None:
                chart["bounds"].append({"run": index, "y": bound})
    names = [{"name": run.name, "perEpoch": number(run.plan.get("steps_per_epoch"))} for run in trained]
    return {"runs": names, "charts": [charts[name] for name in sorted(charts, key=_order)]}


def _order(name: str) -> tuple[int, str]:
    group = "loss" if name.startswith("loss") else "term" if name.endswith("_loss") else name
    return _FIRST.index(group) if group in _FIRST else len(_FIRST), name


def _loss_name(run: Run) -> str:
    loss = run.config.get("loss")
    return loss if isinstance(loss, str) else run.kind


def _title(name: str) -> str:
    if name.startswith("loss "):
        return f"Loss: {name.removeprefix('loss ').replace('_', ' ')}"
    return NAMES.get(name) or name.replace("_", " ").capitalize()


def _help(key: str) -> str:
    return HELP.get(key) or ("A term of the loss" if key.endswith("_loss") else "As logged")


def _series(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Return the points (step, value) of each metric."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in run.lines:
        step = number(line.get("step"))
        for key, value in line.items():
            name = "throughput" if key.endswith("_per_second") else key
            if step is not None and key not in HIDDEN_KEYS and (plain := number(value)) is not None:
                series.setdefault(name, []).append((step, float(f"{plain:.5g}")))
    return series


def _thin_out(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    stride = -(-len(points) // limit)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]
