"""Read text that users wrote: UTF-8 with or without a byte order mark, comma or semicolon separated tables."""

from io import StringIO
from pathlib import Path

import pandas as pd

from vicreg.common.files import read_text


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
