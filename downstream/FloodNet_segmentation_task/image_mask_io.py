"""An image and its mask as pixels of one size: what the mask covers is cut out, then both are reduced together."""

import math

import numpy as np

from vicreg.data.image_io import error_reason, open_image

# The challenge's copy has masks of 4000 x 3000 for photographs of 4592 x 3072 too: they cover the top-left corner.
_PHOTOGRAPH, _MASK = (4592, 3072), (4000, 3000)


def read_pair(pair, image_size=None, scale=1.0):
    """Read a pair at its working size: ``scale`` of the image, or as much as brings its long side to ``image_size``.

    The image is reduced with antialiasing, the mask takes the nearest value.

    Args:
        pair: ``data.Pair``. image_size: pixels; images that are smaller stay as they are. scale: in (0, 1].

    Returns:
        uint8 array (4, height, width): red, green, blue, and the mask's values.

    Raises:
        ValueError: a file cannot be read, the mask holds values that are none, or the two are of different shapes.
    """
    from PIL import Image

    try:
        with open_image(pair.mask) as mask:
            mask.load()
    except MemoryError:
        raise
    except Exception as error:  # every decoder of PIL has its own
        raise _unreadable(pair.mask, error) from error
    values = check_values(np.asarray(mask), pair)
    try:
        with open_image(pair.image) as image:
            size = image.size
            part = covered_part(size, mask.size, pair)
            scale = working_scale(size, image_size, scale)
            width, height = (max(1, round(side * scale)) for side in part)
            if image.format == "JPEG":  # decodes at 1/2, 1/4 or 1/8, and twice as large as needed at least
                image.draft(None, tuple(math.ceil(2 * side * scale) for side in size))
            box = (0, 0, part[0] * image.size[0] / size[0], part[1] * image.size[1] / size[1])
            colors = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=box)
    except (MemoryError, ShapeError):
        raise
    except Exception as error:
        raise _unreadable(pair.image, error) from error
    labels = Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)
    return np.concatenate([np.asarray(colors).transpose(2, 0, 1), np.asarray(labels)[None]])


class ShapeError(ValueError):
    """A mask that cannot lie on its image."""


def working_scale(size, image_size=None, scale=1.0):
    """By how much an image of (width, height) is reduced; at most 1."""
    return min(1.0, image_size / max(size)) if image_size else scale


def covered_part(image_size, mask_size, pair):
    """Width and height, from the top-left corner, of the part of an image that its mask covers, in pixels.

    Args:
        image_size, mask_size: (width, height). pair: to be named.

    Raises:
        ShapeError: they are of different shapes by more than rounding, and it is not the known case.
    """
    if same_shape(image_size, mask_size):
        return image_size
    if same_shape(image_size, _PHOTOGRAPH) and same_shape(mask_size, _MASK):
        return tuple(side * m / p for side, m, p in zip(image_size, _MASK, _PHOTOGRAPH, strict=True))
    raise ShapeError(
        f"{pair.image} is {image_size[0]} x {image_size[1]} pixels and its mask {pair.mask} {mask_size[0]} x "
        f"{mask_size[1]}: not the same part of the ground, and stretching would shift the labels; cut or remove it"
    )


def same_shape(one, other):
    """Whether two (width, height) are one rectangle at two resolutions, but for a pixel of rounding."""
    small, large = sorted((one, other), key=math.prod)
    lowest = max((s - 1) / side for s, side in zip(small, large, strict=True))
    return lowest <= min((s + 1) / side for s, side in zip(small, large, strict=True))


def check_values(values, pair):
    """A mask's pixels, 0 to ``pair.classes - 1``; masks of two values may be 0 and 255.

    Args:
        values: array (height, width). pair: whose mask it is.

    Returns:
        uint8 array (height, width).

    Raises:
        ValueError: several channels, or a value that is no class; names the file and the value.
    """
    if values.ndim != 2:
        raise ValueError(
            f"{pair.mask} has {values.shape[2]} channels: a picture of the mask; the label image is needed, with one "
            f"channel of values 0 to {pair.classes - 1}"
        )
    if pair.classes == 2 and values.dtype == np.uint8:
        values = np.where(values == 255, np.uint8(1), values)
    highest, lowest = int(values.max()), int(values.min())
    if highest >= pair.classes or lowest < 0:
        wrong = highest if highest >= pair.classes else lowest
        expected = "0 and 1 (or 255)" if pair.classes == 2 else f"0 to {pair.classes - 1}"
        raise ValueError(f"{pair.mask} holds the value {wrong}; {expected} are the classes")
    return values.astype(np.uint8)


def _unreadable(path, error):
    return ValueError(
        f"{path} cannot be read ({error_reason(error, path)}); fetch it again, or remove it with its other half"
    )
