"""A segmentation folder of the user's own: ``images/``, ``masks/`` and ``classes.json``."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from downstream.FloodNet_segmentation_task.floodnet import PARTS, TASKS, Pair, complete_parts, match, palette
from vicreg.common.json_files import read_json
from vicreg.common.plots import class_colors
from vicreg.data.image_listing import find_split

FOLDER = "folder"  # the task
_MAX_CLASSES = 255  # 255 is nodata in label rasters


class Classes(NamedTuple):
    """Classes of a task.

    Attributes:
        names: Class names; the number of a class is its position.
        colors: RGB color of each class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @property
    def palette(self) -> np.ndarray:
        """Colors: uint8 array (classes, 3)."""
        return np.array(self.colors, np.uint8)


@functools.lru_cache
def task_classes(task: str, data_dir: Path) -> Classes:
    """Return the classes of a task; those of ``folder`` are in ``<data_dir>/classes.json``.

    The file holds ``{"names": ["background", "field"], "colors": [[40, 40, 40], [214, 39, 40]]}``; the colors are
    optional.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    if task != FOLDER:
        return Classes(TASKS[task], tuple(map(tuple, palette(TASKS[task]).tolist())))
    path = data_dir / "classes.json"
    if not path.is_file():
        raise FileNotFoundError(f'no {path}; write it: {{"names": ["background", …], "colors": [[40, 40, 40], …]}}')
    try:
        content = read_json(path)
        names = content["names"]
        colors = content.get("colors") or (255 * class_colors(len(names))[:, :3]).astype(int).tolist()
        array = np.asarray(colors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: a dict with names, and perhaps colors, is expected ({error!r})") from error
    if not (isinstance(names, list) and all(isinstance(name, str) and name for name in names)):
        raise ValueError(f"{path}: names is a list of class names")
    if not 2 <= len(set(names)) == len(names) <= _MAX_CLASSES:
        raise ValueError(f"{path}: {len(names)} names; 2 to {_MAX_CLASSES} different ones are needed")
    if array.shape != (len(names), 3) or array.dtype.kind != "i" or array.min() < 0 or array.max() > 255:
        raise ValueError(f"{path}: colors are {len(names)} lists of red, green and blue, each from 0 to 255")
    return Classes(tuple(names), tuple(map(tuple, array.tolist())))


def find_folder_parts(data_dir: Path, val_fraction: float, seed: int) -> tuple[dict[str, list[Pair]], str]:
    """Find the pairs of a folder; see ``floodnet.find_parts``.

    ``images/<name>.<suffix>`` belongs to ``masks/<name>.<suffix>``. ``train/images`` with ``train/masks``, and the same
    with ``val`` and ``test`` (or other names of ``SPLITS``), is a given split; without ``val`` a random fraction of the
    images is held out.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: An image or a mask is missing, or there are too few pairs.
    """
    classes = len(task_classes(FOLDER, data_dir).names)

    def pairs_of(folder: Path) -> list[Pair]:
        pairs = match(folder / "images", folder / "masks", FOLDER, classes)
        if not pairs:
            raise ValueError(f"{folder / 'images'} holds no images")
        return pairs

    folders = {part: folder for part in PARTS if (folder := find_split(data_dir, part))}
    parts = {part: pairs_of(folder) for part, folder in folders.items()} or {"train": pairs_of(data_dir)}
    if "train" not in parts:
        raise ValueError(f"{data_dir} holds {', '.join(parts)} and no train")
    return complete_parts(parts, data_dir, "folder", val_fraction, seed)
