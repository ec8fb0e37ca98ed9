"""The file ``result.json`` of an evaluation, with the same facts for every task."""

from pathlib import Path
from typing import Any

from vicreg.common.files import write_json

SCHEMA = 1
RESULT_FILE = "result.json"
REQUIRED = (
    "task", "dataset", "protocol", "arch", "source", "train_samples", "val_samples", "overlap", "intervals",
    "intervals_of", "selected_on_validation",
)  # fmt: skip


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result.

    Args:
        path: The file.
        result: Metrics by name, and what they are of: ``task`` (``"classification"``, ``"segmentation"`` or
            ``"detection"``), ``dataset`` and ``protocol``; ``arch`` and ``source`` of the backbone; ``train_samples``
            and ``val_samples``; ``overlap`` of the split (see ``vicreg.data.leakage.overlap``); ``intervals``: ends
            of the 95 % interval of metrics by name, and ``intervals_of``: what was resampled, or why there are none;
            ``selected_on_validation``: names of metrics whose epoch was selected on the validation samples that they
            are of, so that they are too high.

    Raises:
        ValueError: One of these is missing.
        OSError: The disk is full or the folder is not writable.
    """
    if missing := [name for name in REQUIRED if name not in result]:
        raise ValueError(f"{path}: a result needs {', '.join(missing)}")
    write_json(path, {"schema": SCHEMA, **result})
