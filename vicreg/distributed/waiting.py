"""Wait for files that the main process writes; not in a barrier, which would time out."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vicreg.distributed import process_group

_POLL_SECONDS = 0.5
T = TypeVar("T")


def wait_for_main(read: Callable[[], T | None], folder: Path) -> T:
    """Call a function until it returns what the main process has written.

    Args:
        read: Function that returns the result, or None while there is none.
        folder: Folder that the main process writes to. While the sizes of its files change, it is at work.

    Raises:
        ConnectionError: Nothing was written for the time limit of collectives.
    """
    written, changed = -1, time.monotonic()
    while (result := read()) is None:
        total = 0
        with contextlib.suppress(FileNotFoundError):  # also of temporary folders in it
            total = sum(path.stat().st_size for path in Path(folder).rglob("*"))
        if total != written:
            written, changed = total, time.monotonic()
        elif (seconds := time.monotonic() - changed) > process_group.timeout_seconds():
            raise ConnectionError(
                f"rank 0 has written nothing to {folder} for {seconds:.0f} s; see its message, and check that all "
                "processes share this folder. If it was only slow, raise --timeout-minutes"
            )
        time.sleep(_POLL_SECONDS)
    return result
