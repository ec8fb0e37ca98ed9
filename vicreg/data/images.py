"""Decode image files: one rule for orientation, depth and bands in training and prediction."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.data.image_io import decoding, exif_orientation, open_image, tiff_orientation
from vicreg.data.raster_bands import Bands, Levels
from vicreg.data.rasters import TIFF, ImageReader, RasterReader, Scale, open_raster


def open_reader(
    path: str | Path,
    scale: Scale = 1.0,
    bands: Bands = None,
    levels: Levels = None,
    deep: bool = False,
) -> ImageReader:
    """Open an image file of any size; TIFFs and files deeper than 8 bits stay on disk, others are decoded.

    Values of 8 bits are used as they are. Deeper ones need ``levels``: ``low`` becomes 0, ``high`` 255. The orientation
    tag of a TIFF counts if it has no georeference, which refers to the pixels as they are stored.

    Args:
        path: Image file.
        scale: Working pixels for each pixel of the file, or a function of its (width, height).
        bands: See ``raster_bands.choose_bands``. Default: red, green and blue; a single gray band is repeated.
        levels: (low, high) of deeper files, or a pair for each band.
        deep: Return deeper files as uint16, ``high`` as 65535, instead of uint8.

    Raises:
        ImageError: The file cannot be read; UnsupportedImage if it lacks these bands, or is deeper than 8 bits and
            ``levels`` is None.
    """
    from PIL import Image

    path = Path(path)
    if is_raster(path) or bands is not None:
        return open_upright(path, scale, bands, levels, deep)
    with decoding(path), open_image(path) as image:
        if not needs_rasterio(image):
            image = _transpose(image)
            if "transparency" in image.info:  # of a palette or of a color
                image = image.convert("RGBA")
            factor = scale(image.size) if callable(scale) else scale
            size = tuple(max(1, round(side * factor)) for side in image.size)
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            valid = None
            if "A" in image.getbands():
                valid = np.asarray(image.getchannel("A").resize(size, Image.Resampling.NEAREST)) > 0
            return ImageReader(pixels, valid, path, image.size)
    return open_upright(path, scale, bands, levels, deep)


def open_upright(path: Path, scale: Scale, bands: Bands, levels: Levels, deep: bool = False) -> ImageReader:
    """Open a file with rasterio; if it has to be turned upright, hold it in memory. See ``open_reader``."""
    reader = RasterReader(path, scale, bands, levels, deep)
    if reader.transform is not None or reader.gcps is not None or (orientation := _orientation(path)) == 1:
        return reader
    reader.close()
    with RasterReader(path, 1.0, bands, levels, deep) as stored:
        pixels, valid = (_turn(part, orientation) for part in stored.read(0, 0, stored.height, stored.width))
    height, width = valid.shape
    factor = scale((width, height)) if callable(scale) else scale
    whole = ImageReader(pixels, valid, path)
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    return ImageReader(*whole.read(0, 0, height, width, shape), path, (width, height))


def _orientation(path: Path) -> int:
    if path.suffix.lower() in TIFF:
        return tiff_orientation(path)
    with decoding(path), open_image(path) as image:
        return exif_orientation(image)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (..., H, W) upright."""
    if orientation in (5, 7):
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 4):
        return np.flip(pixels, -1 if orientation == 2 else -2)
    return np.rot90(pixels, {3: 2, 6: 3, 7: 2, 8: 1}.get(orientation, 0), (-2, -1))


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of an image file, upright.

    Raises:
        ValueError: The file cannot be read.
    """
    path = Path(path)
    if is_raster(path):
        with open_raster(path) as raster:
            stored = not raster.transform.is_identity or all(raster.gcps) or _orientation(path) < 5
            return (raster.width, raster.height) if stored else (raster.height, raster.width)
    with decoding(path), open_image(path) as image:
        return image.size[::-1] if exif_orientation(image) >= 5 else image.size


def load_rgb(path: str | Path, min_size: tuple[float, float] | None = None, levels: Levels = None) -> Any:
    """Decode a whole image file as ``open_reader`` does; pixels without data are black.

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
    if not is_raster(path):
        with decoding(path), open_image(path) as image:
            if not needs_rasterio(image):
                if min_size and image.format == "JPEG":
                    size = min_size[::-1] if exif_orientation(image) >= 5 else min_size
                    image.draft(None, tuple(math.ceil(side) for side in size))
                upright = _transpose(image)
                upright.load()
                return as_rgb(upright)
    with open_upright(path, 1.0, None, levels) as reader:
        pixels, valid = reader.read(0, 0, reader.height, reader.width)
        return Image.fromarray((pixels * valid).transpose(1, 2, 0))


def load_mask(path: str | Path) -> Any:
    """Decode a label image, upright, with its values as they are: a PIL image.

    Raises:
        ValueError: The file cannot be read.
    """
    with decoding(path), open_image(path) as image:
        image.load()
        return _transpose(image)


def is_raster(path: str | Path) -> bool:
    """Return whether a file is read with rasterio, by its suffix."""
    return str(path)[-5:].lower().endswith((*TIFF, ".jp2"))


def needs_rasterio(image: Any) -> bool:
    """Return whether PIL would cut values to 8 bits, or not know the colors of the bands; before decoding."""
    if image.format == "JPEG":
        return False
    if image.mode[0] in "IF" or image.format in ("TIFF", "JPEG2000"):
        return True
    details = [tile[3] for tile in image.tile]
    if image.format == "PPM":  # the mode and the highest value; only the mode where that is 255
        last = [detail[-1] if isinstance(detail, tuple) else detail for detail in details]
        return any(isinstance(value, int) and value > 255 for value in last)
    return any("16" in str(detail) for detail in details)


def _transpose(image: Any) -> Any:
    from PIL import ImageOps

    return image if exif_orientation(image) == 1 else ImageOps.exif_transpose(image)


def as_rgb(image: Any) -> Any:
    """Convert a decoded PIL image of 8 bits to RGB; transparent pixels become black."""
    from PIL import Image

    if "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGB":
        return image
    if "A" not in image.getbands():
        return image.convert("RGB")
    opaque = image.getchannel("A").point([0] + [255] * 255)
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size), opaque)


def check_levels(levels: Levels) -> None:
    """Raise ValueError unless ``levels`` is None or pairs of finite numbers in ascending order."""
    for low, high in np.reshape(levels or (), (-1, 2)).tolist():
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"--levels {low:g} {high:g}: the second must be larger")


def add_levels_argument(group: argparse._ActionsContainer, default: str) -> None:
    """Add ``--levels``; ``default`` tells in the help text what holds without the option."""
    group.add_argument(
        "--levels", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help=f"values of black and white of files deeper than 8 bits, such as 0 2750 for Sentinel-2 ({default})",
    )  # fmt: skip
