"""Data and pictures of the page's figures, within a limit on its size."""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from exp.reporting.collect import Problem, Run, as_dict, as_list, number
from exp.reporting.rows import describe_backbone

_POINT = ("longitude", "latitude", "top1", "samples")
LAND = Path(__file__).parent / "land.json"
IMAGES = {  # file name: title, and the section it is shown in
    "views.png": ("First augmented pairs, as the network sees them: first view above, second view below", "views"),
    "neighbors.png": ("Test samples (left) and their nearest training samples; blue frame: same class", "neighbors"),
    "neighbors_protocol2.png": ("The same for protocol 2, where each AOI is a class", "neighbors"),
    "examples.png": ("Validation images with truth and prediction", "examples"),
}


class ImageStore:
    """Encode pictures as data URIs, each content once, up to a number of bytes; ``left_out`` counts the others."""

    def __init__(self, max_bytes: int) -> None:
        self._left, self.left_out = max_bytes, 0
        self._known: dict[bytes, str | None] = {}

    def take(self, size: int) -> bool:
        """Reserve bytes; return whether there were enough, and count what does not fit."""
        fits = size <= self._left
        self._left -= size if fits else 0
        self.left_out += not fits
        return fits

    def encode(self, path: Path, max_width: int = 1200, quality: int = 80) -> str | None:
        """Return a picture as a data URI (WebP), reduced to a width; None if it does not fit.

        Raises:
            OSError: It cannot be read.
            ValueError: It is damaged.
        """
        content = path.read_bytes()
        key = hashlib.blake2b(content, digest_size=16, key=str(max_width).encode()).digest()
        if key not in self._known:
            try:
                image = Image.open(io.BytesIO(content)).convert("RGB")
            except (SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises beside OSError
                raise ValueError(f"{path}: {error}") from error
            image.thumbnail((max_width, 10**5))
            encoded = io.BytesIO()
            image.save(encoded, "WEBP", quality=quality)
            text = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
            self._known[key] = text if self.take(len(text)) else None
        else:
            self.left_out += self._known[key] is None
        return self._known[key]


def embedding_maps(runs: Sequence[Run], store: ImageStore, problems: list[Problem]) -> dict[str, Any]:
    """Return the embedding maps with their samples, and the sheets of thumbnails that they share."""
    maps: list[dict[str, Any]] = []
    sprites: list[str] = []
    for run, path in _files(runs, ("embedding_map.json", "embedding_map_protocol2.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_map(content)
            sprite = store.encode(path.parent / content["thumbnails"], 40 * content["columns"], 60)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            problems.append(Problem(path, f"cannot be read: {error}"))
            continue
        if sprite and sprite not in sprites:
            sprites.append(sprite)
        protocol = ", AOIs as classes" if "protocol2" in path.name else ""
        kept = {key: content[key] for key in ("x", "y", "label", "classes", "columns", "samples")}
        kept |= {"info": {key: _shared(values) for key, values in content["info"].items()}}
        kept |= {"title": f"{_title(run)}{protocol}", "sprite": sprites.index(sprite) if sprite else None}
        if store.take(len(json.dumps(kept))):
            maps.append(kept)
    return {"maps": maps, "sprites": sprites}


def _check_map(content: dict[str, Any]) -> None:
    """Raise ValueError, or what a missing or wrong part raises, if a map is not what ``save_embedding_map`` wrote."""
    count = len(content["x"])
    columns = [content["y"], content["label"], *content["info"].values()]
    if not all(isinstance(column, list) and len(column) == count for column in columns):
        raise ValueError("columns of different lengths")
    if any(number(value) is None for name in "xy" for value in content[name]):
        raise ValueError("a position is not a number")
    classes, names = content["classes"], [*content["classes"], content["thumbnails"]]
    if not all(isinstance(name, str) for name in names) or not isinstance(classes, list):
        raise ValueError("a name is not a text")
    whole = [*content["label"], content["columns"], content["samples"]]
    if not all(isinstance(value, int) and 0 <= value < 10**6 for value in whole) or not content["columns"]:
        raise ValueError("a label or count is not a whole number")
    if max(content["label"], default=0) >= max(1, len(classes)):
        raise ValueError("labels without a class")


def _shared(values: list[Any]) -> dict[str, Any]:
    """Return a column as its different values and their numbers: names repeat."""
    names = list(dict.fromkeys("" if value is None else str(value) for value in values))
    index = {name: position for position, name in enumerate(names)}
    return {"names": names, "index": [index["" if value is None else str(value)] for value in values]}


def confusions(runs: Sequence[Run], store: ImageStore) -> list[dict[str, Any]]:
    """Return the confusion matrices of all results, of the last epoch where there are several."""
    pictures = []
    for run in runs:
        result, last = run.result, as_dict(run.result.get("last"))
        counts = as_list(result.get("confusion") or last.get("confusion"))
        classes = as_list(result.get("class_names") or result.get("classes")) or list(as_dict(last.get("iou")))
        rows = [as_list(row) for row in counts]
        is_square = {len(rows), *map(len, rows)} == {len(classes)}
        if rows and is_square and all(None not in map(number, row) for row in rows):
            item = {"title": _title(run), "classes": [str(name) for name in classes], "counts": counts}
            if store.take(len(json.dumps(item))):
                pictures.append(item)
    return pictures


def world(runs: Sequence[Run], store: ImageStore) -> dict[str, Any]:
    """Return the accuracy by location of all results with coordinates, and the outline of the land."""
    sets = []
    for run in runs:
        places = [as_dict(place) for place in as_list(run.result.get("locations"))]
        points = [
            {"name": str(place.get("location")), **values}
            for place in places
            if None not in (values := {key: number(place.get(key)) for key in _POINT}).values()
        ]
        if points and store.take(len(json.dumps(points))):
            sets.append({"title": _title(run), "points": points})
    return {"sets": sets, "land": json.loads(LAND.read_text(encoding="utf-8"))["lines"] if sets else []}


def encode_images(runs: Sequence[Run], store: ImageStore, problems: list[Problem]) -> dict[str, list[dict[str, Any]]]:
    """Return the pictures of the runs by section: title, caption and data URI."""
    pictures: dict[str, list[dict[str, Any]]] = {}
    for name, (caption, section) in IMAGES.items():
        for run, path in _files(runs, (name,)):
            preset = _preset(run)
            if section == "views" and any(item["title"] == preset for item in pictures.get(section, [])):
                continue  # one picture for each preset
            try:
                source = store.encode(path)
            except (OSError, ValueError) as error:
                problems.append(Problem(path, f"cannot be read: {error}"))
                continue
            if source:
                item: dict[str, Any] = {"title": _title(run), "caption": caption, "source": source}
                if section == "views":
                    item |= {"title": preset, "pairs": _pairs(run, problems)}
                pictures.setdefault(section, []).append(item)
    return pictures


def _pairs(run: Run, problems: list[Problem]) -> list[str]:
    """Return location and dates of the pairs of a picture of views."""
    path = run.path / "views.json"
    if not path.is_file():
        return []
    try:
        return [_pair(*pair) for pair in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        problems.append(Problem(path, f"cannot be read: {error}"))
        return []


def _pair(first: dict[str, str], second: dict[str, str]) -> str:
    places = list(dict.fromkeys(item.get("location") or item.get("image", "") for item in (first, second)))
    dates = list(dict.fromkeys(item.get("date", "") for item in (first, second)))
    return " ".join([" and ".join(places), " and ".join(filter(None, dates))]).strip()


def _preset(run: Run) -> str:
    """Return the augmentation preset of a run with its changes, and the positives."""
    changes = [str(change) for change in as_list(run.config.get("aug_override"))]
    positives = [f"{run.config['positives']} positives"] if run.config.get("positives") else []
    return ", ".join(
        [f"Preset {run.config.get('augment', 'unknown')}", *([" ".join(changes)] * bool(changes)), *positives]
    )


def _title(run: Run) -> str:
    return f"{describe_backbone(run)[0]} ({run.name})" if run.result else run.name


def _files(runs: Sequence[Run], names: Iterable[str]) -> Iterable[tuple[Run, Path]]:
    for run in runs:
        for name in names:
            if (run.path / name).is_file():
                yield run, run.path / name
