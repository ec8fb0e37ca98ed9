"""Files of a run folder: ``run.json`` (backbone, classes, data), ``result.json`` (metrics) and ``examples.png``."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from shapely import geometry

from downstream.detectron2_crowdai_detection_task.dataset import Split
from downstream.detectron2_crowdai_detection_task.model import EARLIER_CHECKPOINT, find_checkpoint
from vicreg.common import checkpoint_io, files, plots
from vicreg.common.json_files import read_json
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.images import load_rgb
from vicreg.inference import polygons

RUN_FILE = "run.json"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TASKS = {"bbox": "box", "segm": "mask"}
EXAMPLES = 6  # images in examples.png


def load_run(path: str | Path) -> dict[str, Any] | None:
    """Return ``run.json`` of a run folder or of a checkpoint in it, or None without a checkpoint.

    The checkpoints of earlier versions of this task hold the same values.

    Raises:
        ValueError: The checkpoint is of another kind.
    """
    try:
        folder = find_checkpoint(path).parent
    except FileNotFoundError:
        return None
    try:
        if (folder / RUN_FILE).is_file():
            return read_json(folder / RUN_FILE)
        state = checkpoint_io.load(folder / EARLIER_CHECKPOINT)
        classes = [category["name"] for category in state["categories"]]
        return {"backbone": state["backbone"], "image_size": state["image_size"], "classes": classes}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} does not hold a run of train_crowdai.py; choose another --exp-dir") from error


def check_resume(folder: str | Path, run: dict[str, Any], pretrained: str | None, arch: str | None) -> None:
    """Raise ValueError if a run started from another backbone, or was written by an earlier version."""
    if "pretrained" not in run:
        raise ValueError(f"{folder} holds a run of an earlier version, which cannot resume; choose another --exp-dir")
    for option, given, saved in (
        ("--pretrained", pretrained, run["pretrained"]),
        ("--arch", arch, run["backbone"]["arch"]),
    ):
        if given not in (None, saved):
            raise ValueError(f"{folder} holds a run with {option} {saved}, not {given}; choose another --exp-dir")


def write_results(folder: Path, results: dict[str, Any], names: list[str], step: int, run: dict[str, Any]) -> None:
    """Print metrics in the order of the published table, and write ``result.json``.

    Args:
        folder: Run folder.
        results: Results of ``DefaultTrainer.test``: of one data set, or of several by name.
        names: Splits in the order of DATASETS.TEST.
        step: Iterations of training.
        run: Content of ``run.json``.
    """
    per_split = [results] if len(names) == 1 else results.values()
    metrics = {name: summarize(values) for name, values in zip(names, per_split, strict=True)}
    for name, tasks in metrics.items():
        parts = [f"{task} " + " ".join(f"{key} {tasks[task][key]:.4f}" for key in METRICS[:3]) for task in tasks]
        print(f"{name}: " + "   ".join(parts))
    result = {"task": "detection", "dataset": "CrowdAI", "protocol": "Mask R-CNN", "step": step, **run}
    result |= {name: run["backbone"][name] for name in ("arch", "source")} | {"selected_on_validation": []}
    result |= {f"{name}_samples": run["data"][name]["images"] for name in ("train", "val")}
    result |= {"intervals": {}, "intervals_of": "none: average precision is not a mean over images"}
    write_result(folder / RESULT_FILE, {**result, **metrics})
    print(folder / RESULT_FILE, flush=True)


def save_examples(path: Path, model: Any, cfg: Any, split: Split) -> None:
    """Write evenly spaced images of a split with their annotations, above, and detections of score 0.5, below."""
    from downstream.detectron2_crowdai_detection_task.tiled_detection import detect

    content = json.loads(Path(split.json_file).read_bytes())
    images = content["images"][:: -(-len(content["images"]) // EXAMPLES)]
    figure, axes = plots.new_figure(2, len(images), (2.4 * len(images), 5.2))
    for column, image in enumerate(images):
        pixels = np.asarray(load_rgb(Path(split.image_dir) / image["file_name"]))
        shown = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        truth = [geometry.Polygon(np.reshape(part, (-1, 2))) for item in shown for part in item["segmentation"]]
        detected = [detection.shape for detection in detect(model.eval(), pixels.transpose(2, 0, 1), cfg, 0.5)]
        for axis, shapes, title in zip(axes[:, column], (truth, detected), ("annotations", "detections"), strict=True):
            axis.imshow(polygons.draw(pixels, shapes))
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{len(shapes)} {title}", fontsize=8)
    files.atomic_write(path, figure.savefig)


def summarize(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Convert the results of one data set from 0..100 to ``{"box": {"AP": …}, "mask": …}`` from 0 to 1.

    None is undefined: no object of this size. Without any detection AP, AP50 and AP75 are 0: each split has objects.
    """

    def fraction(percent, metric):
        if math.isnan(percent):
            return 0.0 if metric in METRICS[:3] else None
        return round(percent / 100, 6)

    return {
        label: {metric: fraction(results[task][metric], metric) for metric in METRICS}
        for task, label in TASKS.items()
        if task in results
    }
