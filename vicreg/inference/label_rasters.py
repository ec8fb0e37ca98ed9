"""Write class numbers as Cloud Optimized GeoTIFFs on the grid of their source, or as palette PNGs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from vicreg.common import files
from vicreg.data.image_io import decoding
from vicreg.data.rasters import NO_DATA, ImageReader, open_raster
from vicreg.inference.cog import write_cog

Block = tuple[int, int, np.ndarray]  # top, left, labels
# columns of the attribute table: name, GDALRATFieldType, GDALRATFieldUsage
_FIELDS = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]


def write_label_raster(
    path: str | Path,
    reader: ImageReader,
    blocks: Iterable[Block],
    shape: tuple[int, int],
    step: tuple[float, float],
    classes: Sequence[str],
    palette: np.ndarray,
) -> None:
    """Write labels as a one-band COG with a color table and nodata ``NO_DATA``; see ``write_cog``.

    The class names are tags of the band, and category names and an attribute table in ``<name>.aux.xml``, which GDAL
    and QGIS read beside the raster.

    Args:
        path: File to write.
        reader: Source of the labels.
        blocks: (top, left, labels) with uint8 labels (rows, columns) that tile the raster.
        shape: (rows, columns) of the raster.
        step: Pixels of the source file for each (row, column) of the raster.
        classes: Class names.
        palette: uint8 array (classes, 3).
    """
    from rasterio.windows import Window

    def fill(out: Any) -> None:
        out.write_colormap(1, {number: (*map(int, color), 255) for number, color in enumerate(palette)})
        out.update_tags(CLASSES=",".join(classes))
        out.update_tags(1, **{f"class_{number}": name for number, name in enumerate(classes)})
        for top, left, labels in blocks:
            out.write(labels, 1, window=Window(left, top, labels.shape[1], labels.shape[0]))

    path = Path(path)
    write_cog(path, reader, shape, step, {"count": 1, "dtype": "uint8", "nodata": NO_DATA}, fill)
    names = path.with_name(f"{path.name}.aux.xml")
    files.atomic_write(names, lambda tmp_path: _write_class_names(tmp_path, classes, palette))


def _write_class_names(path: Path, classes: Sequence[str], palette: np.ndarray) -> None:
    """Write GDAL's file of category names and attribute table, which it reads beside a raster."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_FIELDS):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ElementTree.SubElement(field, tag).text = str(value)
    for number, (name, color) in enumerate(zip(classes, palette.tolist(), strict=True)):
        ElementTree.SubElement(categories, "Category").text = name
        row = ElementTree.SubElement(table, "Row", index=str(number))
        for value in (number, name, *color):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


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
