"""One image file: sampling a crop box, and decoding crops upright, in RGB, and no larger than needed."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vicreg.augmentations.presets import Augmentation
from vicreg.augmentations.random_crop import MAX_TRIES, log_aspect_range, resized_crop_size, square_crop_side

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2",
)  # fmt: skip
WHOLE = Augmentation(crop="center", fraction=1.0)  # the largest square in the center
_MIN_REDUCTION = 2  # decode a JPEG at a fraction of its size only if this many pixels remain per pixel of the result
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, the others need one of these operations
_TRANSPOSE = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def is_image_name(name: str) -> bool:
    """Return whether a file name has one of ``IMAGE_SUFFIXES``, in any case, and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def sample_crop_box(view: Augmentation, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Sample the crop box of one image.

    Args:
        view: Augmentation whose crop is taken.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        rng: Generator; not used for "center".

    Returns:
        (left, top, right, bottom) in whole pixels, inside the image.
    """
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


def open_image(path: str | Path) -> Image:
    """Open an image file of any size with PIL, without decoding it.

    PIL's limit of the number of pixels guards against uploads of strangers and is removed.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image.open(path)


def error_reason(error: BaseException, path: str | Path) -> str:
    """Return the message of a decoder's error, without the path that some of them repeat."""
    message = " ".join(str(error).replace(repr(str(path)), "").split())
    return message or type(error).__name__


def read_crops(
    path: str | Path, crops: Sequence[tuple[Augmentation, int | Sequence[int]]], size: int
) -> list[np.ndarray]:
    """Decode an image once and cut crops from it.

    EXIF rotations are undone first. Grayscale, CMYK, palette and 16-bit images become 8-bit RGB; alpha is dropped. A
    JPEG whose crops are all much larger than ``size`` is decoded at 1/2, 1/4 or 1/8 of its size.

    Args:
        path: Path of the file.
        crops: Pairs (augmentation whose crop is taken, seed); the same seed gives the same box.
        size: Side of the results in pixels.

    Returns:
        uint8 arrays (3, size, size), resized with PIL's antialiased bicubic filter.

    Raises:
        Exception: The file cannot be read; PIL's decoders raise OSError, SyntaxError, ValueError and others.
    """
    from PIL import Image

    with open_image(path) as opened:
        operation = _TRANSPOSE.get(exif_orientation(opened))
        swaps_axes = operation in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
        width, height = opened.size[::-1] if swaps_axes else opened.size
        boxes = [sample_crop_box(view, height, width, np.random.default_rng(seed)) for view, seed in crops]
        smallest = min(min(right - left, bottom - top) for left, top, right, bottom in boxes)
        reduction = smallest / (_MIN_REDUCTION * size)
        if opened.format == "JPEG" and reduction >= 2:
            reduced_width, reduced_height = (math.ceil(side / reduction) for side in opened.size)
            opened.draft(None, (reduced_width, reduced_height))
        image: Image.Image = opened.transpose(Image.Transpose[operation]) if operation else opened
        scale = image.width / width, image.height / height  # 1 unless the JPEG was reduced
        results = []
        for box in boxes:
            left, top, right, bottom = (edge * scale[n % 2] for n, edge in enumerate(box))
            x, y = math.floor(left), math.floor(top)
            crop = _as_rgb(image.crop((x, y, math.ceil(right), math.ceil(bottom))))
            inside = left - x, top - y, min(right - x, crop.width), min(bottom - y, crop.height)
            resized = crop.resize((size, size), Image.Resampling.BICUBIC, box=inside)
            results.append(np.asarray(resized).transpose(2, 0, 1))
        return results


def exif_orientation(image: Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (upright) also if the EXIF block, but not the image, is broken."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return 1


def _as_rgb(image: Image) -> Image:
    if image.mode.startswith("I"):  # 16 bits: PIL would clip to 255, not take the upper byte
        from PIL import Image

        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
