"""Files of a prepared folder: lists of samples as CSV files, and ``meta.json``."""

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vicreg.common.files import file_digest
from vicreg.common.json_files import is_numbers, is_pair, read_json

FORMAT = 1  # of meta.json
_IMAGERY_KEYS = ("classes", "patch_size", "rows", "dtype", "scale", "mean", "std", "grids")


def read_table(path: str | Path, integers: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a CSV file in UTF-8; a byte order mark is dropped. Columns are text but for ``integers``.

    Raises:
        ValueError: The file cannot be read as a table, or a column of ``integers`` has other values.
    """
    types = {column: "int64" for column in integers}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            names = options.get("names") or pd.read_csv(file, nrows=0).columns
            file.seek(0)
            kinds = {name: types.get(name, "str") for name in names}
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
                return pd.read_csv(file, keep_default_na=False, dtype=kinds, index_col=False, **options)
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:  # they do not name the file
        raise ValueError(f"{path}: not a table of samples ({error}); write it again") from error


def check_ranges(path: str | Path, table: pd.DataFrame, **limits: tuple[int, int]) -> None:
    """Raise ValueError unless the columns named by ``limits`` are within (lowest, highest)."""
    for column, (low, high) in limits.items():
        outside = table[column][(table[column] < low) | (table[column] > high)]
        if len(outside):
            raise ValueError(f"{path}: {column} {outside.iloc[0]} is not in {low} to {high}; write it again")


def read_meta_file(path: str | Path) -> dict[str, Any]:
    """Read a ``meta.json`` and check the values that data sets use, where it has them.

    Raises:
        ValueError: The file is damaged.
    """

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    def objects(value: Any, **types: type) -> bool:
        return isinstance(value, list) and all(
            isinstance(item, dict) and all(isinstance(item.get(key), kind) for key, kind in types.items())
            for item in value
        )

    is_valid: dict[str, Callable[[Any], bool]] = {
        "classes": lambda value: texts(value) and (len(value) > 0 or "shards" in meta),  # imagery may have no labels
        "splits": lambda value: isinstance(value, (dict, list)) and texts(list(value)),
        "mean": lambda value: is_numbers(value) and len(value) > 0,
        "std": lambda value: is_numbers(value) and len(value) > 0 and min(value) > 0,
        "rows": lambda value: isinstance(value, int),
        "patch_size": lambda value: isinstance(value, int) and value > 0,
        "counts": lambda value: isinstance(value, dict),
        "sha256": lambda value: isinstance(value, dict) and all(Path(name).name == name for name in value),
        "grid": lambda value: isinstance(value, int) and 0 < value <= 2**10,
        "shards": lambda value: objects(value, file=str, rows=int, sha256=str),
        "scale": lambda value: value is None or (isinstance(value, list) and all(map(is_pair, value))),
        "dtype": lambda value: value in ("uint8", "uint16"),
        "grids": lambda value: (
            objects(value, crs=str)
            and all(is_pair(grid.get(key)) for grid in value for key in ("origin", "resolution"))
        ),
        "source": lambda value: (
            texts(sources := [value] if isinstance(value, str) else value) and not any("\0" in text for text in sources)
        ),
    }
    try:
        meta = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; write the folder again") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} is damaged (not a JSON object); write the folder again")
    if "shards" in meta and (missing := [key for key in _IMAGERY_KEYS if key not in meta]):
        raise ValueError(f"{path} is damaged (no {missing[0]}); write the folder again")
    if wrong := [key for key, valid in is_valid.items() if key in meta and not valid(meta[key])]:
        raise ValueError(f"{path} is damaged ({wrong[0]}: {str(meta[wrong[0]])[:100]}); write the folder again")
    return meta


def check_rows(path: Path, rows: int, meta: dict[str, Any]) -> None:
    """Raise ValueError if a list of a prepared folder has another number of rows than ``meta.json`` says."""
    expected = meta.get("rows") if path.name == "all.csv" else meta.get("counts", {}).get(path.stem)
    if expected not in (None, rows):
        raise ValueError(
            f"{path} has {rows} rows, meta.json says {expected}: it is truncated, or was replaced; write the folder "
            "again, or give a list of your own another name"
        )


def read_meta(csv_dir: str | Path) -> dict[str, Any]:
    """Read ``meta.json`` of a prepared folder.

    Raises:
        FileNotFoundError: The folder is not (completely) written.
        ValueError: The file is damaged, or of a later version.
    """
    path = Path(csv_dir) / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; write the folder with make_sn7_csv.py or make_imagery_csv.py --out-dir {csv_dir}"
        )
    meta = read_meta_file(path)
    if (version := meta.get("format", FORMAT)) != FORMAT:
        raise ValueError(f"{path} has format {version!r}, this version reads {FORMAT}; write the folder again")
    return meta


def add_verify_argument(group: argparse._ActionsContainer) -> None:
    """Add ``--verify-data``, for scripts that read a prepared folder; ``verify_folder`` does it."""
    group.add_argument(
        "--verify-data", action="store_true", help="first compare all files of --csv-dir with the digests in meta.json"
    )


def verify_folder(csv_dir: str | Path) -> str:
    """Compare the contents of a prepared folder with the digests in its ``meta.json``.

    Returns:
        One line on what was compared.

    Raises:
        ValueError: A file was changed or is missing, or ``meta.json`` has no digests.
    """
    folder, digests = Path(csv_dir), read_meta(csv_dir).get("sha256")
    if not digests:
        raise ValueError(f"--verify-data: {folder / 'meta.json'} records no digests; write the folder again")
    for name, expected in digests.items():
        if not (folder / name).is_file() or file_digest(folder / name) != expected:
            raise ValueError(f"--verify-data: {folder / name} is missing or was changed; write the folder again")
    return f"{csv_dir}: {', '.join(digests)} are as they were written"
