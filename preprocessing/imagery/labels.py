"""Labels of patches: class folders, a table of images, or polygons."""

from collections import defaultdict
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
    labeled = rows[key].str.replace("\\", "/", regex=False)
    class_of = dict(zip(labeled, rows[column], strict=True))
    for name, label in zip(labeled, rows[column], strict=True):
        if label != class_of[name]:
            raise ValueError(f"{path}: {name} has two classes, {label} and {class_of[name]}")
    names = set(table.image_id)
    files: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        short = (PurePosixPath(name).name, PurePosixPath(name).stem)
        keys = (name, *(key for key in short if key not in names))  # the path of another file belongs to that one
        if known := next((key for key in keys if key in class_of), None):
            files[known].append(name)
    for name, matches in files.items():
        if len(matches) > 1:
            raise ValueError(f"{path}: {name} is the name of {' and '.join(matches[:2])}; write paths instead of names")
    return table.image_id.map(dict.fromkeys(names, "") | {file: class_of[name] for name, [file] in files.items()})


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
