"""Read JSON files."""

import json
from pathlib import Path
from typing import Any

from vicreg.common.files import read_text


def read_json(path: str | Path) -> Any:
    """Read a JSON file in UTF-8; a byte order mark is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON, or is nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise ValueError(f"{path}: not JSON ({error})") from error
