"""Map the classes of a raster larger than the training images: one class for each cell of a grid."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vicreg.common.files import printable
from vicreg.common.plots import class_colors, save_class_map
from vicreg.data.images import image_size
from vicreg.data.rasters import NO_DATA, TIFF, ImageReader, preview_shape
from vicreg.inference.label_rasters import Block, read_labels, write_label_raster
from vicreg.inference.sliding_window import cell_window_starts, classify_cells


def is_map(path: Path, window: int) -> bool:
    """Return whether a file is a TIFF in which a window fits, and at least twice along one side."""
    if path.suffix.lower() not in TIFF:
        return False
    try:
        width, height = image_size(path)
    except ValueError:
        return False
    return min(width, height) >= window and max(width, height) >= 2 * window


def map_files(out_dir: Path, image: Path) -> tuple[Path, Path]:
    """Return the files that ``write_class_map`` writes for an image: a GeoTIFF and a PNG."""
    return out_dir / f"{image.stem}_classes.tif", out_dir / f"{image.stem}_classes.png"


def write_class_map(
    out_dir: Path,
    reader: ImageReader,
    classify: Callable[[np.ndarray], np.ndarray],
    classes: Sequence[str],
    window: int,
    stride: int,
    batch_size: int,
) -> dict[str, float]:
    """Classify the window around each cell of a raster and write the map as a GeoTIFF and as a PNG with a legend.

    Args:
        out_dir: Folder of the two files, see ``map_files``.
        reader: Raster.
        classify: Function of arrays (n, C, window, window) -> class numbers (n,).
        classes: Class names.
        window: Side of the windows in pixels.
        stride: Side of the cells in pixels, a pixel of the map.
        batch_size: Windows in a batch.

    Returns:
        Fraction of the cells with data for each class.

    Raises:
        ValueError: The raster cannot be read or is smaller than a window.
    """
    shape = tuple(len(cell_window_starts(length, window, stride)) for length in (reader.height, reader.width))
    counts = np.zeros(256, np.int64)

    def blocks() -> Iterator[Block]:
        batches = shape[0] * math.ceil(shape[1] / batch_size)
        cells = classify_cells(reader, classify, window, stride, batch_size)
        for row, column, labels in tqdm(cells, printable(reader.path.name, ""), batches, leave=False, disable=None):
            counts[:] += np.bincount(labels[0], minlength=256)
            yield row, column, labels

    raster_path, figure_path = map_files(out_dir, reader.path)
    colors = class_colors(len(classes))
    palette = (255 * np.asarray(colors)[:, :3]).astype(np.uint8)
    write_label_raster(raster_path, reader, blocks(), shape, (stride, stride), classes, palette)
    save_class_map(figure_path, read_labels(raster_path, preview_shape(shape)), classes, colors, reader.path.name)
    total = max(1, counts[:NO_DATA].sum())
    return {name: float(counts[code] / total) for code, name in enumerate(classes)}
