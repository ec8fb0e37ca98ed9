"""Read JSON files, and check their values."""

import json
import math
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


def is_numbers(value: Any) -> bool:
    """Return whether a value read from a file is a list of finite numbers."""
    return isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)


def is_pair(value: Any) -> bool:
    """Return whether a value read from a file is a list of two finite numbers."""
    return is_numbers(value) and len(value) == 2


def is_levels(value: Any) -> bool:
    """Return whether a value read from a file is a pair of ascending numbers, or a list of such pairs."""
    pairs = [value] if is_pair(value) else value
    return isinstance(pairs, (list, tuple)) and all(is_pair(pair) and pair[0] < pair[1] for pair in pairs)
