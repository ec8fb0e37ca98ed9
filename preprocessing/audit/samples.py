"""The two parts of a split, in whatever form they come: patch lists, folders of images, COCO files."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from vicreg.data.fmow import read_timestamp
from vicreg.data.image_io import IMAGE_SUFFIXES
from vicreg.data.leakage import location_keys
from vicreg.data.sn7_format import cut_patches, read_mosaic, read_patch_list


class Part(NamedTuple):
    """One part of a split: n samples.

    ``pixels(index)`` gives uint8 (H, W, 3), ValueError or OSError where that sample cannot be read.
    """

    name: str
    samples: list  # n names, mostly paths, by which a person finds the sample
    pixels: object
    classes: Counter  # class -> samples (COCO: annotations); empty where there are no classes
    places: list | None  # n hashable values
    kind: str = "place"  # what ``places`` are
    position: object = None  # function index -> (longitude, latitude) or None, where places may share a name


def open_image(path):
    """Decode an image file -> uint8 (H, W, 3).

    Raises:
        ValueError: not an image, truncated, or of more than 8 bits. OSError: no such file.
    """
    try:
        with Image.open(path) as image:
            if image.mode[:1] in "IF":
                raise ValueError(f"{path}: pixels of mode {image.mode}; 8 bits a channel expected")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image that Pillow can read") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if not Path(path).is_file():
            raise
        raise ValueError(f"{path}: cannot be decoded ({error})") from error


def from_list(path, data_dir=None):
    """A patch list of make_sn7_csv.py, a first-version one, or a list of images with the columns path and location.

    Args:
        path: CSV. data_dir: folder of the images or mosaics, where meta.json beside the list does not name it.

    Raises:
        FileNotFoundError, ValueError: no list, none of these formats, or no images.
    """
    path = Path(path)
    meta = path.with_name("meta.json")
    meta = json.loads(meta.read_text()) if meta.is_file() else {}
    source, names, position = data_dir or meta.get("source"), meta.get("classes"), None
    columns = pd.read_csv(path, nrows=0).columns if path.is_file() and path.stat().st_size else ()
    if {"path", "location"} <= set(columns):
        table = pd.read_csv(path, keep_default_na=False)
        files = [Path(source or path.parent) / name for name in table.path]
        labels = table["class"] if "class" in table else table.get("label", [])
        samples, pixels, kind = [str(file) for file in files], lambda index: open_image(files[index]), "location"

        def position(index):
            return _position(files[index])
    else:
        table = read_patch_list(path)
        labels = [names[label] for label in table.label] if names else table.label
        samples = [f"{image} patch {k}" for image, k in zip(table.image_id, table.patch, strict=True)]
        pixels, kind = _patches(path, table, source, meta.get("grid", 4)), "place (AOI, patch position)"
    if table.empty:
        raise ValueError(f"{path}: no rows")
    return Part(str(path), samples, pixels, Counter(map(str, labels)), location_keys(table), kind, position)


def _position(file):
    """Middle of an image by the fMoW JSON beside it; None without one."""
    try:
        return read_timestamp(file.with_suffix(".json"))[2]
    except ValueError:
        return None


def _patches(path, table, source, grid):
    """Function index -> pixels of a patch, from the pack beside the list, or from the tree."""
    pack, rows = path.with_name("patches.npy"), table.row.to_numpy()
    if pack.is_file() and (rows >= 0).all():
        store = np.load(pack, mmap_mode="r")
        if rows.max() >= len(store):
            raise ValueError(f"{pack} has {len(store)} rows, {path} asks for row {rows.max()}; write both again")
        return lambda index: np.asarray(store[rows[index]]).transpose(1, 2, 0)
    if not source:
        raise FileNotFoundError(f"no {pack} and no SN7 tree named; pass --data-dir, or --no-pixels to do without")

    @functools.lru_cache(16)  # rows of one mosaic follow each other
    def cut(mosaic):
        return cut_patches(read_mosaic(mosaic), grid)

    def pixels(index):
        row = table.iloc[index]
        name = row.image_id if Path(row.image_id).suffix else f"{row.image_id}.tif"
        return cut(Path(source) / row.aoi / "images" / name)[row.patch].transpose(1, 2, 0)

    return pixels


def from_folder(folder):
    """All images below a folder; where they lie in folders of it, these are the classes.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no images in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"no images in {folder} ({' '.join(IMAGE_SUFFIXES)}); a folder of lists, as make_sn7_csv.py "
                         "writes it, is audited alone: audit_split.py FOLDER")  # fmt: skip
    names = [path.relative_to(folder).parts for path in files]
    classes = Counter(parts[0] for parts in names if len(parts) > 1)
    return Part(str(folder), [str(path) for path in files], lambda index: open_image(files[index]), classes, None)


def from_coco(path, images=None):
    """The images of a COCO file; its classes count annotations.

    Args:
        path: json. images: folder of the images (default: images/ beside the file, else its own folder).

    Raises:
        FileNotFoundError, ValueError: no such file, or not COCO.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no COCO file {path}")
    try:
        content = json.loads(path.read_text())
        names = [image["file_name"] for image in content["images"]]
        categories = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        labels = [annotation["category_id"] for annotation in content.get("annotations", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a COCO file ({type(error).__name__}: {error})") from error
    if not names:
        raise ValueError(f"{path}: no images")
    beside = path.parent / "images"
    folder = Path(images) if images else beside if (beside / names[0]).is_file() else path.parent
    if not (folder / names[0]).is_file():
        raise FileNotFoundError(f"no {folder / names[0]}; name the folders of the images with --coco-images")
    files = [folder / name for name in names]
    classes = Counter(categories.get(label, f"category {label}") for label in labels)
    return Part(str(path), [str(file) for file in files], lambda index: open_image(files[index]), classes, None)
