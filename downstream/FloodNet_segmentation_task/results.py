"""Write the results of a finished run: metrics of the best epoch, and examples."""

from pathlib import Path
from typing import Any

import numpy as np

from downstream.FloodNet_segmentation_task import metrics
from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs
from downstream.FloodNet_segmentation_task.config import TASK, FloodConfig
from downstream.FloodNet_segmentation_task.plots import save_examples
from vicreg.common import checkpoint_io
from vicreg.common.config import to_dict
from vicreg.common.logger import log
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.leakage import format_overlap, overlap_of_images
from vicreg.data.rasters import display_rgb
from vicreg.engine.checkpoint import BEST_FILE, strip_module_prefix
from vicreg.engine.run import TrainingRun
from vicreg.inference.sliding_window import label_image

FLOODED_BUILDING = {"floodnet": "building flooded", "flooded": "flooded building"}


def write_results(
    config: FloodConfig, run: TrainingRun, data: dict[str, CachedPairs], predict: Any, side: int,
    backbone_info: dict[str, Any],
) -> None:  # fmt: skip
    """Write ``result.json`` and ``examples.png``, both of the best epoch, and log the metrics.

    The model of the finished run, which ``predict`` uses, gets the weights of the best epoch. ``side`` is that of the
    windows in pixels.
    """
    folder, classes = Path(config.exp_dir), config.classes.names
    last, best = (metrics.with_intervals(scores, classes) for scores in (run.last, run.best))
    weights = checkpoint_io.load(folder / BEST_FILE)["model"]
    run.module.load_state_dict(strip_module_prefix(weights))
    constant = metrics.constant_prediction_metrics(
        metrics.count_class_pixels(data["train"], len(classes)), np.array(best["confusion"]), classes
    )
    names = ["mean_iou", "mean_dice", "accuracy", "iou", "dice"]
    result = {key: best[key] for key in names} | {"selected_on_validation": names}
    result |= {"task": "segmentation", "dataset": TASK, "protocol": f"{config.task} {config.decoder}"}
    result |= {"intervals": best.get("intervals", {}), "intervals_of": best.get("intervals_of")}
    result |= {"arch": backbone_info["arch"], "source": backbone_info["source"], "decoder": config.decoder}
    result |= {"epoch": best["epoch"], "init_from": config.init_from, "scale": data["train"].scale}
    if config.task in FLOODED_BUILDING:
        result["flooded_building_iou"] = best["iou"][FLOODED_BUILDING[config.task]]
        result["selected_on_validation"].append("flooded_building_iou")
    result |= {"constant": constant, "train_samples": len(data["train"]), "val_samples": len(data["val"])}
    if "test" in data:
        scores = metrics.evaluate_segmentation(predict, data["test"], classes, side, config.overlap)
        result["test"] = metrics.with_intervals(scores, classes)
    shared = overlap_of_images(*(map(data[part].image, range(len(data[part]))) for part in ("train", "val")))
    log(format_overlap(shared))
    result |= {"overlap": shared, "steps": run.plan.steps, "last": last, "best": best, "config": to_dict(config)}
    write_result(folder / RESULT_FILE, result)
    _plot_examples(config, predict, data["val"], side, best["epoch"])
    for name in classes:
        log(f"  {name:22} IoU {_format(best['iou'][name])}  Dice {_format(best['dice'][name])}")
    prefix = "mean " if len(classes) > 2 else ""
    log(
        f"{prefix}IoU {_format(best['mean_iou'])}  {prefix}Dice {_format(best['mean_dice'])}  "
        f"accuracy {best['accuracy']:.4f}  "
        f'(everywhere "{constant["class"]}": {prefix}IoU {constant["mean_iou"]:.4f}); {folder / RESULT_FILE}'
    )


def _plot_examples(config: FloodConfig, predict: Any, pairs: CachedPairs, side: int, epoch: int) -> None:
    """Write ``examples.png`` with evenly spaced validation images, unless ``config.examples`` is 0."""
    rows = []
    for n in range(0, len(pairs), max(1, len(pairs) // max(1, config.examples)))[: config.examples]:
        predicted = label_image(pairs.image(n), predict, side, config.overlap)
        rows.append((pairs.pairs[n].image.name, display_rgb(pairs.image(n)), pairs.labels(n), predicted))
    if rows:
        path = Path(config.exp_dir) / "examples.png"
        save_examples(path, rows, config.classes, f"validation images, epoch {epoch}")


def _format(value: float | None) -> str:
    return "  -   " if value is None else f"{value:.4f}"
