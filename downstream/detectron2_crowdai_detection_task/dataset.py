"""The CrowdAI splits as data sets of Detectron2, and the overlap between them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from downstream.detectron2_crowdai_detection_task import coco
from vicreg.common import files
from vicreg.data import leakage
from vicreg.data.image_listing import find_split
from vicreg.data.images import load_rgb

MAX_COMPARED = 5000  # images whose pixels are read before training; minutes on slow disks


class Split(NamedTuple):
    """One split, ready to be registered.

    Attributes:
        name: ``train`` or ``val``.
        json_file: Corrected annotations.
        image_dir: Folder of the images.
        classes: Category names in the order of the model's classes.
        counts: Numbers of images, polygons and corrections.
        image_size: Most frequent (height, width) in pixels.
    """

    name: str
    json_file: str
    image_dir: str
    classes: list[str]
    counts: dict[str, Any]
    image_size: list[int]

    @property
    def dataset_name(self) -> str:
        """Name in Detectron2's DatasetCatalog and MetadataCatalog."""
        return f"crowdai_{self.name}"


def prepare_splits(
    data_dir: Path,
    annotations: dict[str, str],
    folder: Path,
    classes: list[str] | None = None,
    resumed: Path | None = None,
) -> dict[str, Split]:
    """Correct the annotations of each split and write them to ``<folder>/ground_truth_<name>.json``.

    Args:
        data_dir: Folder that holds a folder for each split.
        annotations: Name of the JSON file of each split; the classes are those of the first one.
        folder: Folder to write to.
        classes: Category names of an existing run.
        resumed: Folder of a run to resume; its annotations must be the same.

    Raises:
        ValueError, OSError: As ``coco.load_split``; or the annotations differ from those of the run to resume.
    """
    splits = {}
    for name, json_name in annotations.items():
        source = find_split(data_dir, name) or data_dir / name
        corrected = coco.load_split(source, json_name, classes)
        classes = corrected.classes
        path = folder.resolve() / f"ground_truth_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(corrected.coco)
        recorded = resumed and resumed / path.name
        if recorded and recorded.is_file() and recorded.read_text(encoding="utf-8") != content:
            raise ValueError(
                f"--resume: {source / json_name} differs from {recorded}, on which the run was trained; "
                "choose another --exp-dir"
            )
        files.write_text(path, content)
        image_dir = str((source / "images").resolve())
        splits[name] = Split(name, str(path), image_dir, classes, corrected.counts, corrected.image_size)
    return splits


def register(split: Split) -> None:
    """Register a split with Detectron2, in place of an earlier one of the same name."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    if split.dataset_name in DatasetCatalog.list():
        DatasetCatalog.remove(split.dataset_name)
        MetadataCatalog.remove(split.dataset_name)
    register_coco_instances(split.dataset_name, {}, split.json_file, split.image_dir)


def report(splits: dict[str, Split]) -> dict[str, Any]:
    """Print the numbers of each split and the overlap of validation with training; return both.

    The overlap is the fraction of validation images whose pixels are also in training, as ``vicreg.data.leakage``
    measures it; it is None for more than ``MAX_COMPARED`` images.

    Raises:
        ValueError: An image cannot be decoded, or its size is not that of the annotations.
    """
    overlap = {"samples": splits["val"].counts["images"], "location_overlap": None, "exact_duplicates": None}
    if sum(split.counts["images"] for split in splits.values()) <= MAX_COMPARED:
        overlap = leakage.overlap_of_images(_read_images(splits["train"]), _read_images(splits["val"]))
    lines = [coco.describe(name, split.counts) for name, split in splits.items()]
    print(*lines, leakage.format_overlap(overlap), sep="\n", flush=True)
    return {"data": {name: split.counts for name, split in splits.items()}, "overlap": overlap}


def _read_images(split):
    for image in json.loads(Path(split.json_file).read_bytes())["images"]:
        path = Path(split.image_dir) / image["file_name"]
        pixels = load_rgb(path)
        if pixels.size != (image["width"], image["height"]):
            raise ValueError(
                f"{path} is {pixels.width} x {pixels.height} pixels, the annotations have {image['width']} x "
                f"{image['height']}"
            )
        yield np.asarray(pixels)
