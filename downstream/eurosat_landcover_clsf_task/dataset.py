"""EuroSAT, or any other folder of class folders of small images: listed, split, and decoded into memory once."""

import collections
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task.config import EurosatConfig
from vicreg.common.logger import log
from vicreg.data.base import BaseDataset
from vicreg.data.image_crops import read_square
from vicreg.data.image_listing import Listing, format_names, list_images, split_folders
from vicreg.data.images import image_size
from vicreg.data.name_lists import choose_files
from vicreg.data.pixel_arrays import select_images
from vicreg.data.raster_bands import Bands, Levels
from vicreg.data.rasters import display_rgb, widen
from vicreg.data.subsets import held_out_images, stratified_subset
from vicreg.engine.checkpoint import files_digest, samples_digest

MAX_BYTES = 16 * 2**30  # of decoded pixels; all 27,000 images of EuroSAT are 0.33 GB


class Scenes(BaseDataset):
    """Images of one size in memory, with their classes.

    Args:
        pixels: uint8 or uint16 tensor (n, C, S, S).
        labels: int64 tensor (n,).
        classes: Class names.
    """

    name = "EuroSAT"
    in_memory = True

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]):
        self.pixels, self.labels, self.classes = pixels, labels, list(classes)
        self.patch_size = pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Return images: uint8 or uint16 tensor (n, C, S, S)."""
        return select_images(self.pixels, indices)

    def display_rgb(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Return images to look at: uint8 tensor (n, 3, S, S); see ``vicreg.data.rasters.display_rgb``."""
        return torch.from_numpy(display_rgb(self.images(indices).numpy()))

    def rotated(self, quarter_turns: int) -> "Scenes":
        """Return the same scenes, rotated by quarter turns."""
        turned = np.rot90(self.pixels.numpy(), quarter_turns, (2, 3)).copy()  # PyTorch 2.8 does not flip uint16 tensors
        return Scenes(torch.from_numpy(turned), self.labels, self.classes)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Compute mean and standard deviation of each channel, of pixels in [0, 1]; black ones hold no data."""
        channels, steps = self.pixels.shape[1], torch.iinfo(self.pixels.dtype).max + 1
        counts = np.zeros((channels, steps))
        for part in self.pixels.split(1024):
            pixels = part.numpy().swapaxes(0, 1).reshape(channels, -1)
            counts += [np.bincount(channel, minlength=steps) for channel in pixels[:, pixels.any(0)]]
        if not counts.any():
            raise ValueError("all training images are black")
        levels, fractions = np.arange(steps) / (steps - 1), counts / counts.sum(1, keepdims=True)
        mean = fractions @ levels
        std = np.sqrt(fractions @ levels**2 - mean**2).clip(min=1e-3)
        digits = 4 if steps == 256 else 6
        return mean.round(digits).tolist(), std.round(digits).tolist()


class EurosatSplit(NamedTuple):
    """Training and validation scenes.

    Attributes:
        train: Training scenes.
        val: Validation scenes.
        description: How they were split.
        digests: Digests of the split (``samples``) and of the sizes of its files (``files``).
        file_size: Side of the image files in pixels; scenes in memory may be smaller.
    """

    train: Scenes
    val: Scenes
    description: str
    digests: dict[str, str]
    file_size: int


def load_split(config: EurosatConfig, channels: int, bands: Bands, levels: Levels) -> EurosatSplit:
    """List, split and decode the images of a run, as arrays of ``channels``; see ``vicreg.data.images.open_reader``.

    Raises:
        FileNotFoundError: There is no such folder or list.
        ValueError: The folder, the lists or images cannot be used; says which.
    """
    train, val, description = find_scenes(
        config.data_dir, config.val_fraction, config.split_seed, config.train_list, config.val_list
    )
    train = train.take(stratified_subset(train.labels, config.train_percent / 100, config.seed))
    names = [[f"{path.parent.name}/{path.name}" for path in map(Path, part.paths)] for part in (train, val)]
    file_size = _common_size(train.paths, config.workers)
    size = min(file_size, config.image_size or file_size)
    scenes = [decode(part, size, config.workers, channels, bands, levels) for part in (train, val)]
    digests = {"samples": samples_digest(*names), "files": files_digest([*train.paths, *val.paths])}
    return EurosatSplit(*scenes, description, digests, file_size)


def find_scenes(
    data_dir: Path,
    val_fraction: float,
    split_seed: int,
    train_list: Path | None = None,
    val_list: Path | None = None,
) -> tuple[Listing, Listing, str]:
    """List a folder of class folders and split it.

    Args:
        data_dir: Folder of class folders, such as ``EuroSAT/2750``, or of ``train`` and ``val`` with class folders.
        val_fraction: Fraction of each class to validate on.
        split_seed: Seed of the random split.
        train_list: Text file with one image per line (``Class/file`` or ``file``, with any suffix), in place of a
            random split; given together with ``val_list``.
        val_list: The same for validation.

    Returns:
        Training and validation files, and how they were split.

    Raises:
        FileNotFoundError: There is no such folder or list.
        ValueError: The folder or the lists cannot be used.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"no folder {data_dir}; --data-dir is the folder of class folders, such as EuroSAT/2750"
        )
    if (parts := split_folders(data_dir)) and train_list is None and val_list is None:
        if not {"train", "val"} <= parts.keys():
            raise ValueError(
                f"{data_dir} holds the split folders {format_names([path.name for path in parts.values()])}, and not "
                "both train and val; --data-dir is a folder of class folders, or one that holds train and val"
            )
        train, val = (list_images(parts[name]) for name in ("train", "val"))
        if train.classes != val.classes:
            raise ValueError(
                f"the class folders of {parts['train']} and {parts['val']} differ; the same ones are needed in both"
            )
        return train, val, f"folders {parts['train'].name} and {parts['val'].name} of {data_dir}"
    listing = list_images(data_dir)
    if len(listing.classes) < 2:
        raise ValueError(f"{data_dir} holds one class only ({listing.classes[0]}); two class folders are needed")
    if (train_list is None) != (val_list is None):
        raise ValueError("--train-list and --val-list come together: what is in neither is left out")
    if train_list is not None and val_list is not None:
        train = choose_files(listing, train_list, "--train-list", any_suffix=True)
        val = choose_files(listing, val_list, "--val-list", any_suffix=True)
        if len(both := np.intersect1d(train, val)):
            raise ValueError(f"{len(both)} images are in both lists, such as {listing.paths[both[0]]}")
        if missing := sorted(set(range(len(listing.classes))) - set(listing.labels[train].tolist())):
            raise ValueError(f"{train_list} names no image of the class {listing.classes[missing[0]]}")
        return listing.take(train), listing.take(val), f"lists {train_list.name} and {val_list.name}"
    if (counts := np.bincount(listing.labels)).min() < 2:
        name = listing.classes[counts.argmin()]
        raise ValueError(f"class {name} in {data_dir} has one image only: none to hold out for validation")
    held_out = held_out_images(listing.labels, val_fraction, split_seed)
    description = f"random, {100 * val_fraction:g} % of each class to validate, seed {split_seed}"
    return listing.take(~held_out), listing.take(held_out), description


def _common_size(paths: Sequence[str], workers: int) -> int:
    """Return the most frequent short side of image files in pixels, and log it if there are others."""

    def read(path: str) -> int | None:
        try:
            return min(image_size(path))
        except ValueError:
            return None  # ``_decode`` names it

    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        sizes = collections.Counter(size for size in pool.map(read, paths) if size)
    if not sizes:
        raise ValueError(f"none of {len(paths)} images can be read, such as {paths[0]}")
    size = max(sizes, key=lambda key: (sizes[key], key))
    if len(sizes) > 1:
        log(f"note: images of {len(sizes)} sizes; all are resized to {size} px, the size of {sizes[size]} of them")
    return size


def decode(listing: Listing, size: int, workers: int, channels: int, bands: Bands, levels: Levels) -> Scenes:
    """Decode images, of each the largest centered square, to a side of ``size`` pixels."""
    if (needed := len(listing.paths) * channels * size**2 * (2 if levels else 1)) > MAX_BYTES:
        raise ValueError(
            f"{len(listing.paths)} images of {size} x {size} pixels take {needed / 1e9:.0f} GB of memory, "
            f"{MAX_BYTES / 1e9:.0f} GB are allowed; lower --image-size"
        )

    def read(path: str) -> np.ndarray | str:
        try:
            return read_square(path, size, bands, levels, deep=True)
        except ValueError as error:
            return str(error)

    pixels: np.ndarray = np.empty((len(listing.paths), channels, size, size), np.uint8)
    failures: dict[str, list[str]] = {}  # files by reason
    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        images = tqdm(pool.map(read, listing.paths), "decoding", len(listing.paths), leave=False, disable=None)
        for row, image in enumerate(images):
            if isinstance(image, str):
                failures.setdefault(image.removeprefix(listing.paths[row]), []).append(listing.paths[row])
                continue
            if image.dtype != pixels.dtype and pixels.dtype == np.uint8:
                narrow, pixels = pixels, np.empty(pixels.shape, np.uint16)
                pixels[:row] = widen(narrow[:row])
            pixels[row] = image if image.dtype == pixels.dtype else widen(image)
    if failures:
        reasons = [f"{', '.join(paths[:3])}{', …' * (len(paths) > 3)}{text}" for text, paths in failures.items()]
        count, more = sum(map(len, failures.values())), "; …" * (len(reasons) > 3)
        raise ValueError(f"{count} of {len(listing.paths)} images cannot be used: {'; '.join(reasons[:3])}{more}")
    return Scenes(torch.from_numpy(pixels), torch.from_numpy(np.array(listing.labels, np.int64)), listing.classes)
