"""Figures that runs write to their folders, as PNG files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vicreg.common import files
from vicreg.common.tsne import tsne

THUMBNAIL = 48  # side in pixels
VIEW_PAIRS = 12  # in the picture of a run's first pairs
_RIGHT, _WRONG = "#0072B2", "#D55E00"  # blue and orange of Okabe & Ito, told apart with every kind of color vision


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, np.ndarray]:
    """Make a matplotlib figure without pyplot, independent of the configured backend.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        size: Width and height in inches.

    Returns:
        The figure and its axes, an array of shape (rows, columns).
    """
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=110, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def class_colors(count: int) -> np.ndarray:
    """Return a color per class, of shape (count, 3 or 4) in [0, 1]; the same for every call with the same count."""
    import matplotlib

    if count <= 20:  # the colors of tab10 differ more; tab20 has a light and a dark variant of each
        return matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    index = np.arange(count)
    hue = index * 0.61803 % 1  # multiples of the golden ratio: successive classes differ
    saturation, value = np.where(index % 2, 0.9, 0.55), np.where(index % 3, 0.85, 0.6)
    return matplotlib.colors.hsv_to_rgb(np.stack([hue, saturation, value], 1))


def literal(text: str) -> str:
    """Return text that matplotlib shows as it is: no formulas between dollar signs, no legend entry is hidden."""
    escaped = files.printable(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def plot_confusion_matrix(path: str | Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Plot a confusion matrix, normalized over the true classes.

    Args:
        path: PNG file.
        confusion: Counts of shape (classes, classes); rows are true, columns predicted classes.
        classes: Class names.
    """
    counts, classes = np.asarray(confusion), [literal(name) for name in classes]
    fractions = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = 4 + 0.3 * len(classes)
    figure, axes = new_figure(1, 1, (side + 1, side))
    axis = axes[0, 0]
    image = axis.imshow(fractions, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), [f"{name} ({n})" for name, n in zip(classes, counts.sum(1), strict=True)])
    axis.set(xlabel="predicted", ylabel="true (samples)")
    for row, column in zip(*np.nonzero(fractions >= 0.01), strict=True):
        color = "white" if fractions[row, column] > 0.5 else "black"
        text = f"{100 * fractions[row, column]:.0f}"
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, label="fraction of the true class", shrink=0.7)
    files.atomic_write(path, figure.savefig)


def save_view_pairs(path: str | Path, view1: torch.Tensor, view2: torch.Tensor) -> None:
    """Write the two views of ``VIEW_PAIRS`` samples, one above the other; small ones enlarged by a whole factor.

    Args:
        path: PNG file.
        view1: First views of shape (N, C, S, S) in [0, 1], before normalization; three channels are shown.
        view2: Second views.
    """
    scale = max(1, 112 // view1.shape[-1])
    rows = []
    for views in (view1[:VIEW_PAIRS], view2[:VIEW_PAIRS]):
        tiles = [np.kron(tile, np.ones((scale, scale, 1))) for tile in _to_rgb(views)]
        rows.append(np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=1) for tile in tiles], 1))
    image = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    files.atomic_write(path, image.save)


def save_embedding_map(
    path: str | Path, features: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str
) -> np.ndarray:
    """Write a t-SNE map (van der Maaten & Hinton 2008) of L2-normalized features, colored by class.

    Args:
        path: PNG file.
        features: Shape (N, F), N > 2.
        labels: Shape (N,).
        classes: Class names.
        title: Title of the figure.

    Returns:
        Positions of the samples, shape (N, 2).
    """
    positions = tsne(features)
    figure, axes = new_figure(1, 1, (9, 7))
    colors, present = class_colors(len(classes)), np.unique(labels)
    for label in present:
        text, points = literal(classes[label]), positions[labels == label].T
        axes[0, 0].scatter(*points, s=7, color=colors[label], label=text, linewidths=0)
    axes[0, 0].set(xticks=[], yticks=[], title=literal(title))
    if len(present) <= 64:
        columns = -(-len(present) // (32 if len(present) > 32 else 64))
        figure.legend(loc="outside right upper", fontsize=6, markerscale=2, ncols=columns)
    files.atomic_write(path, figure.savefig)
    return positions


def save_thumbnails(path: str | Path, batches: Iterable[np.ndarray], columns: int = 40) -> int:
    """Write small images as tiles of ``THUMBNAIL`` pixels of one JPEG file, row by row.

    Args:
        path: JPEG file.
        batches: uint8 images of shape (n, 3, S, S).
        columns: Tiles per row.

    Returns:
        The number of tiles per row.
    """
    size = (THUMBNAIL, THUMBNAIL)
    tiles = [Image.fromarray(image.transpose(1, 2, 0)).resize(size) for images in batches for image in images]
    sheet = Image.new("RGB", (columns * THUMBNAIL, -(-len(tiles) // columns) * THUMBNAIL))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * THUMBNAIL, number // columns * THUMBNAIL))
    files.atomic_write(path, lambda tmp_path: sheet.save(tmp_path, quality=85))
    return columns


def save_neighbors(
    path: str | Path,
    queries: torch.Tensor,
    query_names: Sequence[str],
    neighbors: torch.Tensor,
    names: Sequence[Sequence[str]],
    similarities: torch.Tensor,
    correct: torch.Tensor,
    title: str,
) -> None:
    """Write query images, each with its nearest neighbors in a row; the frame shows if the class is that of the query.

    Args:
        path: PNG file.
        queries: uint8 images of shape (N, C, S, S).
        query_names: Class name of each query.
        neighbors: uint8 images of shape (N, k, C, S, S), the nearest first.
        names: Class names of the neighbors, N lists of k.
        similarities: Cosine similarities of shape (N, k).
        correct: Shape (N, k); True for neighbors of the query's class.
        title: Title of the figure.
    """
    count, k = similarities.shape
    figure, axes = new_figure(count, k + 1, (1.35 * (k + 1), 1.55 * count + 0.3))
    for row in range(count):
        tiles = _to_rgb(torch.cat([queries[row : row + 1], neighbors[row]]).float() / 255)
        captions = [f"{cosine:.3f} {name}" for cosine, name in zip(similarities[row], names[row], strict=True)]
        edges = ["black", *(_RIGHT if same else _WRONG for same in correct[row])]
        for axis, tile, text, edge in zip(axes[row], tiles, [query_names[row], *captions], edges, strict=True):
            _show(axis, tile, edge, 2)
            axis.set_title(literal(text if len(text) < 25 else text[:23] + "…"), fontsize=6)
    figure.suptitle(literal(title), fontsize=8)
    files.atomic_write(path, figure.savefig)


def save_predictions(
    path: str | Path,
    images: torch.Tensor,
    true: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    title: str,
) -> None:
    """Write images with their true and predicted classes; the frame is blue if they agree, otherwise orange.

    Args:
        path: PNG file.
        images: uint8 images of shape (N, C, S, S).
        true: True class names.
        predicted: Predicted class names.
        probabilities: Probability of each prediction.
        title: Title of the figure.
    """
    columns = 10
    rows = -(-len(images) // columns)
    figure, axes = new_figure(rows, columns, (1.45 * columns, 1.75 * rows + 0.3))
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    tiles = _to_rgb(images.float() / 255)
    for axis, tile, name, guess, p in zip(axes.flat, tiles, true, predicted, probabilities, strict=False):
        _show(axis, tile, _RIGHT if name == guess else _WRONG, 3)
        caption = f"{guess} {p:.2f}" if name == guess else f"{guess} {p:.2f}\ntrue: {name}"
        axis.set_title(literal(caption), fontsize=6, color="black" if name == guess else _WRONG)
    figure.suptitle(literal(title), fontsize=9)
    files.atomic_write(path, figure.savefig)


def save_class_map(
    path: str | Path, class_ids: np.ndarray, classes: Sequence[str], colors: np.ndarray, title: str
) -> None:
    """Write a map of classes with a legend; pixels without a class are white.

    Args:
        path: PNG file.
        class_ids: Integers of shape (H, W); values from the number of classes on mean no class.
        classes: Class names.
        colors: Shape (classes, 3 or 4) in [0, 1].
        title: Title of the figure.
    """
    image = np.ones((*class_ids.shape, 3))
    known = class_ids < len(classes)
    image[known] = np.asarray(colors)[class_ids[known], :3]
    figure, axes = new_figure(1, 1, (10, 2 + 8 * min(2, class_ids.shape[0] / class_ids.shape[1])))
    axes[0, 0].imshow(image, interpolation="nearest")
    axes[0, 0].set(xticks=[], yticks=[], title=literal(title))
    for label, (name, color) in enumerate(zip(classes, colors, strict=True)):
        text = f"{name} {np.mean(class_ids == label):.1%}"
        axes[0, 0].scatter([], [], marker="s", s=60, color=[color], label=literal(text))
    figure.legend(loc="outside right upper", fontsize=8)
    files.atomic_write(path, figure.savefig)


def _show(axis: Any, image: np.ndarray, edge: str, linewidth: int) -> None:
    axis.imshow(image)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color=edge, linewidth=linewidth)


def _to_rgb(images: torch.Tensor) -> np.ndarray:
    """Convert (N, C, H, W) in [0, 1] to (N, H, W, 3): the first three channels, or one as gray."""
    rgb = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    return rgb.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
