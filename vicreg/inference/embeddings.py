"""A table of embeddings, one row for each image or patch, as (Geo)Parquet; and the rows that are nearest to one."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from vicreg.common import files
from vicreg.common.files import printable
from vicreg.data.base import BaseDataset, InputSpec, LabeledDataset
from vicreg.data.georeference import one_line
from vicreg.data.image_crops import read_square
from vicreg.data.image_dataset import IMAGENET_MEAN, IMAGENET_STD
from vicreg.data.image_listing import image_paths, log_skipped
from vicreg.data.imagery import ImageryPatches
from vicreg.data.raster_bands import Bands, Levels
from vicreg.data.rasters import stack_images
from vicreg.data.sn7 import SN7Patches
from vicreg.data.tables import read_meta
from vicreg.eval.features import check_features, extract_features
from vicreg.inference.positions import image_columns, imagery_columns, sn7_columns

COLUMN = "embedding"
_CHUNK = 4096  # rows of a row group


class ImageFiles(BaseDataset):
    """Image files of any size and band count without labels, read as their largest centered squares.

    A file that cannot be read is black and named in ``failures``.

    Args:
        paths: Image files.
        side: Side of the squares in pixels.
        channels: Number of channels.
        bands: See ``vicreg.data.raster_bands.choose_bands``.
        levels: See ``vicreg.data.images.open_reader``.

    Attributes:
        failures: Message of each file that could not be read, by index.
    """

    def __init__(self, paths: Sequence[str], side: int, channels: int, bands: Bands, levels: Levels):
        self.paths, self.patch_size, self.classes = list(paths), side, []
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ([0.0] * channels, [1.0] * channels)
        self.levels, self.failures = levels, dict[int, str]()
        self._bands = bands

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Read images: uint8 or uint16 tensor (n, C, side, side)."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            return torch.from_numpy(stack_images(list(pool.map(self._read, indices))))

    def _read(self, index: int) -> np.ndarray:
        try:
            return read_square(self.paths[index], self.patch_size, self._bands, self.levels, deep=True)
        except ValueError as error:
            self.failures[index] = str(error)
            return np.zeros((len(self.mean), self.patch_size, self.patch_size), np.uint8)


def open_patches(csv_dir: Path) -> tuple[SN7Patches, pd.DataFrame]:
    """Open a folder of ``make_sn7_csv.py`` or ``make_imagery_csv.py``: all of its patches, and columns about them."""
    meta = read_meta(csv_dir)
    if "shards" in meta:
        dataset = ImageryPatches(csv_dir / "all.csv")
        return dataset, imagery_columns(dataset.table, meta)
    patches = SN7Patches(csv_dir / "all.csv")
    return patches, sn7_columns(patches.table, meta.get("grid", 4))


def open_images(
    data_dir: Path, side: int, channels: int, bands: Bands, levels: Levels
) -> tuple[ImageFiles, pd.DataFrame]:
    """Open a folder of image files at any depth, and columns about them; see ``ImageFiles``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no images.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder {data_dir}; --data-dir is a folder of images")
    skipped: list[str] = []
    paths = image_paths(data_dir, skipped=skipped)
    log_skipped(data_dir, skipped)
    if not paths:
        raise ValueError(f"no images in {data_dir}")
    columns = image_columns(paths).assign(path=[os.path.relpath(path, data_dir) for path in paths])
    return ImageFiles(paths, side, channels, bands, levels), columns


def embed(
    backbone: nn.Module,
    dataset: LabeledDataset,
    spec: InputSpec,
    device: torch.device,
    batch_size: int,
    failures: Mapping[int, str],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed a data set in chunks.

    ``failures`` holds the rows that could not be read, and grows as the data set reads them.

    Yields:
        Row numbers (n,), without those of ``failures``, and float32 embeddings (n, F).

    Raises:
        ValueError: Embeddings are not finite.
    """
    for start in range(0, len(dataset), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(dataset)))
        features = extract_features(backbone, dataset, spec, device, rows, batch_size=batch_size).cpu()
        check_features(features, "--pretrained")
        readable = np.array([row not in failures for row in rows], bool)
        yield rows[readable], features.numpy()[readable]


def write_table(
    path: Path,
    columns: pd.DataFrame,
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    size: int,
    record: dict[str, Any],
) -> int:
    """Write a Parquet file with a fixed-size list column ``embedding``; GeoParquet 1.0 if there are positions.

    Args:
        path: File to write.
        columns: Columns of the rows; ``longitude`` and ``latitude`` become points, ``date`` a date.
        chunks: Row numbers and embeddings, see ``embed``.
        size: Size of an embedding.
        record: Plain values on how they were made, for the metadata of the file.

    Returns:
        Number of rows written.

    Raises:
        ValueError: There are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    positions = columns[["longitude", "latitude"]].to_numpy()
    columns = columns.drop(columns=["longitude", "latitude"])
    located = np.isfinite(positions).all(1)
    metadata = {"vicreg": json.dumps(record)}
    if located.any():
        box = [*positions[located].min(0), *positions[located].max(0)]
        column = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": box}  # no "crs": longitude, latitude
        metadata["geo"] = json.dumps(
            {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
        )

    def chunk_table(rows: np.ndarray, features: np.ndarray) -> Any:
        arrays = {}
        for name, values in columns.iloc[rows].items():
            is_number = pd.api.types.is_integer_dtype(columns[name])
            arrays[str(name)] = pa.array(values.tolist(), pa.int64() if is_number else pa.string())
        if "date" in arrays:
            arrays["date"] = pa.array([text or None for text in columns.date.iloc[rows]], pa.string()).cast(pa.date32())
        if "geo" in metadata:
            points = shapely.to_wkb(shapely.points(positions[rows]), byte_order=1)
            arrays["geometry"] = pa.array(np.where(located[rows], points, None), pa.binary())
        flat = pa.array(np.ascontiguousarray(features, np.float32).ravel())
        arrays[COLUMN] = pa.FixedSizeListArray.from_arrays(flat, size)
        return pa.table(arrays).replace_schema_metadata(metadata)

    def save(tmp_path: Path) -> int:
        schema, count = chunk_table(np.arange(0), np.empty((0, size))).schema, 0
        with pq.ParquetWriter(tmp_path, schema, compression="zstd") as writer:
            for rows, features in chunks:
                if len(rows):
                    writer.write_table(chunk_table(rows, features))
                    count += len(rows)
        if not count:
            raise ValueError(f"none of {len(columns)} images can be read; {path} is not written")
        return count

    return files.atomic_write(path, save)


def nearest(path: Path, query: str, k: int = 10) -> pd.DataFrame:
    """List the rows of a table whose embeddings are most similar to that of one row.

    Args:
        path: File of ``write_table``, or another Parquet file with the columns ``path`` and ``embedding``.
        query: Row number, or the path of a row.
        k: Number of rows.

    Returns:
        DataFrame of k rows, the most similar one first: ``row``, ``similarity`` (cosine), and the columns of the table.

    Raises:
        ValueError: The file is no such table, or ``query`` does not name one row of it.
    """
    import pyarrow.parquet as pq

    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"no file {path}")
    with _reading(path):
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if name not in (COLUMN, "geometry")]
    if COLUMN not in file.schema_arrow.names or "path" not in names:
        raise ValueError(f"{path} has no columns path and {COLUMN}; write it with embed.py --pretrained")
    with _reading(path):
        (stored := file.read(columns=names)).validate(full=True)  # text that is not UTF-8 fails later
        table = stored.to_pandas()
    row = _find_row(table.path.fillna("").astype(str).tolist(), query, path)

    def batches() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(_CHUNK, columns=[COLUMN]):
            vectors = np.stack(batch.column(0).to_numpy(zero_copy_only=False)).astype(np.float32)
            yield vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    with _reading(path):
        vector = next(itertools.islice(itertools.chain.from_iterable(batches()), row, None))
        similarity = np.concatenate([vectors @ vector for vectors in batches()])
    order = (ranked := np.argsort(-similarity, kind="stable"))[ranked != row][:k]
    result = table.iloc[order].reset_index(drop=True)
    result.insert(0, "row", order)
    result.insert(1, "similarity", similarity[order])
    return result


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in errors of pyarrow, which are of many types."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read as Parquet ({one_line(error)})") from error


def _find_row(paths: list[str], query: str, path: Path) -> int:
    """Return the row that ``--knn`` names."""
    rows = [row for row, name in enumerate(paths) if query in (name, os.path.basename(name))]
    if len(rows) == 1:
        return rows[0]
    if rows:
        shown = ", ".join(map(str, rows[:5])) + ", …" * (len(rows) > 5)
        raise ValueError(f"--knn {printable(query)}: {len(rows)} rows of {path} have this path; name one row: {shown}")
    if not query.isdecimal() or int(query) >= len(paths):
        raise ValueError(f"--knn {printable(query)}: no such path in {path}, and no row number (0 to {len(paths) - 1})")
    return int(query)
