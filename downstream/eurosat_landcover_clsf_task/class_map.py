"""A map of classes from a large raster: a window slides over it, and only a band of rows is in memory."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from vicreg.common import files
from vicreg.common.plots import class_colors, save_class_map
from vicreg.inference.rasters import RGB, _open, coarser
from vicreg.inference.sliding_window import cell_window_starts

NODATA = 255
_PICTURE = 1500  # pixels of the picture's longer side


class Sliding(NamedTuple):
    """How a raster is read: side of the windows and distance between them in pixels, the three bands (from 1), and the
    values (low, high) that become 0 and 255; None for 8-bit rasters."""

    window: int
    stride: int
    bands: tuple = RGB
    levels: tuple | None = None


def read_square(path, sliding, side):
    """The largest square in the middle of a raster: uint8 (3, side, side).

    Args:
        path: of the raster. sliding: ``Sliding``, of which bands and levels are taken. side: of the result in pixels.

    Raises:
        ValueError: the raster cannot be read or does not fit ``sliding``.
    """
    from rasterio.windows import Window

    def read(raster):
        whole = min(raster.shape)
        _check(raster, path, sliding._replace(window=whole))
        place = Window((raster.width - whole) // 2, (raster.height - whole) // 2, whole, whole)
        return resized(_levelled(raster.read(list(sliding.bands), window=place), sliding)[None], side)[0]

    return _open(path, read)


def resized(windows, side):
    """Windows as the network saw its images: uint8 (n, 3, S, S) -> (n, 3, side, side), antialiased like those."""
    if windows.shape[-1] == side:
        return windows
    pictures = (Image.fromarray(window.transpose(1, 2, 0)) for window in windows)
    return np.stack([np.asarray(p.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1) for p in pictures])


def write_map(path, out, sliding, classify, classes, batch_size, progress=lambda rows: rows):
    """Classify every window of a raster; write ``<out>.tif`` and ``<out>.png``.

    The TIFF has one uint8 band of class numbers, a pixel for each cell, with the raster's CRS, its transform scaled to
    the stride, a color table and nodata 255 (windows of which less than half is data).

    Args:
        path: of the raster. out: Path without suffix. sliding: ``Sliding``.
        classify: function (uint8 (n, 3, window, window)) -> int (n,). classes: names. batch_size: windows at a time.
        progress: wraps the iterator over rows of cells.

    Returns:
        dict: class name -> share of the cells that have a class.

    Raises:
        ValueError: the raster cannot be read or does not fit ``sliding``.
    """
    return _open(path, lambda raster: _write(raster, path, out, sliding, classify, classes, batch_size, progress))


def _check(raster, path, sliding):
    if max(sliding.bands) > raster.count:
        raise ValueError(f"{path} has {raster.count} band(s), --bands asks for {' '.join(map(str, sliding.bands))}")
    if min(raster.width, raster.height) < sliding.window:
        raise ValueError(
            f"{path} is {raster.width} x {raster.height} pixels, less than one window of {sliding.window}; "
            "choose a smaller --window"
        )
    if raster.dtypes[sliding.bands[0] - 1] != "uint8" and sliding.levels is None:
        raise ValueError(
            f"{path} holds {raster.dtypes[sliding.bands[0] - 1]}, not 8-bit colors; say with --levels LOW HIGH which "
            "values are black and white (Sentinel-2 reflectances: --levels 0 2750)"
        )


def _write(raster, path, out, sliding, classify, classes, batch_size, progress):
    import rasterio

    _check(raster, path, sliding)
    tops, lefts = (cell_window_starts(length, *sliding[:2]) for length in raster.shape)
    colors = class_colors(len(classes))
    profile = {"driver": "GTiff", "width": len(lefts), "height": len(tops), "count": 1, "dtype": "uint8"}
    profile |= {"crs": raster.crs, "nodata": NODATA, "compress": "deflate"}
    if not raster.transform.is_identity:  # the identity is what a raster without a georeference has
        profile["transform"] = coarser(raster.transform, sliding.stride, sliding.stride)
    counts = np.zeros(256, np.int64)

    def save(beside):
        nonlocal counts
        with rasterio.open(beside, "w", **profile) as written:
            table = {code: tuple(int(255 * part) for part in color[:3]) for code, color in enumerate(colors)}
            written.write_colormap(1, table)
            written.update_tags(CLASSES=",".join(classes))
            for row, top in enumerate(progress(tops)):
                codes = _row(raster, int(top), lefts, sliding, classify, batch_size)
                counts += np.bincount(codes, minlength=256)
                written.write(codes[None, None], window=rasterio.windows.Window(0, row, len(lefts), 1))

    files.atomic_write(out.with_name(f"{out.name}.tif"), save)
    _draw(out, classes, colors, path)
    found = max(1, counts[:NODATA].sum())
    return {name: float(counts[code] / found) for code, name in enumerate(classes)}


def _row(raster, top, lefts, sliding, classify, batch_size):
    """Classes (uint8) of one row of cells."""
    from rasterio.windows import Window

    side, place = sliding.window, Window(0, top, raster.width, sliding.window)
    band = _levelled(raster.read(list(sliding.bands), window=place), sliding)
    columns = (raster.dataset_mask(window=place) > 0).sum(0).cumsum()  # of data, up to each column
    data = columns[lefts + side - 1] - np.where(lefts > 0, columns[lefts - 1], 0)
    codes = np.full(len(lefts), NODATA, np.uint8)
    there = np.flatnonzero(2 * data >= side**2)
    for cells in np.array_split(there, max(1, math.ceil(len(there) / batch_size))):
        if len(cells):
            codes[cells] = classify(np.stack([band[:, :, left : left + side] for left in lefts[cells]]))
    return codes


def _levelled(pixels, sliding):
    """Values of a raster as uint8, from black to white where ``sliding`` has levels."""
    if not sliding.levels:
        return pixels
    low, high = sliding.levels
    return ((pixels.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).round().astype(np.uint8)


def _draw(out, classes, colors, path):
    def read(raster):
        shrink = max(1.0, max(raster.shape) / _PICTURE)
        return raster.read(1, out_shape=tuple(max(1, round(side / shrink)) for side in raster.shape))

    codes = _open(out.with_name(f"{out.name}.tif"), read)
    save_class_map(out.with_name(f"{out.name}.png"), codes, classes, colors, path.name)
