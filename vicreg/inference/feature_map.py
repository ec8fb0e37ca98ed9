"""Features of a sliding window over a raster as a multi-band Cloud Optimized GeoTIFF, reduced by PCA."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vicreg.common.files import printable
from vicreg.common.random_streams import rng
from vicreg.data.rasters import ImageReader
from vicreg.inference.cog import write_cog
from vicreg.inference.sliding_window import MIN_VALID, cell_window_starts, compute_cells

_SAMPLE = 4096  # windows that the PCA is fitted on
_MAX_TRIES = 4  # windows that are read for each one of the sample, if some hold no data

Embed = Callable[[np.ndarray], np.ndarray]


def _sample_features(
    reader: ImageReader, embed: Embed, side: int, stride: int, batch_size: int, seed: int
) -> np.ndarray:
    """Embed the windows of a random sample of cells: float32 (n, F), at most ``_SAMPLE``.

    Raises:
        ValueError: Fewer than two of them hold data.
    """
    tops, lefts = (cell_window_starts(length, side, stride) for length in (reader.height, reader.width))
    cells = rng(seed, "pca_sample").permutation(len(tops) * len(lefts))[: _MAX_TRIES * _SAMPLE]
    features: list[np.ndarray] = []

    def windows() -> Iterator[np.ndarray]:
        for cell in tqdm(cells, "PCA sample", leave=False, disable=None):
            pixels, valid = reader.read(tops[cell // len(lefts)], lefts[cell % len(lefts)], side, side)
            if valid.mean() >= MIN_VALID:
                yield pixels

    sample = itertools.islice(windows(), _SAMPLE)
    while batch := list(itertools.islice(sample, batch_size)):
        features.append(embed(np.stack(batch)))
    if sum(map(len, features)) < 2:
        raise ValueError(f"{printable(reader.path)}: fewer than two windows of {side} pixels hold data")
    return np.concatenate(features)


def write_feature_map(
    path: Path,
    reader: ImageReader,
    embed: Embed,
    side: int,
    stride: int,
    components: int,
    seed: int = 0,
    batch_size: int = 64,
    record: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Embed the window around each cell of ``stride`` pixels and write the map, one pixel for each cell.

    One batch of windows is held in memory. Bands are float32 components of a PCA of these features, or the features
    themselves, and NaN where less than half of the window holds data.

    Args:
        path: File to write.
        reader: Raster, at least as large as a window.
        embed: Function of arrays (n, C, side, side) -> features (n, F).
        side: Side of the windows in pixels.
        stride: Side of the cells in pixels.
        components: Number of components; 0 for all features without a PCA.
        seed: Seed of the sample that the PCA is fitted on.
        batch_size: Windows in a batch.
        record: Plain values for the tags of the file.

    Returns:
        ``shape`` of the map (rows, columns), ``bands``, and ``explained_variance`` of each component.

    Raises:
        ValueError: The raster cannot be read, is smaller than a window or holds too little data.
    """
    from rasterio.enums import ColorInterp
    from rasterio.windows import Window
    from sklearn.decomposition import PCA

    tops, lefts = (cell_window_starts(length, side, stride) for length in (reader.height, reader.width))
    shape = len(tops), len(lefts)
    pca, explained = None, []
    tags = {"source": reader.path.name, "patch_size": side, "stride": stride, **(record or {})}
    if components:
        sample = _sample_features(reader, embed, side, stride, batch_size, seed).astype(np.float64)
        if components > (most := min(sample.shape[1], len(sample) - 1)):
            raise ValueError(
                f"--components {components}: {most} at most, for {len(sample)} windows of {sample.shape[1]} features"
            )
        pca = PCA(components, svd_solver="covariance_eigh").fit(sample)
        explained = np.nan_to_num(pca.explained_variance_ratio_).tolist()
        tags |= {
            "pca_seed": seed,
            "pca_windows": len(sample),
            "pca_explained_variance": json.dumps(np.round(explained, 6).tolist()),
        }
        bands, names = components, [f"PCA {n + 1} ({share:.1%})" for n, share in enumerate(explained)]
    else:
        middle = reader.read(tops[len(tops) // 2], lefts[len(lefts) // 2], side, side)[0]
        bands = embed(middle[None]).shape[1]
        names = [f"feature {n}" for n in range(bands)]

    def fill(out: Any) -> None:
        out.update_tags(**{key: str(value) for key, value in tags.items() if value is not None})
        out.descriptions = names
        if bands == 3:
            out.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        batches = shape[0] * math.ceil(shape[1] / batch_size)
        cells = compute_cells(reader, embed, side, stride, batch_size)
        for row, column, usable, features in tqdm(cells, "feature map", batches, leave=False, disable=None):
            values = np.full((bands, 1, len(usable)), np.nan, np.float32)
            if features is not None:
                values[:, 0, usable] = (features if pca is None else pca.transform(features)).T
            out.write(values, window=Window(column, row, len(usable), 1))

    profile = {"count": bands, "dtype": "float32", "nodata": np.nan, "tiled": False, "blockysize": 1}
    write_cog(path, reader, shape, (stride, stride), profile, fill, overviews="average")
    return {"shape": shape, "bands": bands, "explained_variance": explained}
