"""Pictures that a run leaves in its folder."""

import numpy as np
import torch
from PIL import Image

from vicreg.common import files


def plot_confusion_matrix(path, confusion, classes):
    """Draw a confusion matrix as a PNG: rows are true classes, in shares of their samples, with the class names.

    Args:
        path: where. confusion: (classes, classes) counts. classes: names.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = np.asarray(confusion)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = 4 + 0.3 * len(classes)
    figure, axis = pyplot.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), [f"{name} ({n})" for name, n in zip(classes, counts.sum(1), strict=True)])
    axis.set_xlabel("guessed")
    axis.set_ylabel("true (samples)")
    for row, column in zip(*np.nonzero(shares >= 0.01), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(picture, label="share of the true class", shrink=0.7)
    files.atomic_write(path, lambda beside: figure.savefig(beside, dpi=100))
    pyplot.close(figure)


def save_view_pairs(path, view1, view2, most=12, side=112):
    """Write the two views of some samples, one above the other, as a PNG.

    Args:
        path: where. view1, view2: (n, C, S, S) in [0, 1], before normalization; the first three channels are shown.
        most: pairs to show. side: at least this many pixels for each view.
    """
    enlarge = max(1, side // view1.shape[-1])
    rows = []
    for views in (view1[:most], view2[:most]):
        tiles = [np.kron(tile, np.ones((enlarge, enlarge, 1))) for tile in _as_rgb(views)]
        rows.append(np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=1) for tile in tiles], 1))
    picture = Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8))
    files.atomic_write(path, picture.save)


def save_embedding_map(path, features, labels, classes, title, seed=0):
    """Write a t-SNE map (van der Maaten & Hinton 2008) of samples, colored by class, as a PNG.

    Args:
        path: where. features: float array (n, F), n > 2; directions count. labels: int array (n,). classes: names.
        title: above it. seed: of the map.

    Returns:
        float array (n, 2), where the samples lie.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize

    points = normalize(features)
    if min(points.shape) > 50:  # fewer dimensions: the same neighbors in a fraction of the time
        points = PCA(50, random_state=seed).fit_transform(points)
    perplexity = min(30, (len(points) - 1) / 3)
    start = "pca" if min(points.shape) > 1 else "random"
    found = TSNE(init=start, perplexity=perplexity, random_state=seed).fit_transform(points)
    figure, axes = new_figure(1, 1, (9, 7))
    colors = class_colors(len(classes))
    for label in np.unique(labels):
        own = found[labels == label]
        axes[0, 0].scatter(*own.T, s=7, color=colors[label], label=classes[label], linewidths=0)
    axes[0, 0].set(xticks=[], yticks=[], title=title)
    if len(np.unique(labels)) <= 64:
        rows = 32 if len(np.unique(labels)) > 32 else 64
        columns = -(-len(np.unique(labels)) // rows)
        figure.legend(loc="outside right upper", fontsize=6, markerscale=2, ncols=columns)
    files.atomic_write(path, figure.savefig)
    return found


def save_neighbors(path, queries, query_names, neighbors, names, cosines, right, title):
    """Write queries, each with its nearest images in a row, as a PNG.

    Args:
        path: where. queries: uint8 (n, C, S, S). query_names: list of n classes.
        neighbors: uint8 (n, k, C, S, S), the nearest first. names: n lists of k classes. cosines: (n, k).
        right: bool (n, k), neighbors of the query's class. title: above it.
    """
    count, k = cosines.shape
    figure, axes = new_figure(count, k + 1, (1.35 * (k + 1), 1.55 * count + 0.3))
    for row in range(count):
        tiles = _as_rgb(torch.cat([queries[row : row + 1], neighbors[row]]).float() / 255)
        words = [query_names[row], *(f"{c:.3f} {name}" for c, name in zip(cosines[row], names[row], strict=True))]
        edges = ["black", *("tab:green" if same else "tab:red" for same in right[row])]
        for axis, tile, word, edge in zip(axes[row], tiles, words, edges, strict=True):
            axis.imshow(tile)
            axis.set(xticks=[], yticks=[])
            axis.set_title(word if len(word) < 25 else word[:23] + "…", fontsize=6)
            axis.spines[:].set(color=edge, linewidth=2)
    figure.suptitle(title, fontsize=8)
    files.atomic_write(path, figure.savefig)


def save_predictions(path, images, true, guessed, shares, title, columns=10):
    """Write images with their true and their guessed class as a PNG; the frame is green where they agree, else red.

    Args:
        path: where. images: uint8 (n, C, S, S). true, guessed: lists of n names. shares: n probabilities of the guess.
        title: above it. columns: images in a row.
    """
    rows = -(-len(images) // columns)
    figure, axes = new_figure(rows, columns, (1.45 * columns, 1.75 * rows + 0.3))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, tile, name, guess, share in zip(
        axes.flat, _as_rgb(images.float() / 255), true, guessed, shares, strict=False
    ):
        axis.imshow(tile)
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color="tab:green" if name == guess else "tab:red", linewidth=3)
        words = f"{guess} {share:.2f}" if name == guess else f"{guess} {share:.2f}\nis {name}"
        axis.set_title(words, fontsize=6, color="black" if name == guess else "tab:red")
    figure.suptitle(title, fontsize=9)
    files.atomic_write(path, figure.savefig)


def save_class_map(path, codes, classes, colors, title):
    """Write a map of classes with its legend as a PNG; what is no class is left white.

    Args:
        path: where. codes: int (h, w). classes: names. colors: (classes, 3) in [0, 1]. title: above it.
    """
    picture = np.ones((*codes.shape, 3))
    known = codes < len(classes)
    picture[known] = np.asarray(colors)[codes[known], :3]
    figure, axes = new_figure(1, 1, (10, 2 + 8 * min(2, codes.shape[0] / codes.shape[1])))
    axes[0, 0].imshow(picture, interpolation="nearest")
    axes[0, 0].set(xticks=[], yticks=[], title=title)
    for label, (name, color) in enumerate(zip(classes, colors, strict=True)):
        axes[0, 0].scatter([], [], marker="s", s=60, color=[color], label=f"{name} {np.mean(codes == label):.1%}")
    figure.legend(loc="outside right upper", fontsize=8)
    files.atomic_write(path, figure.savefig)


def new_figure(rows, columns, size):
    """A figure of its own, whatever matplotlib's backend: ``size`` in inches; (figure, axes (rows, columns))."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def class_colors(count):
    """A color for each class: float (count, 3 or 4) in [0, 1]; the same number always gets the same."""
    import matplotlib

    if count <= 20:  # those of tab10 differ more, tab20 has each of them light and dark
        return matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    hues = np.arange(count) * 0.61803 % 1  # the golden ratio keeps neighbors in the list apart
    return matplotlib.colors.hsv_to_rgb(np.stack([hues, np.where(np.arange(count) % 2, 0.9, 0.55),
                                                  np.where(np.arange(count) % 3, 0.85, 0.6)], 1))  # fmt: skip


def _as_rgb(views):
    colors = views[:, :3] if views.shape[1] >= 3 else views[:, :1].expand(-1, 3, -1, -1)
    return colors.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
