"""The interface of a data set: what pretraining and evaluation ask of it, and how to add one.

To add a data set, derive a class from ``BaseDataset``, set ``labels``, ``classes``, ``mean`` and ``std``, and write
``__len__`` and ``images``. It then pretrains with two augmented views of each image, and can be evaluated. Override
``positive_index`` for pairs of different images, such as one location at two dates:

    class Stripes(BaseDataset):
        def __init__(self, count=64):
            self.labels = torch.arange(count) % 2
            self.classes, self.mean, self.std = ["rows", "columns"], [0.5] * 3, [0.5] * 3
        def __len__(self):
            return len(self.labels)
        def images(self, indices):
            rows = (torch.arange(32) % 2 * 255).to(torch.uint8)[:, None].expand(3, 32, 32)
            return torch.stack([rows.mT if self.labels[index] else rows for index in indices])

A sample depends on its key ``(index, sample_seed)`` alone. A data set keeps no random state and draws no global random
numbers, so a resumed run, other loader processes, or another world size give the same samples.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from vicreg.augmentations.presets import Augmentation
from vicreg.data.pairs import SpatialNeighborPairs, TemporalPairs
from vicreg.data.raster_bands import Levels

if TYPE_CHECKING:  # readers of file formats run without PyTorch
    import torch

SampleKey = tuple[int, int]  # index, sample_seed: a random integer in [0, 2^63 - 1) for this sample in this epoch


class InputSpec(NamedTuple):
    """Input of a network.

    Attributes:
        size: Side of the square image in pixels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]


class ImageSource(Protocol):
    """What pretraining and evaluation both ask of a data set.

    Attributes:
        name: Kind of data, such as ``"SN7"``.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        levels: Values of black and white of files deeper than 8 bits; None for files of 8 bits.
    """

    name: str
    mean: Sequence[float]
    std: Sequence[float]
    levels: Levels

    @property
    def num_channels(self) -> int:
        """Number of channels C of the images."""

    @property
    def patch_size(self) -> int:
        """Side of the images in pixels."""

    def __len__(self) -> int: ...

    def to_device(self, device: torch.device) -> None:
        """Copy all images to the memory of a device, and return them from there afterwards.

        Raises:
            ValueError: The data set has no images of one size that could be copied.
        """

    def digests(self) -> dict[str, str]:
        """Return digests of the list of samples (``"samples"``) and, if recorded, of their images (``"images"``)."""


class PairDataset(ImageSource, Protocol):
    """A data set to pretrain on: pairs of images with the same content."""

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[torch.Tensor, torch.Tensor]:
        """Load a batch of pairs.

        Args:
            keys: n pairs ``(index, sample_seed)``.

        Returns:
            Two uint8 tensors (n, C, H, W): the first and the second image of each pair. They may be one tensor.
        """

    def set_views(self, views: Sequence[Augmentation], size: int) -> tuple[Augmentation, ...]:
        """Tell the data set which views are made of its pairs, so that it can crop images while it decodes them.

        Args:
            views: Augmentation of the first and of the second image.
            size: Side of the views in pixels.

        Returns:
            What remains to be applied to the images of ``__getitems__``: the views without the crop where the data
            set crops, otherwise ``views``.
        """


class LabeledDataset(ImageSource, Protocol):
    """A data set to evaluate on: images with class labels.

    Attributes:
        labels: int64 tensor (n,) of class indices.
        classes: Class names.
        in_memory: Whether reading all images costs next to nothing.
        crops_in_loader: Whether ``crop_images`` crops the source images, which are larger than those of ``images``.
    """

    labels: torch.Tensor
    classes: list[str]
    in_memory: bool
    crops_in_loader: bool

    @property
    def location_ids(self) -> np.ndarray:
        """Integer array (n,): equal numbers are one location. Not comparable between data sets (``location_keys``)."""

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Load the images of n indices: uint8 tensor (n, C, patch_size, patch_size)."""

    def crop_images(
        self, indices: Sequence[int], sample_seeds: Sequence[int], view: Augmentation, size: int
    ) -> torch.Tensor:
        """Load one random crop of each image; for data sets with ``crops_in_loader``.

        Args:
            indices: n indices.
            sample_seeds: n random integers; the same one gives the same crop.
            view: Augmentation whose crop is taken.
            size: Side of the crops in pixels, after resizing.

        Returns:
            uint8 tensor (n, C, size, size).
        """

    def location_keys(self) -> Sequence[Hashable] | None:
        """Return the location of each sample, comparable between data sets; None if unknown."""

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return columns for figures, if known: ``image``, ``location``, ``date``, ``longitude``, ``latitude``."""

    def content_bytes(self, indices: Sequence[int]) -> bytes:
        """Return bytes that change when the images change, for the keys of feature caches."""


class BaseDataset:
    """Defaults for everything in ``PairDataset`` and ``LabeledDataset`` but ``images`` and ``__len__``.

    A pair is one image twice unless ``positive_index`` is overridden. Every sample is a location of its own unless
    ``location_ids`` is set.
    """

    name: str = "images"
    labels: torch.Tensor
    classes: list[str]
    mean: Sequence[float]
    std: Sequence[float]
    levels: Levels = None
    in_memory: bool = False
    crops_in_loader: bool = False
    _pairs: TemporalPairs | SpatialNeighborPairs | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Load images; see ``LabeledDataset.images``."""
        raise NotImplementedError

    @property
    def num_channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    @functools.cached_property
    def patch_size(self) -> int:
        """Side of the images in pixels."""
        return self.images([0]).shape[-1]

    @functools.cached_property
    def location_ids(self) -> np.ndarray:
        """Location of each sample: here every sample has its own."""
        return np.arange(len(self))

    def positive_index(self, index: int, sample_seed: int) -> int:
        """Return the index of the second image of a pair, chosen by ``sample_seed``: the image itself by default."""
        return index if self._pairs is None else self._pairs.positive_index(index, sample_seed)

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[torch.Tensor, torch.Tensor]:
        first = [index for index, _ in keys]
        second = [self.positive_index(index, sample_seed) for index, sample_seed in keys]
        images = self.images(first)
        return images, (images if second == first else self.images(second))

    def __getitem__(self, key: SampleKey) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.__getitems__([key])
        return first[0], second[0]

    def set_views(self, views: Sequence[Augmentation], size: int) -> tuple[Augmentation, ...]:
        """Return the views unchanged: nothing is cropped while loading."""
        return tuple(views)

    def crop_images(
        self, indices: Sequence[int], sample_seeds: Sequence[int], view: Augmentation, size: int
    ) -> torch.Tensor:
        """Refuse: only data sets with ``crops_in_loader`` crop while loading."""
        raise NotImplementedError(f"{type(self).__name__} does not crop images while loading them")

    def to_device(self, device: torch.device) -> None:
        """Refuse to copy the images to a device."""
        raise ValueError(
            "--cache-on-device is for patches of one size; this data set cannot be copied to device memory: leave the "
            "option out"
        )

    def location_keys(self) -> Sequence[Hashable] | None:
        """Return None: locations cannot be compared with those of another data set."""
        return None

    def names(self) -> Sequence[str]:
        """Return the names of the samples, which do not depend on where the data is; empty if they have none."""
        return ()

    def sample_info(self, indices: Sequence[int]) -> dict[str, Sequence[Any]]:
        """Return the names of samples as ``image``, if they have names."""
        return {"image": [names[index] for index in indices]} if (names := self.names()) else {}

    def digests(self) -> dict[str, str]:
        """Return the digest of the list of samples: their names, labels, locations and classes; images are not read."""
        digest = hashlib.sha256(json.dumps([len(self), list(self.classes), list(map(float, self.mean or ()))]).encode())
        for numbers in (self.labels, self.location_ids):
            digest.update(np.ascontiguousarray(np.asarray(numbers, np.int64)).tobytes())
        digest.update("\n".join(self.names()).encode(errors="surrogateescape"))
        return {"samples": digest.hexdigest()[:16]}

    def content_bytes(self, indices: Sequence[int]) -> bytes:
        """Return the pixels of the images."""
        return self.images(list(indices)).cpu().contiguous().numpy().tobytes()
