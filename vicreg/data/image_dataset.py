"""Image files as a data set: decoded and cropped in the loader's processes, a batch at a time.

Crops are made here because they come from the whole image, at its full resolution. Color operations, blur and flips
are applied to batches on the device that trains.
"""

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vicreg.augmentations.presets import Augmentation, without_crop
from vicreg.data.base import BaseDataset, SampleKey
from vicreg.data.broken_files import map_in_threads
from vicreg.data.image_crops import read_crops
from vicreg.data.image_io import WHOLE, ImageError, UnsupportedImage
from vicreg.data.pairs import build_pairs
from vicreg.data.raster_bands import Levels

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_MAX_TRIES = 100  # unreadable files in a row before the disk, and not a file, is at fault

_Crops = list[tuple[Augmentation, list[int]]]  # pairs (augmentation, seed)


def decode_size(view_size: int | None = None) -> int:
    """Return the side of the square whose center crop of 7/8, as evaluation takes, has ``view_size`` pixels (224)."""
    return round((view_size or 224) * 8 / 7)


class ImageDataset(BaseDataset):
    """Image files, labeled, and as pairs of crops for pretraining.

    ``__getitems__`` returns the crops of the views of ``set_views``, from one image or from two images of one
    location; before ``set_views``, whole images.

    A file that cannot be decoded is replaced by the next readable one of its location, otherwise of its class, and
    named once on stderr, so that a broken file does not end a long run.

    Args:
        paths: Paths of n files.
        labels: Class indices (n,).
        classes: Class names.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        positives: "same" for two crops of one image, "temporal" for crops of two images of one location.
        location_ids: Location of each image (n,), as anything that can be compared; default: each image has its own.
        months: Month of each image (n,); see ``TemporalPairs``.
        max_months_apart: Maximum distance of temporal pairs in months; None for any.
        side: Side of whole images in pixels, ``patch_size``.
        bands: Red, green and blue band, counted from 1; see ``vicreg.data.images.open_reader``.
        levels: Values (low, high) of black and white of files deeper than 8 bits.
        name: Name of the kind of data.

    Attributes:
        labels: int64 tensor (n,).
        levels: As given.
        options: ``bands`` and ``levels``, for ``read_crops``.
        location_ids: Integers (n,).
        patch_size: Side of whole images in pixels.

    Raises:
        ValueError: There are no files, or the arguments do not fit each other.
    """

    crops_in_loader = True

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: npt.ArrayLike,
        classes: Sequence[str],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        positives: str = "same",
        location_ids: npt.ArrayLike | None = None,
        months: npt.ArrayLike | None = None,
        max_months_apart: int | None = None,
        side: int = decode_size(),
        bands: Sequence[int] | None = None,
        levels: Levels = None,
        name: str = "images",
    ):
        encoded = [os.fsencode(path) for path in paths]
        self.labels = torch.from_numpy(np.array(labels, np.int64))
        if not encoded or len(encoded) != len(self.labels):
            raise ValueError(f"{len(encoded)} image files and {len(self.labels)} labels; the numbers must be equal")
        if positives == "temporal" and location_ids is None:
            raise ValueError("temporal positives need to know which images show one location")
        self.classes, self.mean, self.std, self.patch_size = list(classes), list(mean), list(std), side
        # One string for all names: forked loader processes would copy a list by counting references to its items.
        self._names, self._ends = b"".join(encoded), np.cumsum([len(name) for name in encoded])
        location_ids = np.arange(len(encoded)) if location_ids is None else np.asarray(location_ids)
        self.location_ids = np.unique(location_ids, return_inverse=True)[1]
        self._pairs = build_pairs(positives, self.location_ids, months, max_months_apart)
        self._views: Sequence[Augmentation] = (WHOLE, WHOLE)
        self._size, self._warned = side, set[int]()
        self.levels = levels
        self.options: dict[str, Any] = {"bands": bands, "levels": levels}
        self.name = name

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, index: int) -> Path:
        """Return the path of one file."""
        start = self._ends[index - 1] if index else 0
        return Path(os.fsdecode(self._names[start : self._ends[index]]))

    def set_views(self, views: Sequence[Augmentation], size: int) -> tuple[Augmentation, ...]:
        """Crop the views from the whole images; see ``PairDataset.set_views``."""
        self._views, self._size = tuple(views), size
        return tuple(without_crop(view) for view in views)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Load the central squares of images: uint8 tensor (n, 3, patch_size, patch_size)."""
        return self.crop_images(indices, [0] * len(indices), WHOLE, self.patch_size)

    def crop_images(
        self, indices: Sequence[int], sample_seeds: Sequence[int], view: Augmentation, size: int
    ) -> torch.Tensor:
        """Load one random crop of each image; see ``LabeledDataset.crop_images``."""
        requests = [(index, [(view, [seed])]) for index, seed in zip(indices, sample_seeds, strict=True)]
        return self._load(requests, 1, size)[0]

    def names(self) -> list[str]:
        """Return the last folder and the file name of each image."""
        return list(self.sample_info(range(len(self)))["image"])

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return the names of images as ``image``."""
        return {"image": ["/".join(self.path(index).parts[-2:]) for index in indices]}

    def file_sizes(self) -> list[int]:
        """Return the size of each file in bytes, -1 of those that cannot be found."""

        def size(path: bytes) -> int:
            try:
                return os.stat(path).st_size
            except OSError:
                return -1

        stops = self._ends.tolist()
        paths = [self._names[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        return list(map_in_threads(size, paths, 16, lambda chunks, total: chunks))

    def digests(self) -> dict[str, str]:
        """Return the digest of the list, and that of file sizes and options."""
        state = json.dumps([self.file_sizes(), self.options])
        return {**super().digests(), "images": hashlib.sha256(state.encode()).hexdigest()[:16]}

    def content_bytes(self, indices: Sequence[int]) -> bytes:
        """Return paths, sizes and modification times: reading all files takes as long as extracting features."""
        states = [(path, path.stat()) for path in map(self.path, indices)]
        options = [self.options] if any(self.options.values()) else []
        return json.dumps(options + [(str(path), state.st_size, state.st_mtime_ns) for path, state in states]).encode()

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[torch.Tensor, torch.Tensor]:
        view1, view2 = self._views
        positives = [self.positive_index(index, seed) for index, seed in keys]
        if positives == [index for index, _ in keys]:  # decode each image once for both crops
            requests = [(index, [(view1, [seed, 0]), (view2, [seed, 1])]) for index, seed in keys]
            first, second = self._load(requests, 2, self._size, fast=True)
            return first, second
        (first,) = self._load([(index, [(view1, [seed, 0])]) for index, seed in keys], 1, self._size, fast=True)
        pairs = zip(positives, keys, strict=True)
        (second,) = self._load([(index, [(view2, [seed, 1])]) for index, (_, seed) in pairs], 1, self._size, fast=True)
        return first, second

    def _load(
        self, requests: Sequence[tuple[int, _Crops]], count: int, size: int, fast: bool = False
    ) -> list[torch.Tensor]:
        """Load ``count`` crops of each of n images: as many uint8 tensors (n, 3, size, size); see ``read_crops``."""
        loaded = np.empty((count, len(requests), 3, size, size), np.uint8)

        def fill(row: int) -> None:
            loaded[:, row] = self._read(*requests[row], size, fast)

        if torch.utils.data.get_worker_info() is None and len(requests) > 1:  # decoders release the GIL
            with ThreadPoolExecutor(min(16, len(requests), os.cpu_count() or 1)) as pool:
                list(pool.map(fill, range(len(requests))))
        else:
            for row in range(len(requests)):
                fill(row)
        return list(torch.from_numpy(loaded))

    def _read(self, index: int, crops: _Crops, size: int, fast: bool) -> list[Any]:
        """Read crops of an image, or of its first readable substitute."""
        for candidate in itertools.islice(itertools.chain([index], self._substitutes(index)), _MAX_TRIES):
            try:
                return read_crops(self.path(candidate), crops, size, **self.options, fast=fast)
            except UnsupportedImage:
                raise
            except ImageError as error:
                if candidate not in self._warned:
                    self._warned.add(candidate)
                    print(f"warning: {error}; another image replaces it", file=sys.stderr, flush=True)
        raise ImageError(
            f"{self.path(index)} cannot be read, and no image that could replace it; is the disk available?"
        )

    def _substitutes(self, index: int) -> Iterator[int]:
        """Yield the other images of the location, then those of the class, each in the order that follows the index."""
        same_class = np.flatnonzero((self.labels == self.labels[index]).numpy())
        for group in (np.flatnonzero(self.location_ids == self.location_ids[index]), same_class):
            yield from group[group > index].tolist()
            yield from group[group < index].tolist()
