"""Images of any size, photograph or GeoTIFF, read and searched in overlapping windows as large as training images.

A window as large as the training images is enlarged by the model as those were, so that buildings have the size that it
learned. Each detection counts in one window only: the one in whose core its center lies.
"""

from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from shapely.affinity import translate
from torchvision.ops import nms

from downstream.detectron2_crowdai_detection_task import evaluation
from vicreg.common import files
from vicreg.data.image_io import error_reason, open_image
from vicreg.inference import polygons
from vicreg.inference.rasters import quiet_georeference

GEOTIFF = (".tif", ".tiff")
SUFFIXES = (*GEOTIFF, ".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SAME = 0.5  # IoU of boxes above which two windows have found one building


class Picture(NamedTuple):
    """An image that can be read in parts.

    Attributes:
        height, width: pixels. read: function (top, left, height, width) -> uint8 (height, width, 3).
        crs, transform: of a GeoTIFF with a georeference, else None.
    """

    height: int
    width: int
    read: object
    crs: object = None
    transform: object = None


def open_picture(path):
    """Open an image; GeoTIFFs stay on disk and are read in parts.

    Raises:
        ValueError: it cannot be decoded, or is not 8-bit RGB.
    """
    path = Path(path)
    if path.suffix.lower() in GEOTIFF:
        return _open_raster(path)
    try:
        pixels = np.asarray(open_image(path).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error
    return Picture(*pixels.shape[:2], lambda top, left, high, wide: pixels[top : top + high, left : left + wide])


def _open_raster(path):
    import rasterio
    from rasterio.windows import Window

    try:
        with quiet_georeference(), rasterio.open(path) as raster:
            bands, kind, (height, width) = raster.count, raster.dtypes[0], raster.shape
            crs, transform = raster.crs, raster.transform
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error
    if bands < 3 or kind != "uint8":
        raise ValueError(f"{path}: {bands} band(s) of {kind}; the model sees 8-bit RGB: convert with gdal_translate")

    def read(top, left, high, wide):
        with quiet_georeference(), rasterio.open(path) as raster:
            try:
                return np.moveaxis(raster.read([1, 2, 3], window=Window(left, top, wide, high)), 0, 2)
            except rasterio.errors.RasterioError as error:
                raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error

    return Picture(height, width, read, crs, transform if crs else None)


def starts(length, window, overlap):
    """First pixels of windows that cover ``length`` pixels; the last one ends where they end.

    Raises:
        ValueError: windows that do not move on.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"an overlap of {overlap} pixels with windows of {window}; it must be smaller")
    return [*range(0, max(0, length - window), window - overlap), max(0, length - window)]


def search(model, picture, cfg, window, overlap, threshold, progress=lambda corners: corners):
    """Find what is in a picture.

    Args:
        model: in eval mode. picture: Picture. cfg: settings. window: side in pixels. overlap: of neighboring windows;
            what is larger than it may be cut in two. threshold: lowest score. progress: wraps the list of windows.

    Returns:
        list of ``outlines.Found`` in pixels of the picture, the best first.
    """
    found = []
    rows, columns = (starts(length, window, overlap) for length in (picture.height, picture.width))
    for (row, top), (column, left) in progress(list(product(enumerate(rows), enumerate(columns)))):
        high, wide = min(window, picture.height - top), min(window, picture.width - left)
        pixels = np.zeros((window, window, 3), np.uint8)  # a smaller picture keeps its scale
        pixels[:high, :wide] = picture.read(top, left, high, wide)
        for one in polygons.from_masks(evaluation.look(model, pixels, cfg), threshold):
            box = (one.box[0] + left, one.box[1] + top, one.box[2] + left, one.box[3] + top)
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            across = _inside(x, column, columns, window, picture.width)
            if across and _inside(y, row, rows, window, picture.height):
                found.append(polygons.Detection(one.score, box, translate(one.shape, left, top)))
    found.sort(key=lambda one: -one.score)
    if not found:
        return []
    kept = nms(torch.tensor([one.box for one in found]), torch.tensor([one.score for one in found]), _SAME)
    return [found[number] for number in kept.tolist()]


def _inside(center, number, begins, window, length):
    """Whether a center lies in the core of a window: nearer to its middle than to another's."""
    edges = [0, *((begin + window + following) / 2 for begin, following in pairwise(begins)), length]
    return edges[number] <= center < edges[number + 1]


def write_geojson(path, found, picture):
    """Write detections as GeoJSON polygons in longitude and latitude (EPSG:4326), with their ``score``.

    Args:
        path: where. found: list of ``outlines.Found``. picture: with a georeference.
    """
    import geopandas
    from shapely.affinity import affine_transform

    a, b, c, d, e, f = picture.transform[:6]
    shapes = [affine_transform(one.shape, [a, b, d, e, c, f]) for one in found]
    scores = {"score": [round(one.score, 4) for one in found]}
    table = geopandas.GeoDataFrame(scores, geometry=geopandas.GeoSeries(shapes, crs=picture.crs)).to_crs("EPSG:4326")
    files.write_text(path, table.to_json(drop_id=True) + "\n")
