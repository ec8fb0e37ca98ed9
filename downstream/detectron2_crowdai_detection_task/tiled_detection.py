"""Detection in images of any size, photographs or GeoTIFFs, by overlapping windows as large as the training images.

The model enlarges a window as it enlarged the training images, so that objects have the size that it has learned. A
detection is accepted from one window only: the one whose core contains its center.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from shapely import geometry
from shapely.affinity import affine_transform, translate
from torchvision.ops import nms

from vicreg.common import files
from vicreg.data.image_io import error_reason, open_image
from vicreg.inference import polygons
from vicreg.inference.rasters import TIFF, quiet_georeference
from vicreg.inference.sliding_window import window_starts

DUPLICATE_IOU = 0.5  # of the boxes of one object in two windows


class Picture(NamedTuple):
    """An image that can be read in parts.

    Attributes:
        height: Pixels.
        width: Pixels.
        read: Function (top, left, height, width) -> uint8 array (height, width, 3).
        crs: Coordinate reference system of a georeferenced image, else None.
        transform: Affine transform from pixels to ``crs``, else None.
    """

    height: int
    width: int
    read: Callable[[int, int, int, int], np.ndarray]
    crs: Any = None
    transform: Any = None


def open_picture(path: Path) -> Picture:
    """Open an image. GeoTIFFs are read in parts; other images are decoded and turned upright, as in training.

    Raises:
        ValueError: It cannot be decoded, or is not 8-bit RGB.
    """
    from PIL import ImageOps

    if path.suffix.lower() in TIFF:
        return _open_raster(path)
    try:
        pixels = np.asarray(ImageOps.exif_transpose(open_image(path)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error
    height, width = pixels.shape[:2]
    return Picture(height, width, lambda top, left, rows, columns: pixels[top : top + rows, left : left + columns])


def _open_raster(path):
    import rasterio
    from rasterio.windows import Window

    try:
        with quiet_georeference(), rasterio.open(path) as raster:
            bands, dtype, (height, width) = raster.count, raster.dtypes[0], raster.shape
            crs, transform = raster.crs, raster.transform
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error
    if bands < 3 or dtype != "uint8":
        raise ValueError(f"{path}: {bands} band(s) of {dtype}; the model needs 8-bit RGB: convert with gdal_translate")

    def read(top, left, rows, columns):
        with quiet_georeference(), rasterio.open(path) as raster:
            try:
                return np.moveaxis(raster.read([1, 2, 3], window=Window(left, top, columns, rows)), 0, 2)
            except rasterio.errors.RasterioError as error:
                raise ValueError(f"{path} cannot be read: {error_reason(error, path)}") from error

    return Picture(height, width, read, crs, transform if crs else None)


@torch.no_grad()
def detect(model: torch.nn.Module, image: np.ndarray, cfg: CfgNode, threshold: float) -> list[polygons.Detection]:
    """Detect objects in one image.

    Args:
        model: Detectron2 model in eval mode.
        image: uint8 (H, W, 3), RGB.
        cfg: Configuration of the model.
        threshold: Lowest score, from 0 to 1.

    Returns:
        Detections with polygons of their masks, or of their boxes without MODEL.MASK_ON.
    """
    height, width = image.shape[:2]
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(image).apply_image(image)
    tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    instances = model([{"image": tensor, "height": height, "width": width}])[0]["instances"].to("cpu")
    if instances.has("pred_masks"):
        return polygons.from_masks(instances, threshold)
    boxes = zip(instances.scores.tolist(), instances.pred_boxes.tensor.tolist(), strict=True)
    return [polygons.Detection(score, tuple(box), geometry.box(*box)) for score, box in boxes if score >= threshold]


def detect_tiled(
    model: torch.nn.Module,
    picture: Picture,
    cfg: CfgNode,
    window: int,
    overlap: int,
    threshold: float,
    progress: Callable[[list], Iterable] = iter,
) -> list[polygons.Detection]:
    """Detect objects in an image of any size.

    Args:
        model: Detectron2 model in eval mode.
        picture: The image.
        cfg: Configuration of the model.
        window: Side of a window in pixels.
        overlap: Overlap of neighboring windows in pixels, less than ``window``; larger objects may be cut.
        threshold: Lowest score, from 0 to 1.
        progress: Wraps the list of windows.

    Returns:
        Detections in pixels of the picture, by descending score.
    """
    detections = []
    tops, lefts = (window_starts(length, window, window - overlap) for length in (picture.height, picture.width))
    for (row, top), (column, left) in progress(list(product(enumerate(tops), enumerate(lefts)))):
        rows, columns = min(window, picture.height - top), min(window, picture.width - left)
        pixels = np.zeros((window, window, 3), np.uint8)  # a smaller image keeps its scale
        pixels[:rows, :columns] = picture.read(top, left, rows, columns)
        for score, box, shape in detect(model, pixels, cfg, threshold):
            box = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
            in_columns = _in_core((box[0] + box[2]) / 2, column, lefts, window, picture.width)
            if in_columns and _in_core((box[1] + box[3]) / 2, row, tops, window, picture.height):
                detections.append(polygons.Detection(score, box, translate(shape, left, top)))
    detections.sort(key=lambda detection: -detection.score)
    if not detections:
        return []
    boxes, scores = (torch.tensor([getattr(d, name) for d in detections]) for name in ("box", "score"))
    return [detections[index] for index in nms(boxes, scores, DUPLICATE_IOU).tolist()]


def _in_core(center, index, starts, window, length):
    """Return whether a coordinate is nearer to the middle of window ``index`` than to that of its neighbors."""
    edges = [0, *((start + window + following) / 2 for start, following in pairwise(starts)), length]
    return edges[index] <= center < edges[index + 1]


def write_geojson(path: Path, detections: list[polygons.Detection], picture: Picture) -> None:
    """Write polygons in longitude and latitude (EPSG:4326) with their ``score``.

    Args:
        path: GeoJSON file.
        detections: Detections in pixels of ``picture``.
        picture: A georeferenced image.

    Raises:
        ValueError: The coordinates cannot be converted.
    """
    import geopandas
    from pyproj.exceptions import ProjError

    a, b, c, d, e, f = picture.transform[:6]
    shapes = [affine_transform(detection.shape, [a, b, d, e, c, f]) for detection in detections]
    scores = {"score": [round(detection.score, 4) for detection in detections]}
    try:
        geoseries = geopandas.GeoSeries(shapes, crs=picture.crs)
        table = geopandas.GeoDataFrame(scores, geometry=geoseries).to_crs("EPSG:4326")
    except ProjError as error:
        raise ValueError(f"{path}: cannot convert {picture.crs} to longitude and latitude: {error}") from error
    files.write_text(path, table.to_json(drop_id=True) + "\n")
