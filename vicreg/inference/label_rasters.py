"""Write class numbers as GeoTIFFs on the grid of their source, or as palette PNGs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.common import files
from vicreg.data.image_io import decoding
from vicreg.data.rasters import NO_DATA, ImageReader, coarser, open_raster, quiet_georeference

Block = tuple[int, int, np.ndarray]  # top, left, labels


def write_label_raster(
    path: str | Path,
    reader: ImageReader,
    blocks: Iterable[Block],
    shape: tuple[int, int],
    step: tuple[float, float],
    classes: Sequence[str],
    palette: np.ndarray,
) -> None:
    """Write labels as a one-band GeoTIFF with a color table, class names and nodata ``NO_DATA``.

    The georeference of the source is scaled: its geotransform, or its ground control points. A source without either
    gives a raster without a CRS. The file appears when all blocks are written.

    Args:
        path: File to write.
        reader: Source of the labels.
        blocks: (top, left, labels) with uint8 labels (rows, columns) that tile the raster.
        shape: (rows, columns) of the raster.
        step: Pixels of the source file for each (row, column) of the raster.
        classes: Class names.
        palette: uint8 array (classes, 3).
    """
    import rasterio
    from rasterio.control import GroundControlPoint as Gcp
    from rasterio.windows import Window

    down, across = step
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    profile |= {"nodata": NO_DATA, "compress": "deflate", "bigtiff": "if_safer"}
    if min(shape) >= 256:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if reader.transform is not None:
        profile |= {"crs": reader.crs, "transform": coarser(reader.transform, across, down)}
    elif reader.gcps is not None:
        points, crs = reader.gcps
        profile |= {"crs": crs, "gcps": [Gcp(p.row / down, p.col / across, p.x, p.y, p.z) for p in points]}

    def save(tmp_path: Path) -> None:
        with quiet_georeference(), rasterio.open(tmp_path, "w", **profile) as out:
            out.write_colormap(1, {number: (*map(int, color), 255) for number, color in enumerate(palette)})
            out.update_tags(CLASSES=",".join(classes))
            out.update_tags(1, **{f"class_{number}": name for number, name in enumerate(classes)})
            for top, left, labels in blocks:
                out.write(labels, 1, window=Window(left, top, labels.shape[1], labels.shape[0]))

    files.atomic_write(path, save)


def write_label_png(path: str | Path, reader: ImageReader, blocks: Iterable[Block], palette: np.ndarray) -> None:
    """Write labels as a palette PNG of the size of the source file; ``NO_DATA`` is transparent.

    Args:
        path: File to write.
        reader: Source of the labels.
        blocks: (top, left, labels) with uint8 labels (rows, columns) that tile the source at its working size.
        palette: uint8 array (classes, 3).
    """
    from PIL import Image

    labels = np.full((reader.height, reader.width), NO_DATA, np.uint8)
    for top, left, block in blocks:
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
    image = Image.fromarray(labels).resize(reader.source_size, Image.Resampling.NEAREST)
    has_gaps = bool((labels == NO_DATA).any())
    image.putpalette(palette.tobytes().ljust(3 * 256 if has_gaps else 0, b"\0"))  # short palettes are stored in 4 bits
    options: dict[str, Any] = {"transparency": NO_DATA} if has_gaps else {}
    files.atomic_write(path, lambda tmp_path: image.save(tmp_path, **options))


def read_labels(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Read a file of ``write_label_raster`` or ``write_label_png`` at a size.

    Returns:
        uint8 array of this shape, the nearest labels.
    """
    with decoding(path), open_raster(path) as raster:
        return raster.read(1, out_shape=shape)
