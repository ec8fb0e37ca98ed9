"""A tree of images sorted into class folders, as ImageNet comes: what is in it, its split, and its broken files."""

import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vicreg.common.logger import log
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_io import error_reason, open_image
from vicreg.data.subsets import held_out_images
from vicreg.distributed.process_group import assert_equal_across_ranks, is_main

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
NO_VAL_SHARE, NO_VAL_SEED = 0.1, 0  # fixed, so that pretraining and evaluation hold out the same images
_PORTION = 256  # files that a thread takes at once
_JPEG, _PNG = (b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")  # first and last bytes


class Listing(NamedTuple):
    """Image files of one split: n paths (strings) in a fixed order, their labels (n,), and the classes' names."""

    paths: list
    labels: np.ndarray
    classes: list

    def take(self, chosen):
        """The files that a bool mask or an array of indices names."""
        indices = np.arange(len(self.paths))[chosen]
        return Listing([self.paths[index] for index in indices], self.labels[indices], self.classes)

    def without(self, indices, chosen=None):
        """Leave files out.

        Args:
            indices: of the files. chosen: sorted indices of some files, or None.

        Returns:
            the Listing that remains, and ``chosen`` as indices into it, without those left out.

        Raises:
            ValueError: a class loses its last file, or nothing remains of ``chosen``.
        """
        kept = np.ones(len(self.paths), bool)
        kept[list(indices)] = False
        if lost := sorted(set(range(len(self.classes))) - set(self.labels[kept].tolist())):
            raise ValueError(f"no readable image of {_some([self.classes[label] for label in lost])}")
        if chosen is not None:
            chosen = (np.cumsum(kept) - 1)[chosen[kept[chosen]]]
            if not len(chosen):
                raise ValueError("none of the files that were chosen can be read")
        return self.take(kept), chosen


def image_folder(data_dir, share=NO_VAL_SHARE):
    """List a tree of class folders, training and validation part.

    Args:
        data_dir: the folder that holds ``train/`` (and ``val/``), or the training folder itself; then a ``val`` beside
            a folder named ``train…`` belongs to it.
        share: of every class that is set aside where there is no ``val``, the same images each time.

    Returns:
        two ``Listing``s, and a line that says what was taken for validation.

    Raises:
        FileNotFoundError, ValueError: no such tree, class folders that are empty or differ between the parts.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder {data_dir}; --data-dir is the folder that holds train/, or train/ itself")
    folder = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    folder_here = folder.absolute()  # not resolved: a link's own neighbor is meant
    beside = folder_here.with_name("val")
    train = list_images(folder)
    if folder_here.name.startswith("train") and beside.is_dir():
        val = list_images(beside)
        _check_same_classes(train.classes, folder, val.classes, beside)
        return train, val, f"validation: {len(val.paths)} images in {beside}"
    if max(np.bincount(train.labels)) < 2:
        raise ValueError(f"no val/ beside {folder}, and one image a class only: none to set aside for validation")
    held_out = held_out_images(train.labels, share, NO_VAL_SEED)
    line = f"{held_out.sum()} of {len(held_out)} images of {folder} set aside, class by class (no val/ beside it)"
    return train.take(~held_out), train.take(held_out), f"validation: {line}"


def list_images(folder):
    """List the images below a folder of class folders, by class and name.

    Hidden files and folders and files that are no images are passed over; suffixes may be in capitals.

    Raises:
        ValueError: no class folders, or empty ones; says which.
    """
    folder = Path(folder)
    with os.scandir(folder) as entries:
        entries = [entry for entry in entries if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX")
    if not classes:
        loose = sum(_is_image(entry.name) for entry in entries)
        raise ValueError(f"no class folders in {folder} ({loose} loose images); <class>/<image> is expected")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = _images_below(folder / name)
        paths += found
        labels += [label] * len(found)
    counts = np.bincount(np.array(labels, int), minlength=len(classes))
    if not counts.all():
        empty = [folder / name for name, count in zip(classes, counts, strict=True) if not count]
        raise ValueError(f"no image in {_some(empty)}; remove empty class folders")
    return Listing(paths, np.array(labels), classes)


def _is_image(name):
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _images_below(folder):
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(where, name) for name in sorted(files) if _is_image(name)]
    return found


def _check_same_classes(train, folder, val, beside):
    if train == val:
        return
    lacking, beyond = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    what = [f"{_some(lacking)} only in {folder}"] if lacking else []
    what += [f"{_some(beyond)} only in {beside}"] if beyond else []
    raise ValueError(f"class folders differ: {'; '.join(what)}; the same ones are needed in both")


def _some(names, most=3):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def find_broken(paths, workers=8, progress=lambda iterator, total: iterator):
    """Find empty, truncated and unreadable image files, without decoding the good ones.

    The first and last bytes of JPEG and PNG files show nearly all that was cut off; whatever looks odd there is decoded
    whole, so that good files with something after their end stay. Of other formats the header is read.

    Args:
        paths: of n files. workers: threads. progress: wraps the iterator over portions of the files.

    Returns:
        dict: index -> what is wrong.
    """
    found = in_portions(_what_is_wrong, paths, workers, progress)
    return {index: what for index, what in enumerate(found) if what}


def in_portions(function, paths, workers, progress):
    """Apply a function to millions of paths in threads, in order, without a task object for each.

    Args:
        function: of one path. paths: list. workers: threads. progress: function (iterator, total=…) -> iterator.

    Returns:
        iterator over the results.
    """
    portions = [paths[begin : begin + _PORTION] for begin in range(0, len(paths), _PORTION)]
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda portion: [function(path) for path in portion], portions)
        yield from itertools.chain.from_iterable(progress(done, total=len(portions)))


def _what_is_wrong(path):
    """What is wrong with an image file; "" if it looks whole."""
    try:
        with open(path, "rb") as file:
            first = file.read(8)
            file.seek(-min(12, file.seek(0, os.SEEK_END)), os.SEEK_END)
            last = file.read()
        if not first:
            return "empty file (zero bytes)"
        if any(first.startswith(begin) and last.endswith(end) for begin, end in (_JPEG, _PNG)):
            return ""
        with open_image(path) as image:
            if image.format in ("JPEG", "PNG"):
                image.load()
        return ""
    except MemoryError:
        raise
    except Exception as error:  # every decoder of PIL has its own
        return error_reason(error, path)


def choose_files(listing, names_file, flag="--train-files", any_suffix=False):
    """Indices of the images that a list of file names asks for, such as SimCLR's lists of 1 % and 10 % of ImageNet.

    Args:
        listing: ``Listing``. names_file: text, one name a line, with or without the class folder before it.
        flag: that named it. any_suffix: ``River_1.tif`` asks for ``River_1.jpg`` as well.

    Returns:
        sorted int64 array.

    Raises:
        FileNotFoundError, ValueError: no such list; names that are not there, or there twice; says which.
    """
    names_file = Path(names_file)
    if not names_file.is_file():
        raise FileNotFoundError(f"no list of files at {names_file}; {flag} takes one image name a line")
    wanted = [line.strip() for line in names_file.read_text().splitlines() if line.strip()]
    trim = (lambda name: os.path.splitext(name)[0]) if any_suffix else str
    location_ids = {}
    for index, path in enumerate(listing.paths):
        for name in (os.path.basename(path), "/".join(Path(path).parts[-2:])):
            location_ids.setdefault(trim(name), []).append(index)
    keys = [trim("/".join(name.split("/")[-2:])) for name in wanted]
    missing = [name for name, key in zip(wanted, keys, strict=True) if key not in location_ids]
    if missing or not wanted:
        what = f"{len(missing)} of {len(wanted)} names are not among the training images: {_some(missing)}"
        raise ValueError(f"{names_file}: {what if wanted else 'no names in it'}")
    twice = [name for name, key in zip(wanted, keys, strict=True) if len(location_ids[key]) > 1]
    if twice:
        raise ValueError(f"{names_file}: {_some(twice)} in several class folders; write <class>/<name>")
    return np.unique([location_ids[key][0] for key in keys])


LISTED = 5  # broken files named on the screen


def add_arguments(parser):
    """Arguments that name a folder of images."""
    group = parser.add_argument_group("images")
    group.add_argument("--data-dir", type=Path, required=True, help="folder that holds train/ and val/, or its train/")
    group.add_argument(
        "--no-check", action="store_true",
        help="do not look for broken files first; those met later are replaced by others of their class",
    )  # fmt: skip
    return group


def load_folder(data_dir, device, image_size=None, check=True, train_files=None, share=NO_VAL_SHARE):
    """Data sets of a folder's training and validation images; says what was found.

    Args:
        data_dir: see ``vicreg.data.image_folder.image_folder``. device: of this process.
        image_size: side of the views in pixels, default 224. check: leave broken files out.
        train_files: list of file names; see ``choose_files``. share: set aside for validation where there is no val/.

    Returns:
        two ``ImageDataset``, and the indices of ``train_files`` in the first (None without them).

    Raises:
        FileNotFoundError, ValueError: no usable folder or list, or another one on another process.
    """
    train, val, line = image_folder(data_dir, share)
    chosen = None if train_files is None else choose_files(train, train_files)
    log(line)
    if check:
        train, chosen = _without_broken(train, chosen)
        val, _ = _without_broken(val)
    assert_equal_across_ranks(len(train.paths) + len(val.paths), "images", device)
    side = decode_size(image_size)
    return *(ImageDataset(part.paths, part.labels, part.classes, side=side) for part in (train, val)), chosen


def _without_broken(listing, chosen=None):
    """Leave broken files out of a listing, and out of a choice of its indices (which it renumbers); say which."""
    bar = functools.partial(tqdm, desc="checking files", leave=False, disable=None if is_main() else True)
    broken = find_broken(listing.paths, min(16, 4 * (os.cpu_count() or 1)), bar)
    if not broken:
        return listing, chosen
    lines = [f"  {listing.paths[index]}: {what}" for index, what in list(broken.items())[:LISTED]]
    more = [f"  … and {len(broken) - LISTED} more"] if len(broken) > LISTED else []
    log("\n".join([f"{len(broken)} of {len(listing.paths)} files are broken and left out:", *lines, *more]))
    return listing.without(broken, chosen)
