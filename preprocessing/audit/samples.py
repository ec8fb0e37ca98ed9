"""The subsets of a split, read from patch lists, image lists, folders of images or COCO files."""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from preprocessing.text_files import read_csv, read_text
from vicreg.common.json_files import read_json
from vicreg.data.fmow import read_timestamp
from vicreg.data.image_io import IMAGE_SUFFIXES, UnsupportedImage, decoding
from vicreg.data.image_io import open_image as open_file
from vicreg.data.image_listing import image_paths
from vicreg.data.imagery import ImageryPatches
from vicreg.data.images import as_rgb, load_rgb
from vicreg.data.leakage import location_keys
from vicreg.data.rasters import open_raster
from vicreg.data.sn7 import SN7Patches

_RANGE = (1, 99)  # percentiles of deep pixels that become black and white

Position = tuple[float, float]  # longitude, latitude in degrees


class Subset(NamedTuple):
    """One subset of a split, such as the training set, with n samples."""

    name: str  # path it was read from
    samples: list[str]  # n names by which a user finds the sample, mostly paths
    read: Callable[[int], np.ndarray]  # index -> uint8 (H, W, 3); ValueError or OSError if it cannot be read
    classes: Counter  # class name -> number of samples (of annotations for COCO); empty if there are no classes
    location_ids: list[tuple] | None  # n tuples, such as (class, location); None if locations are unknown
    location_kind: str = "location"  # what they are, for the report
    position: Callable[[int], Position | None] | None = None  # of a sample, where location names may be ambiguous


def open_image(path: str | Path) -> np.ndarray:
    """Decode an image file as training does: uint8 (H, W, 3), upright, transparent pixels black.

    Pixels of more than 8 bits are stretched to the image's own range, because hashes depend on relative values only.
    TIFFs that training refuses, such as those with a color table, are read as image viewers show them.

    Raises:
        ValueError: The file is not an image or is truncated.
        OSError: There is no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no image {path}")
    try:
        return np.asarray(load_rgb(path))
    except UnsupportedImage:
        with contextlib.suppress(ValueError), decoding(path), open_file(path) as image:
            if image.mode in ("1", "L", "P"):
                return np.asarray(as_rgb(image))
        with open_raster(path) as raster, decoding(path):
            bands = [1, 2, 3] if raster.count >= 3 else [1, 1, 1]
            return _to_rgb(raster.read(bands), raster.dataset_mask() > 0)


def _to_rgb(bands: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Convert bands (3, H, W) to uint8 (H, W, 3), other types stretched, with black where ``valid`` (H, W) is False."""
    pixels = bands.transpose(1, 2, 0)
    if pixels.dtype != np.uint8:
        valid = valid & np.isfinite(pixels).all(-1)
        known = pixels[valid].astype(np.float64) if valid.any() else np.zeros(1)
        low, high = np.percentile(known, _RANGE)  # of all values, one hot pixel would leave no contrast to the others
        stretched = (np.where(valid[..., None], pixels, low) - low) * (255 / max(high - low, 1e-9))
        pixels = np.rint(stretched.clip(0, 255)).astype(np.uint8)
    return np.where(valid[..., None], pixels, np.uint8(0))


def from_list(path: str | Path, data_dir: str | Path | None = None) -> Subset:
    """Read a patch list, or an image list with columns path and location.

    Patch lists are those of make_sn7_csv.py, of the earlier work, and of make_imagery_csv.py. The images or mosaics are
    in ``data_dir``, by default in ``source`` of the meta.json in the list's folder.

    Raises:
        FileNotFoundError: There is no such list, or neither patches.npy nor the mosaics.
        ValueError: The list has none of these formats, or no rows.
    """
    path = Path(path)
    if path.is_file() and {"image_id", "site", "grid"} <= {*read_text(path).partition("\n")[0].strip().split(",")}:
        imagery = ImageryPatches(path)
        return _from_patches(path, imagery, [(str(path.parent.resolve()), key) for key in imagery.location_keys()])
    meta_file = path.with_name("meta.json")
    meta = read_json(meta_file) if meta_file.is_file() else {}
    if not isinstance(meta, dict):
        raise ValueError(f"{meta_file}: not a JSON object; write the list again")
    source = data_dir or meta.get("source")
    table = read_csv(path) if path.is_file() and path.stat().st_size else pd.DataFrame()
    if {"path", "location"} <= set(table.columns):
        files = [Path(source or path.parent) / name.replace("\\", "/") for name in table.path]
        labels = table["class"] if "class" in table else table.get("label", [])
        if unknown := int((table.location.str.strip() == "").sum()):
            raise ValueError(f"{path}: {unknown} of {len(table)} rows have no location; name each, or remove the rows")
        samples, kind = [str(file) for file in files], "location"
        read, position = (lambda index: open_image(files[index])), (lambda index: _position(files[index]))
    else:
        patches = SN7Patches(path, data_dir=data_dir)
        return _from_patches(path, patches, location_keys(patches.table), "location (AOI, patch position)")
    if table.empty:
        raise ValueError(f"{path}: no rows")
    return Subset(str(path), samples, read, Counter(map(str, labels)), location_keys(table), kind, position)


def _from_patches(path: Path, patches: SN7Patches, locations: list[tuple], kind: str = "location") -> Subset:
    """Read a list of make_sn7_csv.py or make_imagery_csv.py, whose pixels are stored beside it."""
    classes = Counter(patches.classes[label] for label in patches.labels.tolist() if label >= 0)

    def read(index: int) -> np.ndarray:
        bands = patches.images([index])[0].numpy()
        return _to_rgb(bands[:3] if len(bands) >= 3 else bands[[0, 0, 0]], bands.any(0))  # no data is 0

    return Subset(str(path), patches.names(), read, classes, locations, kind)


def _position(file: Path) -> Position | None:
    """Return the center of an image from the fMoW JSON of the same name, None without one."""
    try:
        return read_timestamp(file.with_suffix(".json"))[2]
    except ValueError:
        return None


def from_folder(folder: str | Path) -> Subset:
    """List all images below a folder. The first level of folders gives the classes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    files = [Path(path) for path in image_paths(folder)]
    if not files:
        raise ValueError(f"no images in {folder} ({' '.join(IMAGE_SUFFIXES)}); pass a folder of lists, as written by "
                         "make_sn7_csv.py, alone: audit_split.py FOLDER")  # fmt: skip
    parts = [path.relative_to(folder).parts for path in files]
    classes = Counter(names[0] for names in parts if len(names) > 1)
    return Subset(str(folder), [str(path) for path in files], lambda index: open_image(files[index]), classes, None)


def from_coco(path: str | Path, images: str | Path | None = None) -> Subset:
    """List the images of a COCO file. Class counts are numbers of annotations.

    By default, ``images`` is the folder of this name in the file's folder, else the file's folder.

    Raises:
        FileNotFoundError: There is no such file, or the images are elsewhere.
        ValueError: The file is not COCO.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no COCO file {path}")
    try:
        content = read_json(path)
        names = [image["file_name"].replace("\\", "/") for image in content["images"]]
        categories = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        labels = [annotation["category_id"] for annotation in content.get("annotations", [])]
        classes = Counter(categories.get(label, f"category {label}") for label in labels)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a COCO file ({type(error).__name__}: {error})") from error
    if not names:
        raise ValueError(f"{path}: no images")
    default = path.parent / "images"
    folder = Path(images) if images else default if (default / names[0]).is_file() else path.parent
    if not (folder / names[0]).is_file():
        raise FileNotFoundError(f"{path}: no {folder / names[0]}; name the folders of the images with --coco-images")
    files = [folder / name for name in names]
    return Subset(str(path), [str(file) for file in files], lambda index: open_image(files[index]), classes, None)
