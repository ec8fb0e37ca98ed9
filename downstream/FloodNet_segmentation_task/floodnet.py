"""FloodNet and Harvey patches on disk: which image belongs to which mask, in training, validation and test."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg.data.subsets import held_out_groups

FLOODNET = (
    "background", "building flooded", "building non-flooded", "road flooded", "road non-flooded", "water", "tree",
    "vehicle", "pool", "grass",
)  # fmt: skip
GROUPS = ("Flooded", "Non-Flooded")
PARTS = ("train", "val", "test")
PATCHES = "Harvey patches"  # the kind that meta.json of make_harvey_patches.py names
TASKS = {"floodnet": FLOODNET, "building": ("background", "building"), "flooded": ("background", "flooded building")}
# which FloodNet class is what: both building classes are buildings, one of them is flooded
_FROM_FLOODNET = {"floodnet": range(10), "building": (0, 1, 1, *[0] * 7), "flooded": (0, 1, *[0] * 8)}
_PALETTE = {
    "background": (40, 40, 40), "building flooded": (214, 39, 40), "building non-flooded": (255, 152, 150),
    "road flooded": (23, 190, 207), "road non-flooded": (170, 170, 170), "water": (31, 119, 180), "tree": (20, 110, 45),
    "vehicle": (255, 217, 47), "pool": (148, 103, 189), "grass": (166, 217, 106), "building": (255, 127, 14),
    "flooded building": (214, 39, 40),
}  # fmt: skip
_IMAGES, _MASKS = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}, {".png", ".tif", ".tiff"}
_NAMED = 3  # of many files with the same mistake


class Pair(NamedTuple):
    """An image and its mask; ``group`` is what a split is stratified by, ``classes`` how many values the mask has."""

    image: Path
    mask: Path
    group: str
    classes: int

    @property
    def tile(self):
        """What must not be divided: a patch's tile (all of its name but the place), an image of FloodNet by itself."""
        return self.image.stem.rpartition("__")[0] if self.classes == 2 else self.image


def palette(classes):
    """Colors of a task's classes: uint8 array (len(classes), 3)."""
    return np.array([_PALETTE[name] for name in classes], np.uint8)


def label_map(task, classes):
    """What each value of a mask means for a task: uint8 array (classes,) of the task's own values.

    Args:
        task: of ``TASKS``. classes: of the mask, ``Pair.classes``.
    """
    return np.array(_FROM_FLOODNET[task] if classes == len(FLOODNET) else range(classes), np.uint8)


def find_parts(data_dir, task, val_percent=20.0, seed=0):
    """Find the pairs of FloodNet, in either of its layouts, or of a folder of Harvey patches.

    ``Train/Labeled/{Flooded,Non-Flooded}/{image,mask}`` is FloodNet as the challenge handed it out: no other part of it
    has masks, so a share of each of the two groups is held out. ``train/train-org-img`` and ``train/train-label-img``,
    the same with ``val`` and ``test``, is FloodNet-Supervised; ``train/{image,building,flooded}`` are Harvey patches.

    Args:
        data_dir: the folder. task: of ``TASKS``; ``floodnet`` needs FloodNet, the two others take both.
        val_percent, seed: of the split, where the data brings none.

    Returns:
        (parts, words): dict of lists of ``Pair``, by name (``train``, ``val`` and perhaps ``test``); what was found.

    Raises:
        FileNotFoundError, ValueError: no such folder, none of the layouts, a pair's half is missing, or no pairs.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder at {data_dir}; --data-dir is FloodNet's, or one of make_harvey_patches.py")
    if (data_dir / "meta.json").is_file():
        layout, parts = PATCHES, _patches(data_dir, task)
    elif labeled := _labeled(data_dir):
        layout, parts = "FloodNet, Train/Labeled", {"train": _two_groups(labeled)}
    else:
        layout = "FloodNet, train/val/test"
        parts = {part: pairs for part in PARTS if (pairs := _supervised(data_dir / part, part))}
    if not parts.get("train"):
        raise ValueError(
            f"{data_dir} has none of the layouts known here: Train/Labeled/{{Flooded,Non-Flooded}}/{{image,mask}}, "
            "train/train-org-img with train/train-label-img, or what make_harvey_patches.py writes"
        )
    if "val" not in parts:
        what = "whole tiles" if layout == PATCHES else "each group"
        layout += f", {val_percent:g} % of {what} held out (seed {seed})"
        parts["train"], parts["val"] = split_pairs(parts["train"], val_percent, seed)
    counts = ", ".join(f"{len(parts[part])} {part}" for part in PARTS if part in parts)
    return parts, f"{data_dir}: {counts} pairs ({layout})"


def split_pairs(pairs, val_percent, seed):
    """Hold out a share of each group, at least one image of each that has two; patches of one tile stay together.

    Args:
        pairs: list of ``Pair``. val_percent: share. seed: of the choice.

    Returns:
        two lists, each in the order of ``pairs``.

    Raises:
        ValueError: a share that is none, or too few images or tiles to have both parts.
    """
    if not 0 < val_percent < 100:
        raise ValueError(f"--val-percent {val_percent:g}: more than 0 and less than 100 is needed")
    tiles, groups = [str(pair.tile) for pair in pairs], [pair.group for pair in pairs]
    held_out = held_out_groups(tiles, val_percent / 100, [seed, 3], groups)
    if not held_out.any():
        one = "tile" if pairs and pairs[0].tile != pairs[0].image else "image"
        raise ValueError(
            f"{len(pairs)} pair(s) cannot be split into training and validation; two {one}s of a group are needed"
        )
    train, val = ([pairs[index] for index in np.flatnonzero(mask)] for mask in (~held_out, held_out))
    return train, val


def match(images, masks, group, classes=10):
    """Pair the files of two folders: ``<name>.jpg`` with ``<name>_lab.png`` or ``<name>.png``.

    Args:
        images, masks: folders. group, classes: of the pairs.

    Returns:
        list of ``Pair``, by name.

    Raises:
        FileNotFoundError, ValueError: no folder of masks; a file without its other half, or a name that is there twice.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}; each folder of images has one of masks beside it")
    found = _by_name(images, _IMAGES), _by_name(masks, _MASKS)
    for mine, other, what, lacking in ((*found, images, "mask"), (*found[::-1], masks, "image")):
        if alone := sorted(mine.keys() - other.keys()):
            names = ", ".join(mine[name].name for name in alone[:_NAMED]) + ", …" * (len(alone) > _NAMED)
            raise ValueError(
                f"{what}: {len(alone)} of {len(mine)} files have no {lacking}: {names}; complete or remove"
            )
    return [Pair(found[0][name], found[1][name], group, classes) for name in sorted(found[0])]


def _by_name(folder, suffixes):
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            name = path.stem.removesuffix("_lab")
            if name in files:
                raise ValueError(f"{folder}: {files[name].name} and {path.name} are of one name; remove one of them")
            files[name] = path
    return files


def _labeled(data_dir):
    """The folder that holds Flooded/ and Non-Flooded/, or None."""
    folders = (data_dir / "Train" / "Labeled", data_dir / "Labeled", data_dir)
    return next((f for f in folders if any((f / group / "image").is_dir() for group in GROUPS)), None)


def _two_groups(labeled):
    there = [group for group in GROUPS if (labeled / group).is_dir()]
    return [pair for group in there for pair in match(labeled / group / "image", labeled / group / "mask", group)]


def _supervised(folder, part):
    images = folder / f"{part}-org-img"
    return match(images, folder / f"{part}-label-img", part) if images.is_dir() else []


def _patches(data_dir, task):
    try:
        meta = json.loads((data_dir / "meta.json").read_text())
    except ValueError as error:
        raise ValueError(f"{data_dir / 'meta.json'}: no JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("kind") != PATCHES:
        raise ValueError(f"{data_dir / 'meta.json'} is not of make_harvey_patches.py; --data-dir is another folder")
    if task == "floodnet":
        raise ValueError(f"{data_dir} holds Harvey patches, which know --task building and --task flooded only")
    folders = [part for part in PARTS[:2] if (data_dir / part).is_dir()]
    return {part: match(data_dir / part / "image", data_dir / part / task, part, classes=2) for part in folders}
