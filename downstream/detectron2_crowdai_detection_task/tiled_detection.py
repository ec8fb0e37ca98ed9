"""Detection in images of any size by overlapping windows.

A detection is accepted from one window only: the one whose core contains its center.
"""

from pathlib import Path

import numpy as np
import shapely
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from shapely import geometry
from shapely.affinity import affine_transform, translate
from shapely.errors import GEOSException
from torchvision.ops import batched_nms
from tqdm import tqdm

from vicreg.common import files
from vicreg.data.rasters import ImageReader
from vicreg.inference import polygons
from vicreg.inference.sliding_window import core_edges, read_windows, window_starts

DUPLICATE_IOU = 0.5  # of the boxes of one object, of one class, in two windows
MIN_VALID = 0.5  # fraction of a box that must hold data


@torch.no_grad()
def detect(model: torch.nn.Module, image: np.ndarray, cfg: CfgNode, threshold: float) -> list[polygons.Detection]:
    """Detect objects in one image.

    Args:
        model: Detectron2 model in eval mode.
        image: uint8 (3, H, W), RGB.
        cfg: Configuration of the model.
        threshold: Lowest score, from 0 to 1.

    Returns:
        Detections with polygons of their masks, or of their boxes without MODEL.MASK_ON.
    """
    height, width = image.shape[1:]
    pixels = image.transpose(1, 2, 0)
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    pixels = resize.get_transform(pixels).apply_image(pixels)
    tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    instances = model([{"image": tensor, "height": height, "width": width}])[0]["instances"].to("cpu")
    if instances.has("pred_masks"):
        return polygons.from_masks(instances, threshold)
    columns = (instances.scores, instances.pred_boxes.tensor, instances.pred_classes)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        polygons.Detection(score, tuple(box), geometry.box(*box), label)
        for score, box, label in rows
        if score >= threshold
    ]


def detect_tiled(
    model: torch.nn.Module,
    reader: ImageReader,
    cfg: CfgNode,
    window: int,
    overlap: float,
    threshold: float,
) -> list[polygons.Detection]:
    """Detect objects in an image of any size. Detections on pixels without data are dropped.

    Args:
        model: Detectron2 model in eval mode.
        reader: Image or raster.
        cfg: Configuration of the model.
        window: Side of a window in pixels.
        overlap: Overlap of neighboring windows as a fraction of their side, below 1; larger objects may be cut.
        threshold: Lowest score, from 0 to 1.

    Returns:
        Detections in pixels of the image, by descending score.
    """
    stride = window - int(overlap * window)
    tops, lefts = (window_starts(length, window, stride) for length in (reader.height, reader.width))
    rows, columns = core_edges(tops, window, reader.height), core_edges(lefts, window, reader.width)
    detections = []
    batches = read_windows(reader, tops, lefts, window, pad_mode="constant")  # a smaller image keeps its scale
    total = len(tops) * len(lefts)
    for batch in tqdm(batches, files.printable(reader.path.name, ""), total, unit="window", leave=False, disable=None):
        (column,), (left,), (image,), (valid,) = batch.columns, batch.lefts, batch.images, batch.valid
        if not valid.any():
            continue
        for score, (x1, y1, x2, y2), shape, label in detect(model, image, cfg, threshold):
            x, y = left + (x1 + x2) / 2, batch.top + (y1 + y2) / 2
            in_core = rows[batch.row] <= y < rows[batch.row + 1] and columns[column] <= x < columns[column + 1]
            if in_core and valid[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].mean() >= MIN_VALID:
                box = (x1 + left, y1 + batch.top, x2 + left, y2 + batch.top)
                detections.append(polygons.Detection(score, box, translate(shape, left, batch.top), label))
    detections.sort(key=lambda detection: -detection.score)
    if not detections:
        return []
    columns = (torch.tensor([getattr(item, name) for item in detections]) for name in ("box", "score", "label"))
    return [detections[index] for index in batched_nms(*columns, DUPLICATE_IOU).tolist()]


def write_geojson(path: Path, detections: list[polygons.Detection], reader: ImageReader, classes: list[str]) -> None:
    """Write detections, in pixels of a georeferenced image, as polygons in EPSG:4326 with ``score`` and ``class``.

    Polygons across the antimeridian are split there (RFC 7946, section 3.1.9).

    Raises:
        ValueError: The coordinates cannot be converted.
    """
    import geopandas
    from pyproj.exceptions import ProjError
    from rasterio.transform import from_gcps

    crs, transform = reader.crs, reader.transform
    if transform is None:
        points, crs = reader.gcps
        transform = from_gcps(points)
    a, b, c, d, e, f = transform[:6]
    properties = {
        "score": [round(detection.score, 4) for detection in detections],
        "class": [classes[detection.label] for detection in detections],
    }
    try:
        shapes = [affine_transform(detection.shape, [a, b, d, e, c, f]) for detection in detections]
        series = geopandas.GeoSeries(shapes, crs=crs).to_crs("EPSG:4326")
        if not np.isfinite(shapely.get_coordinates(series)).all():
            raise ProjError("the image is outside the area of its coordinate system")
    except (ProjError, GEOSException) as error:  # GEOS: the transform is not finite
        raise ValueError(f"{path}: cannot convert {crs} to longitude and latitude: {error}") from error
    geometries = [_split_at_antimeridian(shape) for shape in series]
    table = geopandas.GeoDataFrame(properties, geometry=geometries, crs="EPSG:4326")
    files.write_text(path, table.to_json(drop_id=True) + "\n")


def _split_at_antimeridian(shape):
    west, _, east, _ = shape.bounds
    if east - west <= 180:
        return shape
    shape = shapely.transform(shape, lambda points: np.where(points < (0, -np.inf), points + (360, 0), points))
    parts = shapely.clip_by_rect(shape, 0, -90, 180, 90), shapely.clip_by_rect(shape, 180, -90, 360, 90)
    return parts[0].union(translate(parts[1], -360))
