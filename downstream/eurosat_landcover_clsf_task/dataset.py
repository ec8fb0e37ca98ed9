"""EuroSAT, or any other folder of class folders of small images: listed, divided, decoded once into memory."""

import os

import numpy as np
import torch

from vicreg.data.base import BaseDataset
from vicreg.data.broken_files import map_in_threads
from vicreg.data.image_folder import choose_files, list_images
from vicreg.data.image_io import WHOLE, error_reason, open_image, read_crops
from vicreg.data.subsets import held_out_images

MOST_BYTES = 16 * 2**30  # of decoded pixels; all 27,000 images of EuroSAT are 0.33 GB


class Scenes(BaseDataset):
    """Images of one size in memory, with their classes.

    Args:
        pixels: uint8 tensor (n, 3, S, S). labels: int64 tensor (n,). classes: names.

    Attributes:
        patch_size: S. at_hand: fetching all images costs next to nothing.
    """

    in_memory = True

    def __init__(self, pixels, labels, classes):
        self.pixels, self.labels, self.classes, self.patch_size = pixels, labels, list(classes), pixels.shape[-1]

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        """Fetch images: list of indices -> uint8 tensor (n, 3, S, S)."""
        return self.pixels[torch.as_tensor(indices)]

    def take(self, indices):
        """The scenes that an array of indices names."""
        return Scenes(self.pixels[indices], self.labels[indices], self.classes)

    def turned(self, quarters):
        """The same scenes, turned by quarters of a circle."""
        return Scenes(torch.rot90(self.pixels, quarters, (2, 3)), self.labels, self.classes)

    def statistics(self):
        """Mean and standard deviation of each channel: two lists, of pixels in [0, 1]."""
        counts = np.zeros((3, 256))
        for part in self.pixels.split(1024):
            counts += [np.bincount(channel.reshape(-1), minlength=256) for channel in part.numpy().swapaxes(0, 1)]
        levels, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
        mean = shares @ levels
        std = np.sqrt(shares @ levels**2 - mean**2)
        return [[round(float(value), 4) for value in values] for values in (mean, std.clip(min=1e-3))]


def find_scenes(data_dir, val_share, split_seed, train_list=None, val_list=None):
    """List a folder of class folders and divide it.

    Args:
        data_dir: folder, such as ``EuroSAT/2750``. val_share: of each class, to validate on. split_seed: of the choice.
        train_list, val_list: text files with one image a line (``Class/file`` or ``file``, whatever its suffix), in
            place of a random split; both or none.

    Returns:
        two ``vicreg.data.image_folder.Listing``, and a line that says how they were divided.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the folder or the lists.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"no folder {data_dir}; --data-dir is the folder of class folders, such as EuroSAT/2750"
        )
    listing = list_images(data_dir)
    if len(listing.classes) < 2:
        raise ValueError(f"{data_dir} holds one class only ({listing.classes[0]}); two class folders are needed")
    if (train_list is None) != (val_list is None):
        raise ValueError("--train-list and --val-list come together: what is in neither is left out")
    if train_list is not None:
        chosen = choose_files(listing, train_list, "--train-list", any_suffix=True)
        judged = choose_files(listing, val_list, "--val-list", any_suffix=True)
        if len(both := np.intersect1d(chosen, judged)):
            raise ValueError(f"{len(both)} images are in both lists, such as {listing.paths[both[0]]}")
        if lost := sorted(set(range(len(listing.classes))) - set(listing.labels[chosen].tolist())):
            raise ValueError(f"{train_list} names no image of the class {listing.classes[lost[0]]}")
        return listing.take(chosen), listing.take(judged), f"lists {train_list.name} and {val_list.name}"
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share {val_share}: above 0 and below 1 is needed")
    if (counts := np.bincount(listing.labels)).min() < 2:
        name = listing.classes[counts.argmin()]
        raise ValueError(f"class {name} in {data_dir} has one image only: none to set aside for validation")
    held_out = held_out_images(listing.labels, val_share, split_seed)
    line = f"random, {100 * val_share:g} % of each class to validate, seed {split_seed}"
    return listing.take(~held_out), listing.take(held_out), line


def side_of(path):
    """Short side of an image file in pixels.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with open_image(path) as image:
            return min(image.size)
    except Exception as error:  # every decoder of PIL has its own
        raise ValueError(f"{path} cannot be read ({error_reason(error, path)}); remove it or replace it") from error


def decode(listing, side, workers, progress):
    """Decode images, each the largest square in its middle.

    Args:
        listing: ``Listing``. side: of the results in pixels. workers: threads. progress: see ``map_in_threads``.

    Returns:
        ``Scenes``.

    Raises:
        ValueError: images cannot be read, with the first ones' names; or they would not fit into memory.
    """
    if (need := len(listing.paths) * 3 * side**2) > MOST_BYTES:
        raise ValueError(
            f"{len(listing.paths)} images of {side} x {side} pixels take {need / 1e9:.0f} GB of memory, "
            f"{MOST_BYTES / 1e9:.0f} GB are allowed; lower --image-size"
        )
    pixels, broken = np.empty((len(listing.paths), 3, side, side), np.uint8), []

    def read(path):
        try:
            return read_crops(path, [(WHOLE, 0)], side)[0]
        except MemoryError:
            raise
        except Exception as error:  # every decoder of PIL has its own
            return f"{path}: {error_reason(error, path)}"

    threads = max(1, min(workers, os.cpu_count() or 1))
    for row, found in enumerate(map_in_threads(read, listing.paths, threads, progress)):
        if isinstance(found, str):
            broken.append(found)
        else:
            pixels[row] = found
    if broken:
        more = f", … and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ValueError(
            f"{len(broken)} of {len(listing.paths)} images cannot be read; remove or replace them: "
            f"{'; '.join(broken[:3])}{more}"
        )
    return Scenes(torch.from_numpy(pixels), torch.from_numpy(np.array(listing.labels, np.int64)), listing.classes)
