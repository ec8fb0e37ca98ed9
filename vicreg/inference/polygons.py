"""Masks as polygons in pixel coordinates, (0, 0) being the image's top left corner, and polygons drawn on images."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Detection(NamedTuple):
    """One detection: its score in [0, 1], its box (left, top, right, bottom) and its shape, a shapely geometry."""

    score: float
    box: tuple
    shape: object


def from_masks(instances, threshold):
    """Detections of one image as polygons.

    Args:
        instances: Detectron2's, with ``scores``, ``pred_boxes`` and ``pred_masks``. threshold: lowest score.

    Returns:
        list of Found; a detection with an empty mask is none.
    """
    found = []
    for score, box, mask in zip(
        instances.scores.tolist(), instances.pred_boxes.tensor.tolist(), instances.pred_masks, strict=True
    ):
        if score >= threshold and mask.any():
            found.append(Detection(score, tuple(box), from_mask(mask.numpy())))
    return found


def from_mask(mask):
    """Outline of a mask: bool (H, W) -> shapely Polygon or MultiPolygon along the pixels' edges."""
    from rasterio import features
    from shapely.geometry import shape
    from shapely.ops import unary_union

    pixels = mask.astype(np.uint8)
    return unary_union([shape(outline) for outline, _ in features.shapes(pixels, mask=mask.astype(bool))])


def from_rings(rings):
    """A COCO segmentation [[x, y, x, y, …], …] as a shapely geometry."""
    from shapely.geometry import Polygon
    from shapely.ops import unary_union

    polygons = [Polygon(np.reshape(ring, (-1, 2))) for ring in rings]
    return unary_union([polygon.buffer(0) for polygon in polygons])


def draw(image, shapes, color=(255, 80, 40), scale=1.0):
    """Fill shapes half transparently and draw their edges.

    Args:
        image: uint8 (H, W, 3). shapes: shapely geometries in pixels. color: RGB. scale: of the shapes, if the image
            was made smaller.

    Returns:
        uint8 (H, W, 3), a copy.
    """
    picture = Image.fromarray(image).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(layer)
    for shape in shapes:
        for polygon in getattr(shape, "geoms", [shape]):
            if polygon.geom_type != "Polygon" or polygon.is_empty:
                continue
            ring = [(x * scale, y * scale) for x, y in polygon.exterior.coords]
            pen.polygon(ring, fill=(*color, 90), outline=(*color, 255))
    return np.asarray(Image.alpha_composite(picture, layer).convert("RGB"))
