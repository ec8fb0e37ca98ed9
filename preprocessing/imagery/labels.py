"""Labels of patches: class folders, a table of images, or polygons."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from preprocessing.text_files import read_csv
from preprocessing.vector_files import read_vector
from vicreg.data.georeference import one_line
from vicreg.data.raster_pack.grids import Grid

_MIN_COVER = 0.5  # part of a patch that labeled polygons cover
_NAME_COLUMNS = ("path", "image_id", "image", "file", "filename", "name")


def label_patches(
    table: pd.DataFrame, labels: str, column: str | None, grids: Sequence[Grid], patch_size: int
) -> tuple[np.ndarray, list[str]]:
    """Return the label of each patch, int64 (n,) with -1 for none, and the class names.

    Args:
        table: Patch list.
        labels: ``folders``, for the folder of each file; a CSV with a column of file names; or a file of polygons.
        column: Column of the class in the CSV or of the polygons.
        grids: Grids of the patches.
        patch_size: Side of the patches in pixels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no such column, or no patch has a label.
    """
    if labels == "folders":
        classes_of = {name: PurePosixPath(name).parent.name for name in table.image_id.unique()}
        if "" in classes_of.values():
            raise ValueError("--labels folders: files lie outside of class folders, such as "
                             f"{next(name for name, label in classes_of.items() if not label)}")  # fmt: skip
        names = table.image_id.map(classes_of)
    else:
        path = Path(labels)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; --labels takes a CSV, a file of polygons, or the word folders")
        if column is None:
            raise ValueError(f"--labels {path}: name the column of the class with --label-column")
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            names = _from_csv(table, path, column)
        else:
            names = _from_polygons(table, path, column, grids, patch_size)
    classes = sorted(set(names) - {""})
    if not classes:
        raise ValueError(f"--labels {labels}: no patch gets a label")
    indices = {name: index for index, name in enumerate(classes)} | {"": -1}
    return names.map(indices).to_numpy(np.int64), classes


def _check_column(columns: Sequence[Any], column: str, path: Path) -> None:
    if column not in columns:
        raise ValueError(f"{path}: no column {column}; it has {', '.join(map(str, columns))}")


def _from_csv(table: pd.DataFrame, path: Path, column: str) -> pd.Series:
    """Return the class of each patch from the row of its file: by path, or by name without folders or suffix."""
    rows = read_csv(path)
    _check_column(rows.columns, column, path)
    key = next((name for name in _NAME_COLUMNS if name in rows.columns), rows.columns[0])
    by_path = dict(zip(rows[key].str.replace("\\", "/", regex=False), rows[column], strict=True))

    def find(name: str) -> str:
        pure = PurePosixPath(name)
        return next((by_path[key] for key in (name, pure.name, pure.stem) if key in by_path), "")

    return table.image_id.map({name: find(name) for name in table.image_id.unique()})


def _from_polygons(table: pd.DataFrame, path: Path, column: str, grids: Sequence[Grid], patch_size: int) -> pd.Series:
    """Return the class that covers most of each patch; "" where polygons cover less than half of it."""
    import shapely

    polygons = read_vector(path)
    _check_column(polygons.columns, column, path)
    polygons = polygons[polygons[column].notna()]
    if polygons.crs is None:
        raise ValueError(f"{path}: polygons without a coordinate reference system")
    cells = table.drop_duplicates("location").reset_index(drop=True)
    labels = pd.Series("", index=cells.location)
    for number, grid in enumerate(grids):
        inside = cells[cells.grid == number]
        try:
            shapes = polygons.to_crs(grid.crs)
        except Exception as error:  # errors of PROJ have no public base class
            raise ValueError(f"{path}: cannot be transformed to the scenes' system ({one_line(error)})") from error
        left, top = grid.x0 + inside.column.to_numpy() * grid.xres, grid.y0 - inside.line.to_numpy() * grid.yres
        boxes = shapely.box(left, top - patch_size * grid.yres, left + patch_size * grid.xres, top)
        geometry = shapely.make_valid(shapes.geometry.to_numpy())
        box, polygon = shapely.STRtree(geometry).query(boxes, predicate="intersects")
        area = shapely.area(shapely.intersection(boxes[box], geometry[polygon])) / shapely.area(boxes)[box]
        names = shapes[column].astype(str).to_numpy()[polygon]
        cover = pd.DataFrame({"location": inside.location.to_numpy()[box], "name": names, "area": area})
        cover = cover.groupby(["location", "name"], as_index=False).area.sum()
        enough = cover.groupby("location").area.transform("sum") >= _MIN_COVER
        majority = cover[enough].sort_values(["area", "name"]).drop_duplicates("location", keep="last")
        labels[majority.location] = majority["name"].to_numpy()
    return table.location.map(labels)
