"""A folder of images as training and validation data, alike for pretraining and for evaluation."""

import functools
import os
from pathlib import Path

from tqdm import tqdm

from preprocessing.image_files import ImageFiles, side_for
from preprocessing.image_folder import NO_VAL_SHARE, choose_files, find_broken, image_folder
from vicreg.distributed import is_main, same_everywhere
from vicreg.run_log import say

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
        data_dir: see ``preprocessing.image_folder.image_folder``. device: of this process.
        image_size: side of the views in pixels, default 224. check: leave broken files out.
        train_files: list of file names; see ``choose_files``. share: set aside for validation where there is no val/.

    Returns:
        two ``ImageFiles``, and the indices of ``train_files`` in the first (None without them).

    Raises:
        FileNotFoundError, ValueError: no usable folder or list, or another one on another process.
    """
    train, val, line = image_folder(data_dir, share)
    chosen = None if train_files is None else choose_files(train, train_files)
    say(line)
    if check:
        train, chosen = _without_broken(train, chosen)
        val, _ = _without_broken(val)
    same_everywhere(len(train.paths) + len(val.paths), "images", device)
    side = side_for(image_size)
    return *(ImageFiles(part.paths, part.labels, part.classes, side=side) for part in (train, val)), chosen


def _without_broken(listing, chosen=None):
    """Leave broken files out of a listing, and out of a choice of its indices (which it renumbers); say which."""
    bar = functools.partial(tqdm, desc="checking files", leave=False, disable=None if is_main() else True)
    broken = find_broken(listing.paths, min(16, 4 * (os.cpu_count() or 1)), bar)
    if not broken:
        return listing, chosen
    lines = [f"  {listing.paths[index]}: {what}" for index, what in list(broken.items())[:LISTED]]
    more = [f"  … and {len(broken) - LISTED} more"] if len(broken) > LISTED else []
    say("\n".join([f"{len(broken)} of {len(listing.paths)} files are broken and left out:", *lines, *more]))
    return listing.without(broken, chosen)
