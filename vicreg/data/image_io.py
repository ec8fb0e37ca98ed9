"""One image file: where a crop lies in it, and reading it, upright and in RGB, no larger than needed."""

import math
import struct

import numpy as np

from vicreg.augmentations.presets import Augmentation
from vicreg.augmentations.random_crop import MAX_TRIES, log_aspect_range, resized_crop_size, square_crop_side

_GAP = 2  # a JPEG is decoded at a fraction of its size only where this many pixels remain for each one asked for
_ORIENTATION = 0x0112  # EXIF: 1 is upright; the others need one of these
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


WHOLE = Augmentation(crop="center", fraction=1.0)  # the largest square in the middle


def sample_crop_box(view, height, width, random):
    """Sample the crop box of one image.

    Args:
        view: Augmentation whose crop is taken.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        random: Generator; not used for "center".

    Returns:
        (left, top, right, bottom) in whole pixels, inside the image.
    """
    if view.crop == "resized":
        low, high = log_aspect_range(view)
        tries = ((random.uniform(*view.scale), math.exp(random.uniform(low, high))) for _ in range(MAX_TRIES))
        h, w, centered = (int(value) for value in resized_crop_size(view, height, width, tries))
    else:
        h = w = square_crop_side(view, height, width)
        centered = view.crop == "center"
    if centered:
        top, left = (height - h) // 2, (width - w) // 2
    else:
        top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
    return left, top, left + w, top + h


def open_image(path):
    """PIL's lazy image of a file, however large: PIL's limit is for what strangers upload."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image.open(path)


def error_reason(error, path):
    """What a decoder complains of, without the path that some of them repeat."""
    words = str(error).replace(repr(str(path)), "").split()
    return " ".join(words) or type(error).__name__


def read_crops(path, crops, size):
    """Decode an image once and cut crops from it.

    EXIF rotations are undone first. Grayscale, CMYK, palette and 16-bit images become 8-bit RGB; alpha is left behind.
    A JPEG whose crops are all much larger than asked for is decoded at 1/2, 1/4 or 1/8 of its size.

    Args:
        path: of the file. crops: list of (``Augmentation``, seed); the same seed gives the same box.
        size: side of the results.

    Returns:
        list of uint8 arrays (3, size, size), resized as PIL's antialiased bicubic does.

    Raises:
        Exception: the file cannot be read; PIL's decoders raise OSError, SyntaxError, ValueError and others.
    """
    from PIL import Image

    with open_image(path) as image:
        turn = _TURNS.get(_orientation(image))
        lies = turn in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
        width, height = image.size[::-1] if lies else image.size
        boxes = [sample_crop_box(crop, height, width, np.random.default_rng(seed)) for crop, seed in crops]
        reduce = min(min(right - left, bottom - top) for left, top, right, bottom in boxes) / (_GAP * size)
        if image.format == "JPEG" and reduce >= 2:
            image.draft(None, tuple(math.ceil(side / reduce) for side in image.size))
        image = image.transpose(Image.Transpose[turn]) if turn else image
        scale = image.width / width, image.height / height  # 1 unless the JPEG was reduced
        found = []
        for box in boxes:
            left, top, right, bottom = (edge * scale[n % 2] for n, edge in enumerate(box))
            x, y = math.floor(left), math.floor(top)
            part = _as_rgb(image.crop((x, y, math.ceil(right), math.ceil(bottom))))
            inside = left - x, top - y, min(right - x, part.width), min(bottom - y, part.height)
            part = part.resize((size, size), Image.Resampling.BICUBIC, box=inside)
            found.append(np.asarray(part).transpose(2, 0, 1))
        return found


def _orientation(image):
    """EXIF's orientation; None where there is none, or where the EXIF block (but not the image) is broken."""
    try:
        return image.getexif().get(_ORIENTATION)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return None


def _as_rgb(image):
    if image.mode.startswith("I"):  # 16 bits: PIL would clip to 255 where we want the upper byte
        from PIL import Image

        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
