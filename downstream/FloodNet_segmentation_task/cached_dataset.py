"""Pairs reduced once to the size that training works at, and the augmented squares that are cut from them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from downstream.FloodNet_segmentation_task.floodnet import label_map
from downstream.FloodNet_segmentation_task.image_mask_io import read_pair, working_scale
from vicreg.common import files
from vicreg.data.image_io import open_image
from vicreg.distributed.process_group import is_main

_FORMAT = 1  # of the copies
_ZOOM = (0.75, 4 / 3)  # of the training squares
COLOR = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}


class WorkingCopies:
    """Pairs at working size, kept as files, read in place.

    A copy is known by its two files' paths, sizes and times of change, and by the size asked for: after a change it is
    made anew. Masks of 4000 x 3000 take a third of a second each to decode, a crop from a copy almost nothing.

    Args:
        pairs: list of ``data.Pair``. folder: for the copies, made if missing. task: of ``data.TASKS``.
        image_size, scale: see ``pixels.read_pair``. workers: threads. name: of the part, for the progress bar.

    Attributes:
        sizes: (height, width) of each copy. scale: median of the factors by which the images were reduced.

    Raises:
        ValueError: a pair that cannot be used; says which and why.
    """

    def __init__(self, pairs, folder, task, image_size=None, scale=1.0, workers=1, name="pairs"):
        self.pairs = list(pairs)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = [label_map(task, pair.classes) for pair in self.pairs]
        self.files = [folder / f"{pair.image.stem}-{_digest(pair, image_size, scale)}.npy" for pair in self.pairs]
        hidden = None if is_main() else True
        with ThreadPoolExecutor(max(1, workers)) as pool:
            todo = [
                pool.submit(_copy, pair, file, image_size, scale)
                for pair, file in zip(self.pairs, self.files, strict=True)
            ]
            try:
                for job in tqdm(todo, desc=f"reducing {name}", leave=False, disable=hidden):
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)
        self.sizes = [np.load(file, mmap_mode="r").shape[1:] for file in self.files]
        self.scale = float(np.median([_scale(pair.image, image_size, scale) for pair in self.pairs]))

    def __len__(self):
        return len(self.files)

    def image(self, index):
        """uint8 array (3, height, width), read as it is used."""
        return np.load(self.files[index], mmap_mode="r")[:3]

    def labels(self, index):
        """The task's classes: uint8 array (height, width)."""
        return self._maps[index][np.load(self.files[index], mmap_mode="r")[3]]

    def square(self, index, top, left, side):
        """A part of a pair: uint8 tensors (3, side, side) and (side, side)."""
        part = np.load(self.files[index], mmap_mode="r")[:, top : top + side, left : left + side]
        return torch.from_numpy(np.array(part[:3])), torch.from_numpy(self._maps[index][part[3]])


class Squares(torch.utils.data.Dataset):
    """Random squares of the pairs, one of each in an epoch, for ``CountedBatches``: ``[(index, draw), …]`` -> batch.

    Zoom, place, flips, quarter turns and a light change of colors follow from ``draw`` alone.

    Args:
        copies: ``WorkingCopies``. side: of the squares, pixels. repeats: squares of each pair in an epoch.
    """

    def __init__(self, copies, side, repeats=1):
        self.copies, self.side, self.repeats = copies, side, repeats
        self._look = v2.Compose([
            v2.Resize((side, side), antialias=True),  # masks take the nearest value
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice([v2.RandomRotation((turn, turn)) for turn in (0, 90)]),  # with the flips, all eight
            v2.ColorJitter(**COLOR),
        ])  # fmt: skip

    def __len__(self):
        return len(self.copies) * self.repeats

    def __getitems__(self, keys):
        pairs = [self._cut(index % len(self.copies), draw) for index, draw in keys]
        return tuple(torch.stack(column) for column in zip(*pairs, strict=True))

    def _cut(self, index, draw):
        random = np.random.default_rng(draw)
        height, width = self.copies.sizes[index]
        zoom = np.exp(random.uniform(*np.log(_ZOOM)))
        cut = max(1, min(round(self.side / zoom), height, width))
        top, left = (int(random.integers(extent - cut + 1)) for extent in (height, width))
        image, labels = self.copies.square(index, top, left, cut)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw)
            image, labels = self._look(tv_tensors.Image(image), tv_tensors.Mask(labels))
        return image.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)


def default_side(sizes, largest=512):
    """Side of the squares for images of these (height, width): a multiple of 32 that fits into all of them."""
    return max(32, min(largest, min(map(min, sizes)) // 32 * 32))


def _digest(pair, image_size, scale):
    facts = [_FORMAT, image_size, None if image_size else scale, pair.classes]
    for path in (pair.image, pair.mask):
        found = path.stat()
        facts += [str(path.resolve()), found.st_size, found.st_mtime_ns]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _copy(pair, file, image_size, scale):
    if _is_whole(file):
        return
    found = read_pair(pair, image_size, scale)
    files.atomic_write(file, lambda beside: np.save(beside, found))


def _scale(path, image_size, scale):
    with open_image(path) as image:
        return working_scale(image.size, image_size, scale)


def _is_whole(file):
    try:
        return np.load(file, mmap_mode="r").shape[0] == 4
    except (OSError, ValueError, EOFError):  # missing, or spoilt by something else than us
        return False
