"""Cut crops from image files while they are decoded."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.augmentations.presets import Augmentation
from vicreg.data.image_io import (
    MAX_PIXELS,
    WHOLE,
    check_pixels,
    check_regular,
    decoding,
    exif_orientation,
    open_image,
    sample_crop_box,
)
from vicreg.data.images import as_rgb, is_raster, needs_rasterio, open_upright
from vicreg.data.raster_bands import Bands, Levels
from vicreg.data.rasters import RasterReader
from vicreg.data.resampling import resize

_MIN_REDUCTION = 2  # decode a JPEG at a fraction of its size only if this many pixels remain per pixel of the result
_JPEG, _ORIENTED = b"\xff\xd8", (b"Exif\0\0", b"tiff:Orientation")  # a JPEG's first bytes; signs of an orientation tag
_TRANSPOSE = {  # of an orientation tag
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def read_crops(
    path: str | Path,
    crops: Sequence[tuple[Augmentation, int | Sequence[int]]],
    size: int,
    bands: Bands = None,
    levels: Levels = None,
    deep: bool = False,
    fast: bool = False,
) -> list[np.ndarray]:
    """Decode an image once, as ``open_reader`` does, and cut crops from it; pixels without data are black.

    A JPEG whose crops are all much larger than ``size`` is decoded at a fraction of its size.

    Args:
        path: Image file.
        crops: Pairs (augmentation whose crop is taken, seed); the same seed gives the same box.
        size: Side of the results in pixels.
        bands: See ``open_reader``.
        levels: See ``open_reader``.
        deep: See ``open_reader``.
        fast: Decode JPEGs with simplejpeg and resize with PyTorch, which takes about half the time. Pixels differ by
            rounding, and edges of crops by up to a quarter of a result's pixel where the JPEG is reduced.

    Returns:
        Arrays (C, size, size), resized with PIL's antialiased bicubic filter.

    Raises:
        ImageError: As ``open_reader``.
    """
    with decoding(path):
        if bands is None and not is_raster(path):
            if fast and (results := _crop_jpeg(path, crops, size)):
                return results
            with open_image(path) as image:
                if not needs_rasterio(image):
                    return _crop_image(image, crops, size)
        with open_upright(Path(path), 1.0, bands, levels, deep) as reader:
            results = []
            for view, seed in crops:
                left, top, right, bottom = sample_crop_box(
                    view, reader.height, reader.width, np.random.default_rng(seed)
                )
                pixels, valid = reader.read(top, left, bottom - top, right - left)
                results.append(resize(pixels * valid, (size, size)))
            return results


def _crop_image(opened: Any, crops: Sequence[tuple[Augmentation, int | Sequence[int]]], size: int) -> list[np.ndarray]:
    """Cut crops from a PIL image of 8 bits that is not decoded yet; see ``read_crops``."""
    from PIL import Image

    operation = _TRANSPOSE.get(exif_orientation(opened))
    swaps_axes = operation in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    width, height = opened.size[::-1] if swaps_axes else opened.size
    boxes = [sample_crop_box(view, height, width, np.random.default_rng(seed)) for view, seed in crops]
    smallest = min(min(right - left, bottom - top) for left, top, right, bottom in boxes)
    reduction = smallest / (_MIN_REDUCTION * size)
    if opened.format == "JPEG" and reduction >= 2:
        opened.draft(None, tuple(math.ceil(side / reduction) for side in opened.size))
    image = opened.transpose(Image.Transpose[operation]) if operation else opened
    scale = image.width / width, image.height / height  # 1 unless the JPEG was reduced
    results = []
    for box in boxes:
        # a product may round above the side of the image, and a crop beyond the image is black there
        left, top, right, bottom = (min(edge * scale[n % 2], image.size[n % 2]) for n, edge in enumerate(box))
        x, y = math.floor(left), math.floor(top)
        crop = as_rgb(image.crop((x, y, math.ceil(right), math.ceil(bottom))))
        resized = crop.resize((size, size), Image.Resampling.BICUBIC, box=(left - x, top - y, right - x, bottom - y))
        results.append(np.asarray(resized).transpose(2, 0, 1))
    return results


def _crop_jpeg(
    path: str | Path, crops: Sequence[tuple[Augmentation, int | Sequence[int]]], size: int
) -> list[np.ndarray] | None:
    """Cut the crops of ``_crop_image`` from an upright JPEG faster; None for other files, and without simplejpeg."""
    import torch

    try:
        import simplejpeg
    except ImportError:
        return None
    check_regular(path)
    with open(path, "rb") as file:
        if file.read(2) != _JPEG:
            return None
        content = _JPEG + file.read()
    if any(tag in content for tag in _ORIENTED):
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if color_space not in ("YCbCr", "Gray") or width * height > MAX_PIXELS:
        return None
    boxes = [sample_crop_box(view, height, width, np.random.default_rng(seed)) for view, seed in crops]
    smallest = min(min(right - left, bottom - top) for left, top, right, bottom in boxes)
    sides = (math.ceil(_MIN_REDUCTION * side * size / smallest) for side in (width, height))
    min_width, min_height = (min(side, most) for side, most in zip(sides, (width, height), strict=True))
    try:
        decoded = simplejpeg.decode_jpeg(content, min_height=min_height, min_width=min_width, min_factor=2)
    except ValueError:  # damaged in a way that PIL may accept
        return None
    pixels = torch.from_numpy(decoded).permute(2, 0, 1)[None]
    scale = pixels.shape[-1] / width, pixels.shape[-2] / height
    results = []
    for box in boxes:
        left, top, right, bottom = (round(edge * scale[n % 2]) for n, edge in enumerate(box))
        crop = pixels[..., top : max(bottom, top + 1), left : max(right, left + 1)]
        crop = crop.contiguous(memory_format=torch.channels_last)  # otherwise PyTorch makes it planar, which is slower
        results.append(torch.nn.functional.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0].numpy())
    return results


def read_square(
    path: str | Path, size: int, bands: Bands = None, levels: Levels = None, deep: bool = False
) -> np.ndarray:
    """Read the largest centered square of an image file: uint8 or uint16 (C, size, size); see ``read_crops``."""
    return read_crops(path, [(WHOLE, 0)], size, bands, levels, deep)[0]


def check_image(path: str | Path, bands: Bands = None, levels: Levels = None) -> None:
    """Check that ``read_crops`` can decode an image, JPEG and PNG files completely, others as far as headers show.

    Raises:
        ImageError: As ``open_reader``.
    """
    path = Path(path)
    if bands is None and not is_raster(path):
        with decoding(path), open_image(path) as image:
            if not needs_rasterio(image):
                if image.format in ("JPEG", "PNG"):
                    image.load()
                return
    with RasterReader(path, 1.0, bands, levels) as reader, decoding(path):
        check_pixels(reader.width, reader.height)
