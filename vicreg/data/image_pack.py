"""Image folders that are decoded once: the center squares of all images, of one size, in a memory-mapped file."""

import argparse
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vicreg.common.files import atomic_write, partial_folder
from vicreg.common.logger import log
from vicreg.data.base import BaseDataset
from vicreg.data.image_dataset import ImageDataset
from vicreg.data.image_io import WHOLE, ImageError
from vicreg.data.images import image_size
from vicreg.data.pixel_arrays import map_pixels, select_images
from vicreg.data.raster_pack.shards import npy_header
from vicreg.distributed import process_group
from vicreg.distributed.waiting import wait_for_main

_CHUNK = 256  # images decoded at a time


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Add ``--pack`` and ``--pack-size``."""
    group.add_argument(
        "--pack", type=Path, metavar="DIR",
        help="decode all images once to a file in this folder, and train from the largest square in the center of each",
    )  # fmt: skip
    group.add_argument(
        "--pack-size", type=int, metavar="N",
        help="largest side of the squares of --pack in pixels; default: 8/7 of --image-size, 256 for 224",
    )  # fmt: skip


class PackedImages(BaseDataset):
    """The center squares of the images of a data set, read from a file; views are cropped from them on the device.

    Args:
        images: Data set of the image files.
        path: File of ``pack_images``, uint8 (n, 3, S, S).

    Raises:
        ValueError: The file is damaged, or has another number of images.
    """

    in_memory = True

    def __init__(self, images: ImageDataset, path: Path):
        self.labels, self.classes, self.mean, self.std = images.labels, images.classes, images.mean, images.std
        self.levels, self.location_ids = images.levels, images.location_ids
        self._images, self._path = images, path
        self._on_device: torch.Tensor | None = None
        if len(self._store) != len(images):
            raise ValueError(f"{path} does not hold {len(images)} images; delete it")

    @functools.cached_property
    def _store(self) -> np.ndarray:
        return map_pixels(self._path, "delete it")

    def __getstate__(self) -> dict[str, Any]:  # loader processes map the file themselves
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Load squares: uint8 tensor (n, 3, S, S)."""
        if self._on_device is not None:
            return select_images(self._on_device, indices)
        return torch.from_numpy(self._store[list(indices)])

    def to_device(self, device: torch.device) -> None:
        """Copy all squares to a device; ``images`` then returns them from there."""
        self._on_device = self.images(range(len(self))).to(device)

    def names(self) -> Sequence[str]:
        """Return the names of the image files."""
        return self._images.names()

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return the names of image files as ``image``."""
        return self._images.sample_info(indices)

    def digests(self) -> dict[str, str]:
        """Return the digest of the list, and that of file sizes and options."""
        return {**super().digests(), "images": self._path.stem}


def pack_images(images: ImageDataset, folder: Path, max_side: int) -> PackedImages:
    """Write the center squares of all images to a file, if it is not there, and return them as a data set.

    The file is named after names and sizes of the image files, and the options. Rank 0 writes it; the others wait.

    Args:
        images: Data set of image files.
        folder: Folder of the file.
        max_side: Largest side of the squares in pixels. If the short sides of all images are shorter, their longest.

    Raises:
        ValueError: The disk has not enough space, or another process sees other images.
        ConnectionError: Rank 0 makes no progress.
    """
    state = json.dumps([images.names(), images.file_sizes(), images.options, max_side])
    path = folder / f"{hashlib.sha256(state.encode()).hexdigest()[:16]}.npy"
    process_group.check_same_across_ranks({"--pack": path.name}, "images")
    if process_group.is_main() and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            sides = pool.map(functools.partial(_short_side, images), range(len(images)))
            shape = (len(images), 3, *[min(max_side, max(sides))] * 2)
        needed, free = np.prod(shape, dtype=float) / 1e9, shutil.disk_usage(folder).free / 1e9
        if needed > free:
            raise ValueError(f"--pack {folder}: {needed:.1f} GB are needed, {free:.1f} GB are free; lower --pack-size")
        with partial_folder(folder) as partial:  # removes what killed processes left
            atomic_write(partial / path.name, lambda tmp_path: _write(images, tmp_path, shape))
            os.replace(partial / path.name, path)
    wait_for_main(lambda: path.is_file() or None, folder)
    packed = PackedImages(images, path)
    side = packed.patch_size
    log(f"{len(packed)} images as squares of {side} pixels in {path} ({len(packed) * 3e-9 * side**2:.2f} GB)")
    return packed


def _write(images: ImageDataset, path: Path, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:  # not memory-mapped: a full disk is an error here, and a signal there
        file.write(npy_header("uint8", shape))
        for start in tqdm(range(0, shape[0], _CHUNK), "decoding", leave=False, disable=None):
            indices = range(start, min(start + _CHUNK, shape[0]))
            file.write(images.crop_images(indices, [0] * len(indices), WHOLE, shape[-1]).contiguous().numpy().data)


def _short_side(images: ImageDataset, index: int) -> int:
    """Return the shorter side of an image in pixels, 0 if its file is broken: another image replaces it."""
    try:
        return min(image_size(images.path(index)))
    except ImageError:
        return 0
