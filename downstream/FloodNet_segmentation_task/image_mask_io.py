"""Read an image and its mask at one size: the part that the mask covers is cropped, then both are reduced together."""

import math

import numpy as np

from downstream.FloodNet_segmentation_task.floodnet import Pair
from vicreg.data.images import image_size as size_of
from vicreg.data.images import load_mask, load_rgb, open_reader
from vicreg.data.raster_bands import Bands, Levels
from vicreg.data.rasters import widen
from vicreg.data.resampling import resize

Size = tuple[int, int]  # width, height

_GDAL_NODATA = 42113  # TIFF tag
# The challenge's copy has masks of 4000 x 3000 for photographs of 4592 x 3072 too: they cover the top-left corner.
_PHOTOGRAPH, _MASK = (4592, 3072), (4000, 3000)


def read_pair(
    pair: Pair, image_size: int | None = None, scale: float = 1.0, levels: Levels = None, bands: Bands = None
) -> np.ndarray:
    """Read an image and its mask at their working size, both upright.

    The image is reduced with antialiasing, the mask takes the nearest value.

    Args:
        pair: Image and mask files.
        image_size: Long side of the result in pixels; smaller images keep their size.
        scale: Factor in (0, 1] if there is no ``image_size``.
        levels: Values of black and white of images deeper than 8 bits.
        bands: See ``vicreg.data.raster_bands.choose_bands``; None for red, green and blue.

    Returns:
        Array (C + 1, height, width): the channels, and the mask's values; uint8, or uint16 if there are ``bands``.

    Raises:
        ValueError: A file cannot be read, the mask holds values that are not classes, or the shapes do not fit.
    """
    from PIL import Image

    mask = load_mask(pair.mask)
    values = _check_values(np.asarray(mask), pair)
    nodata = str(getattr(mask, "tag_v2", {}).get(_GDAL_NODATA, "")).strip("\0 ")
    if nodata == "255" and (np.asarray(mask) == 255).any():
        raise ValueError(f"{pair.mask} has pixels without data (255); give them a class, or remove the tag")
    size = size_of(pair.image)
    part = _covered_part(size, mask.size, pair)
    scale = working_scale(size, image_size, scale)
    width, height = (max(1, round(side * scale)) for side in part)
    labels = Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)
    if bands is not None:
        with open_reader(pair.image, bands=bands, levels=levels, deep=True) as reader:
            pixels, valid = reader.read(0, 0, reader.height, reader.width)
        channels = resize(pixels * valid, (height, width), (0, 0, *part))
        channels = widen(channels) if channels.dtype == np.uint8 else channels
        return np.concatenate([channels, np.asarray(labels)[None].astype(np.uint16)])
    image = load_rgb(pair.image, min_size=tuple(2 * side * scale for side in size), levels=levels)
    box = (0, 0, part[0] * image.width / size[0], part[1] * image.height / size[1])
    colors = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.concatenate([np.asarray(colors).transpose(2, 0, 1), np.asarray(labels)[None]])


def working_scale(size: Size, image_size: int | None = None, scale: float = 1.0) -> float:
    """Return the factor, at most 1 for ``image_size``, by which an image of (width, height) is reduced."""
    return min(1.0, image_size / max(size)) if image_size else scale


def _covered_part(image_size: Size, mask_size: Size, pair: Pair) -> tuple[float, float]:
    """Return width and height, from the top-left corner, of the part of an image that its mask covers, in pixels."""
    if same_shape(image_size, mask_size):
        return image_size
    if same_shape(image_size, _PHOTOGRAPH) and same_shape(mask_size, _MASK):
        width, height = (side * m / p for side, m, p in zip(image_size, _MASK, _PHOTOGRAPH, strict=True))
        return width, height
    raise ValueError(
        f"{pair.image} is {image_size[0]} x {image_size[1]} pixels and its mask {pair.mask} {mask_size[0]} x "
        f"{mask_size[1]}: not the same part of the ground, and stretching would shift the labels; crop or remove it"
    )


def same_shape(size1: Size, size2: Size) -> bool:
    """Return whether two (width, height) are one rectangle at two resolutions, up to a pixel of rounding."""
    small, large = sorted((size1, size2), key=math.prod)
    lowest = max((s - 1) / side for s, side in zip(small, large, strict=True))
    return lowest <= min((s + 1) / side for s, side in zip(small, large, strict=True))


def _check_values(values: np.ndarray, pair: Pair) -> np.ndarray:
    """Return the class numbers of a mask, uint8 (height, width); masks of two classes may hold 0 and 255."""
    if values.ndim != 2:
        raise ValueError(
            f"{pair.mask} has {values.shape[2]} channels: a color rendering of the mask; the label image is needed, "
            f"with one channel of values 0 to {pair.classes - 1}"
        )
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        raise ValueError(f"{pair.mask} holds fractions; a label image of whole numbers is needed")
    if pair.classes == 2 and values.dtype == np.uint8 and not (values == 1).any():  # beside 1, 255 is no data
        values = np.where(values == 255, np.uint8(1), values)
    highest, lowest = int(values.max()), int(values.min())
    if highest >= pair.classes or lowest < 0:
        wrong = highest if highest >= pair.classes else lowest
        expected = "0 and 1 (or 255)" if pair.classes == 2 else f"0 to {pair.classes - 1}"
        raise ValueError(f"{pair.mask} holds the value {wrong}; {expected} are the classes")
    return values.astype(np.uint8)
