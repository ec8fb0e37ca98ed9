"""Images and masks reduced once to their working size, and random augmented crops of them."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from downstream.FloodNet_segmentation_task.floodnet import Pair, label_map
from downstream.FloodNet_segmentation_task.image_mask_io import read_pair, working_scale
from vicreg.common import files
from vicreg.data.images import image_size as size_of
from vicreg.data.pixel_arrays import map_pixels
from vicreg.data.raster_bands import Bands, Levels

_FORMAT = 2  # of the cached files
_ZOOM = (0.75, 4 / 3)  # of the crops
COLOR_JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}


class CachedPairs:
    """Images and masks at working size, kept as files and read in place.

    A cached file is identified by the paths, sizes and modification times of its two sources and by the requested size,
    so a changed source is read again. Decoding a mask of 4000 x 3000 pixels takes a third of a second, a cached crop
    almost nothing.

    ``task`` is that of ``floodnet.label_map``, ``name`` the label of the progress bar, and the size, the levels and the
    bands are those of ``image_mask_io.read_pair``.

    Attributes:
        sizes: (height, width) of each cached image.
        scale: Median of the factors by which the images were reduced.

    Raises:
        ValueError: A pair that cannot be used; says which and why.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        folder: str | Path,
        task: str,
        image_size: int | None = None,
        scale: float = 1.0,
        workers: int = 1,
        name: str = "pairs",
        levels: Levels = None,
        bands: Bands = None,
    ):
        self.pairs, folder = list(pairs), Path(folder)
        self.bands = bands
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = [label_map(task, pair.classes) for pair in self.pairs]
        size = [image_size, None if image_size else scale]
        self.files = [
            folder / f"{pair.image.stem}-{_digest(pair, [*size, levels, *([bands] if bands else [])])}.npy"
            for pair in self.pairs
        ]

        def cache(pair: Pair, file: Path) -> None:
            if not _is_complete(file):
                array = read_pair(pair, image_size, scale, levels, bands)
                files.atomic_write(file, lambda tmp_path: np.save(tmp_path, array))

        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = [pool.submit(cache, pair, file) for pair, file in zip(self.pairs, self.files, strict=True)]
            try:
                for job in tqdm(jobs, desc=f"reducing {name}", leave=False, disable=None):
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)
        self.sizes = [_map(file).shape[1:] for file in self.files]
        self.scale = float(np.median([working_scale(size_of(pair.image), image_size, scale) for pair in self.pairs]))

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """Return an image, uint8 or uint16 array (C, height, width), read as it is used."""
        return _map(self.files[index])[:-1]

    def labels(self, index: int) -> np.ndarray:
        """Return the labels of the task, uint8 array (height, width)."""
        return self._label(index, _map(self.files[index])[-1])

    def crop(self, index: int, top: int, left: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a square part of an image and its labels: tensors (C, side, side) and uint8 (side, side)."""
        part = _map(self.files[index])[:, top : top + side, left : left + side]
        return torch.from_numpy(np.array(part[:-1])), torch.from_numpy(self._label(index, part[-1]))

    def _label(self, index: int, values: np.ndarray) -> np.ndarray:
        try:
            return self._maps[index][values]
        except IndexError as error:
            raise ValueError(f"{self.files[index]} is damaged; remove it, and it is written anew") from error


class RandomCrops(torch.utils.data.Dataset):
    """Random augmented crops, one of each image per epoch: ``[(index, sample_seed), …]`` -> images and labels.

    Zoom, position, flips, quarter turns and a light color jitter depend on ``sample_seed`` alone. Images of chosen
    bands become float32 in [0, 1], with a jitter of brightness in place of color.

    Args:
        pairs: Images and masks.
        side: Side of the crops in pixels.
        repeats: Crops of each image per epoch.
    """

    def __init__(self, pairs: CachedPairs, side: int, repeats: int = 1):
        self.pairs, self.side, self.repeats = pairs, side, repeats
        self._augment = v2.Compose([
            v2.Resize((side, side), antialias=True),  # masks take the nearest value
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice([v2.RandomRotation((turn, turn)) for turn in (0, 90)]),  # with the flips, all eight
            *([] if pairs.bands else [v2.ColorJitter(**COLOR_JITTER)]),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs) * self.repeats

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
        crops = [self._crop(index % len(self.pairs), sample_seed) for index, sample_seed in keys]
        return tuple(torch.stack(column) for column in zip(*crops, strict=True))

    def _crop(self, index: int, sample_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(sample_seed)
        height, width = self.pairs.sizes[index]
        zoom = np.exp(rng.uniform(*np.log(_ZOOM)))
        side = max(1, min(round(self.side / zoom), height, width))
        top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
        image, labels = self.pairs.crop(index, top, left, side)
        if self.pairs.bands:
            gain = rng.uniform(1 - COLOR_JITTER["brightness"], 1 + COLOR_JITTER["brightness"])
            image = (image.float() * (gain / torch.iinfo(image.dtype).max)).clamp(max=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sample_seed)
            image, labels = self._augment(tv_tensors.Image(image), tv_tensors.Mask(labels))
        return image.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)


def default_side(sizes: Iterable[tuple[int, int]], largest: int = 512) -> int:
    """Return the side of the crops for images of these (height, width): a multiple of 32 that fits into all of them."""
    return max(32, min(largest, min(map(min, sizes)) // 32 * 32))


def _digest(pair: Pair, settings: list) -> str:
    facts = [_FORMAT, *settings, pair.classes]
    for path in (pair.image, pair.mask):
        status = path.stat()
        facts += [str(path.resolve()), status.st_size, status.st_mtime_ns]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _map(file: Path) -> np.ndarray:
    return map_pixels(file, "delete it", ndim=3, dtypes=("uint8", "uint16"))


def _is_complete(file: Path) -> bool:
    try:
        return bool(len(_map(file)))
    except (ValueError, OSError):  # damaged, or missing
        return False
