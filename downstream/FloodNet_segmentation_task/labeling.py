"""Label an image file of any size and write labels and overlay."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from downstream.FloodNet_segmentation_task.plots import save_overlay
from downstream.FloodNet_segmentation_task.segmentation_folder import Classes
from vicreg.common.logger import log
from vicreg.data.rasters import TIFF, ImageReader
from vicreg.inference.label_rasters import read_labels, write_label_png, write_label_raster
from vicreg.inference.sliding_window import label_blocks


def label_files(out_dir: Path, image: Path) -> tuple[Path, Path]:
    """Return the files that ``label_image_file`` writes for an image: labels and overlay."""
    suffix = ".tif" if image.suffix.lower() in TIFF else ".png"
    return out_dir / f"{image.stem}_labels{suffix}", out_dir / f"{image.stem}_overlay.png"


def label_image_file(
    out_dir: Path,
    reader: ImageReader,
    predict: Callable[[torch.Tensor], torch.Tensor],
    classes: Classes,
    side: int,
    overlap: float,
) -> None:
    """Label an image, write the files of ``label_files``, and log the most frequent classes.

    ``predict``, ``side`` and ``overlap`` are those of ``vicreg.inference.sliding_window.label_blocks``.

    Raises:
        ValueError: The image cannot be read.
    """
    labels_path, overlay_path = label_files(out_dir, reader.path)
    blocks, colors, names = label_blocks(reader, predict, side, overlap), classes.palette, classes.names
    if labels_path.suffix == ".tif":
        step = reader.source_size[1] / reader.height, reader.source_size[0] / reader.width
        write_label_raster(labels_path, reader, blocks, (reader.height, reader.width), step, names, colors)
    else:
        write_label_png(labels_path, reader, blocks, colors)
    image = reader.preview()
    labels = read_labels(labels_path, image.shape[1:])
    save_overlay(overlay_path, image, labels, classes, reader.path.name)
    known = labels[labels < len(names)]
    fractions = np.bincount(known, minlength=len(names)) / max(1, known.size)
    top = ", ".join(f"{names[n]} {fractions[n]:.1%}" for n in np.argsort(-fractions)[:3] if fractions[n] > 0)
    log(f"{reader.path.name}: {reader.width} x {reader.height} pixels, {top or 'no data'} -> {labels_path}")
