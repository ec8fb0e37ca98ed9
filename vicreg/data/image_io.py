"""One image file: its name, its header, errors, and the sampling of crop boxes."""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vicreg.augmentations.presets import Augmentation
from vicreg.augmentations.random_crop import MAX_TRIES, log_aspect_range, resized_crop_size, square_crop_side
from vicreg.common.files import printable

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2",
)  # fmt: skip
WHOLE = Augmentation(crop="center", fraction=1.0)  # the largest square in the center
MAX_PIXELS = 2**28  # 0.8 GB; a blank PNG of 200 kB can hold ten times as many
_ORIENTATION = 0x0112  # EXIF and TIFF tag


def is_image_name(name: str) -> bool:
    """Return whether a file name has one of ``IMAGE_SUFFIXES``, in any case, and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def sample_crop_box(view: Augmentation, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Sample the crop box of one image: (left, top, right, bottom) in whole pixels, inside the image."""
    if view.crop == "resized":
        low, high = log_aspect_range(view)
        tries = ((rng.uniform(*view.scale), math.exp(rng.uniform(low, high))) for _ in range(MAX_TRIES))
        h, w, centered = (int(value) for value in resized_crop_size(view, height, width, tries))
    else:
        h = w = square_crop_side(view, height, width)
        centered = view.crop == "center"
    if centered:
        top, left = (height - h) // 2, (width - w) // 2
    else:
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return left, top, left + w, top + h


class ImageError(ValueError):
    """An image file that cannot be used; the message names it.

    Raised again from a loader process, it keeps its message on one line.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class UnsupportedImage(ImageError):
    """An image file that needs an option of the user, such as ``--levels``; no other image may replace it."""


@contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Turn what decoders raise into an ImageError that names the file."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        message = "not enough memory to decode it; it is very large or damaged, or the memory is full"
        raise UnsupportedImage(f"{printable(path, '')}: {message}") from error
    except Exception as error:  # every decoder has its own
        raise ImageError(f"{printable(path, '')} cannot be read ({error_reason(error, path)})") from error


def check_regular(path: str | Path) -> None:
    """Refuse what is not a file: opening a named pipe would wait, and GDAL takes addresses for paths.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, pipe, socket or device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")


def check_pixels(width: int, height: int) -> None:
    """Refuse to decode more pixels at once than ``MAX_PIXELS``.

    Raises:
        ValueError: There are more.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels, and at most {MAX_PIXELS / 1e6:.0f} million are decoded at once; reduce it, or "
            "for predictions convert it to a tiled GeoTIFF"
        )


def open_image(path: str | Path) -> Image:
    """Open an image file with PIL, without decoding it.

    PIL's limit of the number of pixels, which is lower than the size of common mosaics, is replaced by ``MAX_PIXELS``.

    Raises:
        Exception: The file cannot be read; PIL's decoders raise OSError, SyntaxError, ValueError and others.
    """
    from PIL import Image

    check_regular(path)
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(path)
    check_pixels(*image.size)
    return image


def error_reason(error: Exception, path: str | Path) -> str:
    """Return the message of a decoder's error on one line, without the path that some of them repeat."""
    if isinstance(error, ImageError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    message = " ".join(str(error).replace(repr(str(path)), "").replace(f"{path} ", "").split())
    return printable(message, "") or type(error).__name__


def exif_orientation(image: Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (upright) also if the EXIF block, but not the image, is broken."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return 1


def tiff_orientation(path: str | Path) -> int:
    """Return the orientation tag of a TIFF, 1 to 8; also of layouts that PIL does not decode."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with open(path, "rb") as file:
        header = file.read(16)
        try:
            directory = ImageFileDirectory_v2(header if header[2:3] == b"+" else header[:8])  # "+": BigTIFF
            file.seek(directory.next)
            directory.load(file)
            return int(directory.get(_ORIENTATION, 1))
        except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
            return 1
