"""Convert masks to polygons in pixel coordinates, with (0, 0) at the top-left corner of the image, and draw them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Detection(NamedTuple):
    """A detected object.

    Attributes:
        score: Confidence in [0, 1].
        box: (left, top, right, bottom) in pixels.
        shape: Outline, a shapely geometry.
        label: Index of the class.
    """

    score: float
    box: tuple[float, float, float, float]
    shape: Any
    label: int


def from_masks(instances: Any, threshold: float) -> list[Detection]:
    """Convert the instances of one image to polygons; empty masks are dropped.

    Args:
        instances: Detectron2's ``Instances`` with ``scores``, ``pred_boxes``, ``pred_masks`` and ``pred_classes``.
        threshold: Lowest score.
    """
    columns = (instances.scores.tolist(), instances.pred_boxes.tensor.tolist(), instances.pred_masks)
    return [
        Detection(score, tuple(box), from_mask(mask.numpy()), label)
        for score, box, mask, label in zip(*columns, instances.pred_classes.tolist(), strict=True)
        if score >= threshold and mask.any()
    ]


def from_mask(mask: np.ndarray) -> Any:
    """Return the outline of a bool mask (H, W) along the edges of its pixels: a shapely Polygon or MultiPolygon."""
    from rasterio import features
    from shapely.geometry import shape
    from shapely.ops import unary_union

    pixels = mask.astype(np.uint8)
    return unary_union([shape(outline) for outline, _ in features.shapes(pixels, mask=mask.astype(bool))])


def draw(
    image: np.ndarray, shapes: Iterable[Any], color: tuple[int, int, int] = (255, 80, 40), scale: float = 1.0
) -> np.ndarray:
    """Fill shapes half transparently and draw their outlines.

    Args:
        image: uint8 array (H, W, 3).
        shapes: Shapely geometries in pixels.
        color: RGB color.
        scale: Pixels of ``image`` for each pixel of the shapes, if the image was reduced.

    Returns:
        uint8 array (H, W, 3), a copy.
    """
    base = Image.fromarray(image).convert("RGBA")
    layer = Image.new("RGBA", base.size)
    canvas = ImageDraw.Draw(layer)
    for shape in shapes:
        for polygon in getattr(shape, "geoms", [shape]):
            if polygon.geom_type != "Polygon" or polygon.is_empty:
                continue
            ring = [(x * scale, y * scale) for x, y in polygon.exterior.coords]
            canvas.polygon(ring, fill=(*color, 90), outline=(*color, 255))
    return np.asarray(Image.alpha_composite(base, layer).convert("RGB"))
