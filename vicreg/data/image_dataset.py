"""Images on disk, one file each, as a data set: decoded and cropped where they are loaded, a batch at a time.

Only geometry happens here, because a crop of the whole image has to be cut where the whole image is: in the loader's
processes. Color, blur and flips are made in batches on the training device.
"""

import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vicreg.augmentations.presets import without_crop
from vicreg.data.base import BaseDataset
from vicreg.data.image_io import WHOLE, error_reason, read_crops
from vicreg.data.pairs import build_pairs

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_SIDE = 256  # of the square that an image is judged on, whose center of 7/8 is the usual 224
_TRIES = 100  # unreadable files in a row: then it is the disk, not a file


def decode_size(view_size=None):
    """Side of the square image whose center crop of 7/8 has ``view_size`` pixels; 256 for None."""
    return round(view_size * 8 / 7) if view_size else _SIDE


class ImageDataset(BaseDataset):
    """Image files, single or as pairs of crops for VICReg, fetched a batch at a time.

    ``dataset.__getitems__(keys)`` takes a list of ``(index, draw)``, where ``draw`` is the sample's own random 63-bit
    number: it settles both crops and the partner, so that a pair depends on nothing but its key. It returns two uint8
    tensors (n, 3, S, S): the crops that views of ``set_views``, of one image or of two images of one place; before
    ``set_views``, whole images.

    A file that cannot be decoded is replaced by the next readable one of its place, else of its class, and named once
    on stderr: a broken file should not end a run of a week.

    Args:
        paths: of the files, n. labels: (n,) integers. classes: names.
        mean, std: per channel, of pixels in [0, 1]. side: of whole images, ``patch_size``.
        positives: ``"same"`` or ``"temporal"``. places, months, max_months_apart: see ``temporal.TemporalPairs``.

    Attributes:
        labels: int64 tensor (n,). places: (n,) integers. classes, mean, std, patch_size: as given.

    Raises:
        ValueError: no files, or arguments that do not fit each other.
    """

    crops_in_loader = True

    def __init__(self, paths, labels, classes, mean=IMAGENET_MEAN, std=IMAGENET_STD, positives="same",
                 location_ids=None, months=None, max_months_apart=None, side=_SIDE):  # fmt: skip
        import torch

        encoded = [os.fsencode(path) for path in paths]
        self.labels = torch.from_numpy(np.array(labels, np.int64))
        if not encoded or len(encoded) != len(self.labels):
            raise ValueError(f"{len(encoded)} image files and {len(self.labels)} labels; as many of both are needed")
        if positives == "temporal" and location_ids is None:
            raise ValueError("temporal positives need to know which images show one place")
        self.classes, self.mean, self.std, self.patch_size = list(classes), list(mean), list(std), side
        # one string for all names: loader processes would each copy a list, by counting references to its items
        self._names, self._ends = b"".join(encoded), np.cumsum([len(name) for name in encoded])
        location_ids = np.arange(len(encoded)) if location_ids is None else location_ids
        self.location_ids = np.unique(np.asarray(location_ids), return_inverse=True)[1]
        self._pairs = build_pairs(positives, self.location_ids, months, max_months_apart)
        self._views, self._size, self._named = (WHOLE, WHOLE), side, set()

    def __len__(self):
        return len(self._ends)

    def path(self, index):
        """Path of one file."""
        begin = self._ends[index - 1] if index else 0
        return Path(os.fsdecode(self._names[begin : self._ends[index]]))

    def set_views(self, views, size):
        """Crop the views from the whole images; see ``PairDataset.set_views``."""
        self._views, self._size = tuple(views), size
        return tuple(without_crop(view) for view in views)

    def to_device(self, device):
        """Refused: images of all sizes, cropped anew each time, do not lie in memory ready to use."""
        raise ValueError("--cache-on-device needs patches of one size; image files are read from disk: leave it out")

    def images(self, indices):
        """Fetch the middle square of images: list of indices -> uint8 tensor (n, 3, patch_size, patch_size)."""
        return self.crop_images(indices, [0] * len(indices), WHOLE, self.patch_size)

    def crop_images(self, indices, sample_seeds, view, size):
        """Load one random crop of each image; see ``LabeledDataset.crop_images``."""
        wanted = [(index, [(view, [seed])]) for index, seed in zip(indices, sample_seeds, strict=True)]
        return self._fetch(wanted, size)[0]

    def content_bytes(self, indices):
        """Return paths, sizes and modification times: reading all files takes as long as extracting features."""
        states = [(path, path.stat()) for path in map(self.path, indices)]
        return json.dumps([(str(path), state.st_size, state.st_mtime_ns) for path, state in states]).encode()

    def positive_index(self, index, sample_seed):
        """Return the index of the second image of a pair in O(1), chosen by ``sample_seed``."""
        return index if self._pairs is None else self._pairs.positive_index(index, sample_seed)

    def __getitems__(self, keys):
        view1, view2 = self._views
        partners = [self.positive_index(index, draw) for index, draw in keys]
        if partners == [index for index, _ in keys]:  # both crops from one decoding
            return self._fetch([(i, [(view1, [draw, 0]), (view2, [draw, 1])]) for i, draw in keys], self._size)
        (first,) = self._fetch([(i, [(view1, [draw, 0])]) for i, draw in keys], self._size)
        pairs = zip(partners, keys, strict=True)
        (second,) = self._fetch([(i, [(view2, [draw, 1])]) for i, (_, draw) in pairs], self._size)
        return first, second

    def _fetch(self, wanted, size):
        """[(index, crops of it), …] -> for each crop a uint8 tensor (n, 3, size, size)."""
        import torch

        count = len(wanted[0][1]) if wanted else 1
        found = np.empty((count, len(wanted), 3, size, size), np.uint8)

        def fill(row):
            found[:, row] = self._read(*wanted[row], size)

        if torch.utils.data.get_worker_info() is None and len(wanted) > 1:  # decoders let go of the interpreter's lock
            with ThreadPoolExecutor(min(16, len(wanted), os.cpu_count() or 1)) as pool:
                list(pool.map(fill, range(len(wanted))))
        else:
            for row in range(len(wanted)):
                fill(row)
        return list(torch.from_numpy(found))

    def _read(self, index, crops, size):
        """Crops of an image, or of the first of its stand-ins that can be read."""
        for candidate in itertools.islice(itertools.chain([index], self._stand_ins(index)), _TRIES):
            try:
                return read_crops(self.path(candidate), crops, size)
            except MemoryError:
                raise
            except Exception as error:  # every decoder of PIL has its own
                self._warn(candidate, error)
        raise OSError(f"{self.path(index)} cannot be read, nor can any of its stand-ins; is the disk still there?")

    def _stand_ins(self, index):
        """The other images of the place, then those of the class, each in the order that follows the index."""
        of_class = np.flatnonzero((self.labels == self.labels[index]).numpy())
        for group in (np.flatnonzero(self.location_ids == self.location_ids[index]), of_class):
            yield from group[group > index].tolist()
            yield from group[group < index].tolist()

    def _warn(self, index, error):
        if index not in self._named:
            self._named.add(index)
            path = self.path(index)
            what = f"warning: {path} cannot be read ({error_reason(error, path)}); another image stands in for it"
            print(what, file=sys.stderr, flush=True)
