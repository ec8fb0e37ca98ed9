"""Decode image files as 8-bit RGB: one rule for orientation, depth and bands in training and prediction."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.data.image_io import WHOLE, exif_orientation, open_image, read_crops
from vicreg.inference.rasters import TIFF, ImageReader, RasterReader, Scale, open_raster, resize, unreadable


def open_reader(
    path: str | Path,
    scale: Scale = 1.0,
    bands: Sequence[int] | None = None,
    levels: tuple[float, float] | None = None,
) -> ImageReader:
    """Open an image file of any size; TIFFs and files deeper than 8 bits stay on disk, others are decoded upright.

    Values of 8 bits are used as they are. Deeper ones need ``levels``: ``low`` becomes 0, ``high`` 255.

    Args:
        path: Image file.
        scale: Working pixels for each pixel of the file, or a function of its (width, height).
        bands: Red, green and blue band, counted from 1. Default: by the file's color interpretation, else 1, 2, 3; a
            single gray band is repeated.
        levels: (low, high) of deeper files.

    Raises:
        ValueError: The file cannot be read, lacks these bands, or is deeper than 8 bits and ``levels`` is None.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() in TIFF or bands is not None:
        return RasterReader(path, scale, bands, levels)
    with _decoding(path), open_image(path) as image:
        if not is_deep(image):
            image = _upright(image)
            factor = scale(image.size) if callable(scale) else scale
            size = tuple(max(1, round(side * factor)) for side in image.size)
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            valid = None
            if "A" in image.getbands():
                valid = np.asarray(image.getchannel("A").resize(size, Image.Resampling.NEAREST)) > 0
            return ImageReader(pixels, valid, path, image.size)
    return RasterReader(path, scale, bands, levels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of an image file, upright.

    Raises:
        ValueError: The file cannot be read.
    """
    if Path(path).suffix.lower() in TIFF:
        with open_raster(path) as raster:
            return raster.width, raster.height
    with _decoding(path), open_image(path) as image:
        orientation = exif_orientation(image)
        return image.size[::-1] if orientation >= 5 else image.size


def load_rgb(
    path: str | Path, min_size: tuple[float, float] | None = None, levels: tuple[float, float] | None = None
) -> Any:
    """Decode a whole image file as ``open_reader`` does.

    Args:
        path: Image file.
        min_size: (width, height) that suffices: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size if that is larger.
        levels: See ``open_reader``.

    Returns:
        PIL image, upright, RGB.

    Raises:
        ValueError: As ``open_reader``.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in TIFF:
        with _decoding(path), open_image(path) as image:
            if not is_deep(image):
                if min_size and image.format == "JPEG":
                    size = min_size[::-1] if exif_orientation(image) >= 5 else min_size
                    image.draft(None, tuple(math.ceil(side) for side in size))
                return _upright(image).convert("RGB")
    with RasterReader(path, levels=levels) as reader:
        return Image.fromarray(reader.read(0, 0, reader.height, reader.width)[0].transpose(1, 2, 0))


def load_mask(path: str | Path) -> Any:
    """Decode a label image, upright, with its values as they are: a PIL image.

    Raises:
        ValueError: The file cannot be read.
    """
    with _decoding(path), open_image(path) as image:
        image.load()
        return _transpose(image)


def read_square(
    path: str | Path,
    size: int,
    bands: Sequence[int] | None = None,
    levels: tuple[float, float] | None = None,
) -> np.ndarray:
    """Read the largest centered square of an image file, resized with antialiasing.

    Args:
        path: Image file.
        size: Side of the result in pixels.
        bands: See ``open_reader``.
        levels: See ``open_reader``.

    Returns:
        uint8 array (3, size, size).

    Raises:
        ValueError: As ``open_reader``.
    """
    path = Path(path)
    if path.suffix.lower() not in TIFF and bands is None:
        with _decoding(path):
            with open_image(path) as image:
                deep = is_deep(image)
            if not deep:
                return read_crops(path, [(WHOLE, 0)], size)[0]
    with RasterReader(path, 1.0, bands, levels) as reader:
        side = min(reader.height, reader.width)
        top, left = (reader.height - side) // 2, (reader.width - side) // 2
        return resize(reader.read(top, left, side, side)[0], (size, size))


def is_deep(image: Any) -> bool:
    """Return whether a PIL image that is not yet decoded holds more than 8 bits for each value."""
    return image.mode[0] in "IF" or any("16" in str(tile[3]) for tile in image.tile)


@contextmanager
def _decoding(path: str | Path) -> Iterator[None]:
    """Turn what PIL's decoders raise into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # every decoder of PIL has its own
        raise unreadable(path, error) from error


def _upright(image: Any) -> Any:
    """Apply EXIF's orientation and a palette's transparency."""
    image = _transpose(image)
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def _transpose(image: Any) -> Any:
    from PIL import ImageOps

    return image if exif_orientation(image) == 1 else ImageOps.exif_transpose(image)
