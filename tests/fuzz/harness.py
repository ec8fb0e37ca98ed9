"""Check that a reader answers damaged files with a result, or with an error that cli.run turns into a line.

FUZZ_EXAMPLES=10000 tries more examples than the 100 of a usual run, which are the same each time.
"""

import contextlib
import io
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 100))
PART = 1000  # examples after which Hypothesis starts anew, since it keeps as much memory for each as a checkpoint has
SECONDS = 20  # limit of one example


class TooSlow(BaseException):
    """An example that takes longer than ``SECONDS``."""


def check_reader(row, folder, keep=()):
    """Feed damaged files to a reader; only ValueError and OSError that name the file may come out.

    Args:
        row: Name of the file, strategy of its content, and function that reads it.
        folder: Empty folder. Files beside the damaged one are removed before each example.
        keep: Names of files that are not.
    """
    name, strategy, read = row
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    @settings(
        max_examples=min(EXAMPLES, PART),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check(content):
        for old in path.parent.glob("*.*"):
            if old.is_file() and old.name not in keep:
                old.unlink()
        path.write_bytes(content)
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                read(path)
        except (ValueError, OSError) as error:
            named = any(word in str(error) for word in (path.name, str(path.parent), "nowhere"))
            assert named, f"{error!r}: which file?"
        finally:
            signal.alarm(0)

    for part in range(-(-EXAMPLES // PART)):
        seed(part)(check)()


def file_bytes(write, suffix):
    """Return the bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        write(path)
        return path.read_bytes()


def npy(array):
    """Return the bytes of an array in a file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
