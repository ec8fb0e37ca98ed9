"""CrowdAI annotations in MS COCO format: validate them, and correct boxes, areas and category ids.

Circulating copies have x and y mixed up in every ``bbox``, and some polygons have no area. Boxes and areas are computed
from the polygons, unusable polygons are dropped and counted, and categories are matched by name.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import shapely

from vicreg.data.image_listing import format_names

DEFAULT_CATEGORIES = [{"id": 100, "name": "building"}]  # of the challenge; some copies do not list it
REACH = 1.0  # a polygon may reach this many image sizes beyond its image; pycocotools crashes on 1e9


class CorrectedSplit(NamedTuple):
    """Annotations of one split after correction.

    Attributes:
        coco: MS COCO dictionary with category ids from 1 in the order of ``classes``.
        classes: Category names in the order of the model's classes.
        counts: Numbers of images, polygons, dropped polygons by reason and corrected boxes.
        image_size: Most frequent (height, width) in pixels.
    """

    coco: dict[str, Any]
    classes: list[str]
    counts: dict[str, Any]
    image_size: list[int]


def load_split(
    folder: str | Path, annotations: str | Path = "annotation.json", classes: list[str] | None = None
) -> CorrectedSplit:
    """Read and correct the annotations of one split. Images in ``<folder>/images`` are listed, not opened.

    Args:
        folder: Folder of the split.
        annotations: Name of the JSON file in the folder, or a path.
        classes: Category names of training; ids may differ between the files. Default: those of this file, by id.

    Raises:
        FileNotFoundError: The JSON file or images that it names do not exist.
        ValueError: The file is not in MS COCO format, or has categories that ``classes`` does not have.
    """
    folder = Path(folder)
    path = folder / annotations
    content = _load_json(path)
    names = _category_names(content, path)
    classes = list(classes or names.values())
    if unknown := sorted(set(names.values()) - set(classes)):
        raise ValueError(f"{path}: category {', '.join(unknown)} is not in training, which has {', '.join(classes)}")
    images = _images(content, path)
    _check_images_exist(folder / "images", [image["file_name"] for image in images.values()])
    corrected, dropped, wrong_boxes = [], Counter(), 0
    for index, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation, dict):
            raise ValueError(f"{path}: annotations[{index}] is not a JSON object")
        image = _get(images, annotation.get("image_id"))
        if image is None:
            dropped["image not in the list"] += 1
            continue
        name = _get(names, annotation.get("category_id"))
        if name is None:
            known = ", ".join(f"{key} ({value})" for key, value in names.items())
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has category {annotation.get('category_id')}, which the "
                f"file does not list; it lists {known}"
            )
        rings = _usable_rings(annotation, image, path, dropped)
        if not rings:
            continue
        box = _bounding_box(rings, image)
        wrong_boxes += _differs(annotation.get("bbox"), box)
        corrected.append({
            "id": len(corrected) + 1,  # pycocotools takes 0 for "no match"
            "image_id": image["id"],
            "category_id": classes.index(name) + 1,
            "bbox": box,
            "area": sum(_area(ring) for ring in rings),
            "segmentation": rings,
            "iscrowd": int(bool(annotation.get("iscrowd"))),
        })  # fmt: skip
    if not any(not annotation["iscrowd"] for annotation in corrected):
        raise ValueError(f"{path}: no usable polygon in it (dropped: {dict(dropped) or 'none'})")
    if max(max(ring) for annotation in corrected for ring in annotation["segmentation"]) <= 1:
        raise ValueError(f"{path}: all coordinates are 1 or less, fractions of the image; pixels are expected")
    counts = {
        "images": len(images),
        "images_without_polygons": len(images) - len({annotation["image_id"] for annotation in corrected}),
        "polygons": len(corrected),
        "dropped": dict(dropped),
        "boxes_corrected": wrong_boxes,
    }
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    coco = {"info": {}, "images": list(images.values()), "annotations": corrected, "categories": categories}
    size = Counter((image["height"], image["width"]) for image in images.values()).most_common(1)[0][0]
    return CorrectedSplit(coco, classes, counts, list(size))


def describe(name: str, counts: dict[str, Any]) -> str:
    """Return one line on a split."""
    dropped = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items()) or "none"
    return (
        f"{name}: {counts['images']} images, {counts['polygons']} polygons (dropped: {dropped}; boxes corrected: "
        f"{counts['boxes_corrected']}; images without polygons: {counts['images_without_polygons']})"
    )


def _load_json(path):
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}; --data-dir must hold train/ and val/, with images/ in each")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON, perhaps cut short ({error})") from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f'{path}: no list of "{key}" in it; MS COCO JSON has images, annotations and categories')
        if not content[key]:
            raise ValueError(f'{path}: its list of "{key}" is empty')
    return content


def _category_names(content, path):
    """Return {category id: name}, sorted by id."""
    categories = content.get("categories") or DEFAULT_CATEGORIES
    valid = isinstance(categories, list) and all(
        isinstance(category, dict) and isinstance(category.get("id"), int) for category in categories
    )
    if not valid:
        raise ValueError(f'{path}: "categories" must be a list of objects with an integer "id" and a "name"')
    names = {
        category["id"]: str(category.get("name", category["id"]))
        for category in sorted(categories, key=lambda category: category["id"])
    }
    if len(names) < len(categories) or len(set(names.values())) < len(names):
        raise ValueError(f"{path}: two categories have the same id or name")
    return names


def _images(content, path):
    """Return {image id: {"id", "file_name", "height", "width"}}."""
    kinds = {"id": (int, str), "file_name": str, "height": int, "width": int}
    images = {}
    for image in content["images"]:
        if not isinstance(image, dict):
            raise ValueError(f"{path}: an image that is not a JSON object: {str(image)[:100]}")
        if missing := sorted(key for key, kind in kinds.items() if not isinstance(image.get(key), kind)):
            raise ValueError(f"{path}: an image without a valid {', '.join(missing)}: {str(image)[:100]}")
        if image["height"] < 1 or image["width"] < 1:
            raise ValueError(f"{path}: image {image['id']} is {image['height']} pixels high, {image['width']} wide")
        if image["id"] in images:
            raise ValueError(f"{path}: two images with the id {image['id']}")
        images[image["id"]] = {key: image[key] for key in kinds}
    names = Counter(image["file_name"] for image in images.values())
    if twice := [name for name, number in names.items() if number > 1]:
        raise ValueError(f"{path}: {len(twice)} files are listed as two images, such as {twice[0]}; merge them")
    return images


def _check_images_exist(folder, names):
    """Check files by one listing of their folder: 280,000 single checks take minutes on a network disk."""
    existing = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    missing = [name for name in names if name not in existing and not ("/" in name and (folder / name).is_file())]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(names)} images are not in {folder}: {format_names(missing)}")


def _get(table, key):
    return table.get(key) if isinstance(key, (int, str)) else None


def _usable_rings(annotation, image, path, dropped):
    """Return the usable polygons [x, y, x, y, …] of an annotation; count the others in ``dropped``."""
    rings = annotation.get("segmentation")
    if not isinstance(rings, list):
        raise ValueError(
            f"{path}: annotation {annotation.get('id')} has no list of polygons as its segmentation (run-length "
            "masks are not read)"
        )
    if rings and not isinstance(rings[0], list):
        rings = [rings]  # one bare ring
    usable = []
    for ring in rings or [[]]:
        if not isinstance(ring, list) or not all(isinstance(number, (int, float)) for number in ring):
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has a polygon that is not a list of numbers "
                f"[x1, y1, x2, y2, …]: {str(ring)[:60]}"
            )
        if reason := _problem(ring, image):
            dropped[reason] += 1
        else:
            usable.append([float(number) for number in ring])
    return usable


def _problem(ring, image):
    """Return why a polygon is unusable, or None."""
    if len(ring) < 6 or len(ring) % 2:
        return "fewer than three points"
    if not all(math.isfinite(number) for number in ring if isinstance(number, float)):
        return "coordinates not finite"
    axes = ((ring[::2], image["width"]), (ring[1::2], image["height"]))
    if any(min(values) < -REACH * length or max(values) > (1 + REACH) * length for values, length in axes):
        return "coordinates far outside the image"
    if not _area(ring) > 0:
        return "no area"
    if any(min(values) < 0 or max(values) > length for values, length in axes):
        polygon = shapely.make_valid(shapely.Polygon([*zip(ring[::2], ring[1::2], strict=True)]))
        if not polygon.intersection(shapely.box(0, 0, image["width"], image["height"])).area > 0:
            return "outside the image"
    return None


def _area(ring):
    """Return the area of a ring [x, y, x, y, …] by the shoelace formula."""
    xs, ys = ring[::2], ring[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def _bounding_box(rings, image):
    """Return [x, y, width, height] of polygons, clipped to the image."""
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    left, right = max(0.0, min(xs)), min(float(image["width"]), max(xs))
    top, bottom = max(0.0, min(ys)), min(float(image["height"]), max(ys))
    return [left, top, right - left, bottom - top]


def _differs(given, box):
    """Return whether a box [x, y, width, height] is invalid or differs from another one by more than a pixel."""
    if not isinstance(given, list) or len(given) != 4:
        return True
    if not all(isinstance(number, (int, float)) and abs(number) < 1e9 for number in given):
        return True
    corners = [(x, y, x + width, y + height) for x, y, width, height in (given, box)]
    return any(not abs(a - b) <= 1 for a, b in zip(*corners, strict=True))
