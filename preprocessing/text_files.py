"""Read text that users wrote: UTF-8 with or without a byte order mark, comma or semicolon separated tables, JSON."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from vicreg.common.files import read_text


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def delimiter(text: str) -> str:
    """Return the delimiter of a table: the most frequent of ``,``, ``;`` and tab in its first line."""
    return max(",;\t", key=text.partition("\n")[0].count)


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table with a header. All values are text, so that identifiers such as 007 keep their form.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, not UTF-8, or its rows differ in length.
    """
    text = read_text(path)
    try:
        return pd.read_csv(StringIO(text), sep=delimiter(text), dtype=str, keep_default_na=False, skipinitialspace=True)
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: not a table ({error})") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path}: empty file") from error
