"""Building polygons from MS-COCO json: read, checked, and given the boxes that the polygons have.

The CrowdAI files are not to be trusted in everything: copies are about in which x and y are mixed up in every ``bbox``,
and some polygons are no areas. So boxes and areas come from the polygons, what cannot be used is dropped and counted,
and figures are computed against the corrected file that ``ground_truth`` makes.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

XYXY = 0  # detectron2.structures.BoxMode.XYXY_ABS; this module works without Detectron2


class Split(NamedTuple):
    """One part of the data set.

    Attributes:
        records: a dict for each image as Detectron2 wants them: ``file_name, image_id, height, width, annotations``.
        categories: list of ``{"id", "name"}`` in the order of the model's classes.
        counts: dict of plain values: how much there is, and what was dropped or corrected.
    """

    records: list
    categories: list
    counts: dict


def read_split(folder, annotations="annotation.json"):
    """Read ``<folder>/annotation.json`` and look for its images in ``<folder>/images``, without opening them.

    Args:
        folder: of one part of the data. annotations: the json's name in the folder, or a path.

    Returns:
        Split.

    Raises:
        FileNotFoundError: no json, or images that it names are not there; the first few are listed.
        ValueError: the json is not what MS-COCO says, with what is wrong.
    """
    folder = Path(folder)
    path = folder / annotations
    content = _load(path)
    categories = sorted(content.get("categories") or [{"id": 100, "name": "building"}], key=lambda found: found["id"])
    classes = {category["id"]: number for number, category in enumerate(categories)}
    names = [category.get("name", str(category["id"])) for category in categories]
    records = {}
    for image in content["images"]:
        if missing := {"id", "file_name", "height", "width"} - image.keys():
            raise ValueError(f"{path}: an image without {', '.join(sorted(missing))}: {str(image)[:100]}")
        if image["id"] in records:
            raise ValueError(f"{path}: two images with the id {image['id']}")
        size = {"height": image["height"], "width": image["width"]}
        name = str(folder / "images" / image["file_name"])
        records[image["id"]] = {"file_name": name, "image_id": image["id"], **size, "annotations": []}
    _check_there(folder / "images", [image["file_name"] for image in content["images"]])
    dropped, wrong_boxes = Counter(), 0
    for annotation in content["annotations"]:
        record = records.get(annotation.get("image_id"))
        if record is None:
            dropped["image not in the list"] += 1
            continue
        if annotation.get("category_id") not in classes:
            known = ", ".join(f"{category['id']} ({name})" for category, name in zip(categories, names, strict=True))
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has the category {annotation.get('category_id')}, which "
                f"the file does not list; it lists {known}"
            )
        found, why = _polygon(annotation, record, path)
        if why:
            dropped[why] += 1
            continue
        wrong_boxes += _differs(annotation.get("bbox"), found["bbox"])
        record["annotations"].append({**found, "category_id": classes[annotation["category_id"]]})
    counts = {
        "images": len(records),
        "images_without_polygons": sum(not record["annotations"] for record in records.values()),
        "polygons": sum(len(record["annotations"]) for record in records.values()),
        "dropped": dict(dropped),
        "boxes_corrected": wrong_boxes,
    }
    if not counts["polygons"]:
        raise ValueError(f"{path}: no usable polygon in it (dropped: {dict(dropped) or 'none'})")
    kept = [{"id": category["id"], "name": name} for category, name in zip(categories, names, strict=True)]
    return Split(list(records.values()), kept, counts)


def _load(path):
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}; --data-dir must hold train/ and val/, with images/ in each")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not readable as json, perhaps cut short ({error})") from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f'{path}: no list of "{key}" in it; MS-COCO json has images, annotations and categories')
        if not content[key]:
            raise ValueError(f'{path}: its list of "{key}" is empty')
    return content


def _check_there(folder, names):
    """Look for files by one listing of their folder: a look at each of 280,000 takes minutes on a network disk."""
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    missing = [name for name in names if name not in there and not ("/" in name and (folder / name).is_file())]
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(f"{len(missing)} of {len(names)} images are not in {folder}: {some}")


def _polygon(annotation, record, path):
    """(what Detectron2 needs of an annotation, None), or (None, why it is of no use)."""
    rings = annotation.get("segmentation")
    if not isinstance(rings, list):
        raise ValueError(
            f"{path}: annotation {annotation.get('id')} has no list of polygons as its segmentation (run-length "
            "masks are not read)"
        )
    if rings and not isinstance(rings[0], list):
        rings = [rings]  # one bare ring
    rings = [[float(number) for number in ring] for ring in rings if len(ring) >= 6 and len(ring) % 2 == 0]
    rings = [ring for ring in rings if all(map(math.isfinite, ring))]
    if not rings:
        return None, "fewer than three points"
    rings = [ring for ring in rings if _area(ring) > 0]
    if not rings:
        return None, "no area"
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    left, right = max(0.0, min(xs)), min(float(record["width"]), max(xs))
    top, bottom = max(0.0, min(ys)), min(float(record["height"]), max(ys))
    if right <= left or bottom <= top:
        return None, "outside its image"
    crowd = int(annotation.get("iscrowd") or 0)
    return {"segmentation": rings, "bbox": [left, top, right, bottom], "bbox_mode": XYXY, "iscrowd": crowd}, None


def _area(ring):
    """Area of a ring [x, y, x, y, …], by the shoelace formula."""
    xs, ys = ring[::2], ring[1::2]
    doubled = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    return abs(doubled) / 2


def _differs(given, box, tolerance=1.0):
    """Whether a COCO box [x, y, width, height] is another one than [left, top, right, bottom], in pixels."""
    if not given or len(given) != 4:
        return True
    x, y, width, height = given
    return any(abs(a - b) > tolerance for a, b in zip((x, y, x + width, y + height), box, strict=True))


def ground_truth(split):
    """The split as MS-COCO json with corrected boxes, areas in square pixels, and every field that pycocotools wants.

    Args:
        split: Split.

    Returns:
        dict of plain values. Ids of annotations are counted from 1: pycocotools takes 0 for "not found".
    """
    images, annotations = [], []
    for record in split.records:
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": Path(record["file_name"]).name, **size})
        for found in record["annotations"]:
            left, top, right, bottom = found["bbox"]
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": record["image_id"],
                "category_id": split.categories[found["category_id"]]["id"],
                "bbox": [left, top, right - left, bottom - top],
                "area": sum(_area(ring) for ring in found["segmentation"]),
                "segmentation": found["segmentation"],
                "iscrowd": found["iscrowd"],
            })  # fmt: skip
    return {"info": {}, "images": images, "annotations": annotations, "categories": split.categories}


def describe(name, counts):
    """One line on a split."""
    dropped = ", ".join(f"{number} {why}" for why, number in counts["dropped"].items()) or "none"
    return (
        f"{name}: {counts['images']} images, {counts['polygons']} polygons (dropped: {dropped}; boxes that did not fit "
        f"their polygon and were made anew: {counts['boxes_corrected']}; images without polygons: "
        f"{counts['images_without_polygons']})"
    )
