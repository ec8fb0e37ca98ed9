"""FloodNet and Harvey patches on disk: which image belongs to which mask, in training, validation and test."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vicreg.common.json_files import read_json
from vicreg.common.logger import log
from vicreg.data.image_listing import find_split, format_names, image_paths
from vicreg.data.subsets import held_out_groups
from vicreg.engine.arguments import add_alias

FLOODNET = (
    "background", "building flooded", "building non-flooded", "road flooded", "road non-flooded", "water", "tree",
    "vehicle", "pool", "grass",
)  # fmt: skip
GROUPS = ("Flooded", "Non-Flooded")
PARTS = ("train", "val", "test")
PATCHES = "Harvey patches"  # the kind that meta.json of make_harvey_patches.py names
TASKS = {"floodnet": FLOODNET, "building": ("background", "building"), "flooded": ("background", "flooded building")}
# both building classes of FloodNet are buildings, one of them is flooded
_FROM_FLOODNET = {"floodnet": range(10), "building": (0, 1, 1, *[0] * 7), "flooded": (0, 1, *[0] * 8)}
_PALETTE = {
    "background": (40, 40, 40), "building flooded": (214, 39, 40), "building non-flooded": (255, 152, 150),
    "road flooded": (23, 190, 207), "road non-flooded": (170, 170, 170), "water": (31, 119, 180), "tree": (20, 110, 45),
    "vehicle": (255, 217, 47), "pool": (148, 103, 189), "grass": (166, 217, 106), "building": (255, 127, 14),
    "flooded building": (214, 39, 40),
}  # fmt: skip
_LOSSY = (".jpg", ".jpeg", ".webp", ".jp2")  # no masks


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        image: Image file.
        mask: Mask file.
        group: Group by which a split is stratified.
        classes: Number of values of the mask.
        is_patch: Whether the image is a patch of a tile, ``<tile>__<position>``.
    """

    image: Path
    mask: Path
    group: str
    classes: int
    is_patch: bool = False

    @property
    def tile(self) -> Any:
        """What a split keeps together: the tile of a patch (its name without the position), else the image itself."""
        return self.image.stem.rpartition("__")[0] if self.is_patch else self.image


def add_val_fraction(group: argparse._ActionsContainer, help: str) -> None:
    """Add ``--val-fraction``, and its former spelling in percent."""
    group.add_argument("--val-fraction", type=float, default=0.2, help=help)
    add_alias(group, "--val-percent", "val_fraction", lambda text: float(text) / 100)


def palette(classes: Sequence[str]) -> np.ndarray:
    """Return the colors of classes: uint8 array (len(classes), 3)."""
    return np.array([_PALETTE[name] for name in classes], np.uint8)


def label_map(task: str, classes: int) -> np.ndarray:
    """Return the task's class for each value of a mask: uint8 array (classes,).

    Args:
        task: A key of ``TASKS``, or another name for classes that are the values.
        classes: Number of values of the mask.
    """
    known = _FROM_FLOODNET.get(task) if classes == len(FLOODNET) else None
    return np.array(known or range(classes), np.uint8)


def find_parts(
    data_dir: str | Path, task: str, val_fraction: float = 0.2, seed: int = 0
) -> tuple[dict[str, list[Pair]], str]:
    """Find the pairs of FloodNet, in either of its layouts, or of a folder of Harvey patches.

    ``Train/Labeled/{Flooded,Non-Flooded}/{image,mask}`` is FloodNet as the challenge distributed it: no other part of
    it has masks, so a fraction of each of the two groups is held out. ``train/train-org-img`` with
    ``train/train-label-img``, and the same with ``val`` and ``test``, is FloodNet-Supervised.
    ``train/{image,building,flooded}`` are Harvey patches. Folders of splits may have the names of ``SPLITS``, in any
    case.

    Args:
        data_dir: The folder.
        task: A key of ``TASKS``; ``floodnet`` needs FloodNet, the two others take both.
        val_fraction: Fraction to hold out if the data has no validation part.
        seed: Seed of that split.

    Returns:
        Pairs of ``train``, ``val`` and perhaps ``test``, and a description of what was found.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has none of the layouts, an image or a mask is missing, or there are too few pairs.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder at {data_dir}; --data-dir is FloodNet's, or one of make_harvey_patches.py")
    if (data_dir / "meta.json").is_file():
        layout, parts = PATCHES, _patches(data_dir, task)
    elif labeled := _labeled(data_dir):
        groups = [labeled / group for group in GROUPS if (labeled / group).is_dir()]
        pairs = [pair for group in groups for pair in match(group / "image", group / "mask", group.name)]
        layout, parts = "FloodNet, Train/Labeled", {"train": pairs}
    else:
        layout = "FloodNet, train/val/test"
        parts = {part: pairs for part in PARTS if (pairs := _supervised(find_split(data_dir, part), part))}
    if not parts.get("train"):
        raise ValueError(
            f"{data_dir} has none of the layouts known here: Train/Labeled/{{Flooded,Non-Flooded}}/{{image,mask}}, "
            "train/train-org-img with train/train-label-img, or what make_harvey_patches.py writes"
        )
    return complete_parts(parts, data_dir, layout, val_fraction, seed)


def complete_parts(
    parts: dict[str, list[Pair]], data_dir: Path, layout: str, val_fraction: float, seed: int
) -> tuple[dict[str, list[Pair]], str]:
    """Hold out a fraction of each group if there is no validation part; patches of a tile stay together.

    At least one image of each group that has two is held out.

    Returns:
        The parts with ``val``, and a description of them, their folder and its layout.

    Raises:
        ValueError: The fraction is not between 0 and 1, or there are too few images or tiles.
    """
    if "val" not in parts:
        pairs, kind = parts["train"], "tile" if parts["train"][0].is_patch else "image"
        tiles, groups = [str(pair.tile) for pair in pairs], [pair.group for pair in pairs]
        held_out = held_out_groups(tiles, val_fraction, seed, groups, "floodnet_split")
        if not held_out.any():
            raise ValueError(
                f"{len(pairs)} pair(s) cannot be split into training and validation; two {kind}s of a group are needed"
            )
        for part, mask in {"train": ~held_out, "val": held_out}.items():
            parts[part] = [pairs[index] for index in np.flatnonzero(mask)]
        layout += f", {100 * val_fraction:g} % of the {kind}s of each group held out (seed {seed})"
    counts = ", ".join(f"{len(parts[part])} {part}" for part in PARTS if part in parts)
    return parts, f"{data_dir}: {counts} pairs ({layout})"


def match(images: Path, masks: Path, group: str, classes: int = 10, is_patch: bool = False) -> list[Pair]:
    """Pair the files of two folders: ``<name>.jpg`` with ``<name>_lab.png`` or ``<name>.png``.

    The pairs are in the order of their names; the other arguments are those of ``Pair``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: An image has no mask, a mask has no image, or a name occurs twice.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}; each folder of images has one of masks beside it")
    image_files, mask_files = _by_name(images), _by_name(masks, _LOSSY)
    for files, others, folder, missing in (
        (image_files, mask_files, images, "mask"), (mask_files, image_files, masks, "image"),
    ):  # fmt: skip
        if unmatched := sorted(files.keys() - others.keys()):
            names = format_names([files[name].name for name in unmatched])
            raise ValueError(
                f"{folder}: {len(unmatched)} of {len(files)} files have no {missing}: {names}; complete or remove"
            )
    return [Pair(image_files[name], mask_files[name], group, classes, is_patch) for name in sorted(image_files)]


def _by_name(folder: Path, excluded: tuple[str, ...] = ()) -> dict[str, Path]:
    files: dict[str, Path] = {}
    skipped: list[str] = [str(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] not in "._"]
    for path in map(Path, image_paths(folder, skipped=skipped, recursive=False)):
        name = path.stem.removesuffix("_lab")
        if path.suffix.lower() in excluded:
            skipped.append(str(path))
        elif name in files:
            raise ValueError(f"{folder}: {files[name].name} and {path.name} have the same name; remove one of them")
        else:
            files[name] = path
    if skipped:
        log(f"note: {len(skipped)} of the entries of {folder} are not used: {format_names(skipped)}")
    return files


def _labeled(data_dir: Path) -> Path | None:
    """Return the folder that holds Flooded/ and Non-Flooded/, or None."""
    folders = ((find_split(data_dir, "train") or data_dir) / "Labeled", data_dir / "Labeled", data_dir)
    return next((f for f in folders if any((f / group / "image").is_dir() for group in GROUPS)), None)


def _supervised(folder: Path | None, part: str) -> list[Pair]:
    folders = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith("-org-img")] if folder else []
    if folder and part == "val" and not folders:
        raise ValueError(f"{folder} holds no <name>-org-img; complete or remove it")
    return match(folders[0], folders[0].with_name(f"{folders[0].name[:-7]}label-img"), part) if folders else []


def _patches(data_dir: Path, task: str) -> dict[str, list[Pair]]:
    meta = read_json(data_dir / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != PATCHES:
        raise ValueError(
            f"{data_dir / 'meta.json'} was not written by make_harvey_patches.py; --data-dir is another folder"
        )
    if task == "floodnet":
        raise ValueError(f"{data_dir} holds Harvey patches, which have --task building and --task flooded only")
    folders = [part for part in PARTS[:2] if (data_dir / part).is_dir()]
    return {part: match(data_dir / part / "image", data_dir / part / task, part, 2, is_patch=True) for part in folders}
