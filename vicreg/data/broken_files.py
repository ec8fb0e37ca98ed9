"""Find broken image files before a run starts, in threads."""

import functools
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from vicreg.common.files import printable
from vicreg.common.logger import log
from vicreg.data.image_crops import check_image
from vicreg.data.image_io import UnsupportedImage, check_pixels, check_regular, error_reason
from vicreg.data.raster_bands import Levels
from vicreg.distributed.shares import map_shares

_CHUNK = 256  # files per task of a thread
_MAX_LISTED = 5  # files left out, in the message
_JPEG, _PNG = (b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")  # first and last bytes

P = TypeVar("P")
R = TypeVar("R")


def find_broken(
    paths: Sequence[str | Path],
    workers: int = 8,
    progress: Callable[..., Iterable[Any]] = lambda chunks, total: chunks,
    bands: Sequence[int] | None = None,
    levels: Levels = None,
) -> dict[int, str]:
    """Find empty, truncated and unreadable image files without decoding the good ones. A collective call.

    The first and last bytes of JPEG and PNG files show nearly all truncations. Files that look odd there are decoded
    completely, so that good files with data after their end are kept. For other formats the header is read, with
    ``bands`` and ``levels`` as for ``vicreg.data.images.open_reader``.

    Returns:
        Index of each broken file -> reason.

    Raises:
        UnsupportedImage: A file needs an option, such as ``--levels``.
    """
    check = functools.partial(_why_broken, bands=bands, levels=levels)
    reasons = map_shares(lambda share: map_in_threads(check, share, workers, progress), paths)
    return {index: reason for index, reason in enumerate(reasons) if reason}


def log_left_out(reasons: Sequence[tuple[str | Path, str]], total: int) -> None:
    """Log the files that are left out of ``total`` files, and why each of them cannot be used."""
    if reasons:
        lines = [f"  {printable(path, '')}: {printable(reason, '')}" for path, reason in reasons[:_MAX_LISTED]]
        more = [f"  … and {len(reasons) - _MAX_LISTED} more"] if len(reasons) > _MAX_LISTED else []
        log("\n".join([f"{len(reasons)} of {total} files are left out:", *lines, *more]))


def map_in_threads(
    function: Callable[[P], R], paths: Sequence[P], workers: int, progress: Callable[..., Iterable[Any]]
) -> Iterator[R]:
    """Apply a function to millions of paths in threads, without a task for each; yield the results in order.

    ``progress``, such as ``tqdm``, is a function (iterator, total) -> iterator over chunks of paths.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda chunk: [function(path) for path in chunk], chunks)
        yield from itertools.chain.from_iterable(progress(results, total=len(chunks)))


def _why_broken(path: str | Path, bands: Sequence[int] | None, levels: Levels) -> str:
    """Return why an image file cannot be used, or an empty string."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            first = file.read(26)
            file.seek(-min(12, file.seek(0, os.SEEK_END)), os.SEEK_END)
            last = file.read()
        if not first:
            return "empty file (zero bytes)"
        if bands is None and any(first.startswith(begin) and last.endswith(end) for begin, end in (_JPEG, _PNG)):
            if first.startswith(_JPEG[0]):
                return ""
            width, height, bits = struct.unpack(">IIB", first[16:25])
            check_pixels(width, height)
            if bits <= 8:
                return ""
        check_image(path, bands, levels)
        return ""
    except (MemoryError, UnsupportedImage):
        raise
    except Exception as error:  # every decoder raises its own
        return error_reason(error, path)
