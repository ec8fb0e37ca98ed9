"""Write files atomically: under a temporary name in the same folder, renamed when complete."""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
_pids = Path("/proc/self/ns/pid")  # containers of one host name have process numbers of their own
_HOST = socket.gethostname().partition(".")[0] + (f"-{_pids.stat().st_ino:x}" if _pids.exists() else "")
_swept: set[Path] = set()  # folders without temporary files of killed processes


def atomic_write(path: str | Path, write: Callable[[Path], Result], previous: str | None = None) -> Result:
    """Write a file under a temporary name, flush it to disk and rename it; a failure leaves the old file.

    Args:
        path: The file.
        write: Function that writes to the path that it is given. That path has the same suffix as ``path``.
        previous: Name under which the old file is kept in the folder. It is replaced by default.

    Returns:
        What ``write`` returns.

    Raises:
        OSError: The disk is full or the folder is not writable.

    Example:
        >>> atomic_write("figure.png", figure.savefig)  # doctest: +SKIP
    """
    path = Path(path)
    tmp_path = path.with_name(f".{path.stem}.{_HOST}-{os.getpid()}.partial{path.suffix}")
    _sweep(path.parent)
    try:
        result = write(tmp_path)
        with tmp_path.open("rb") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _link_previous(path, path.with_name(previous))
        os.replace(tmp_path, path)
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError of its own over the OSError
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError) or reason.errno is None or reason.filename not in (None, str(tmp_path)):
            raise  # such as an error in reading the data that is to be written
        kept = "The old file is unchanged" if path.exists() else "Nothing was written"
        raise OSError(
            f"cannot write {path}: {reason.strerror}; check free space and permissions there, or choose another "
            f"folder. {kept}"
        ) from error
    finally:
        tmp_path.unlink(missing_ok=True)
    return result


def _sweep(folder: Path) -> None:
    """Remove temporary files of killed processes of this machine, once for each folder."""
    if folder not in _swept:
        _swept.add(folder)
        for path in folder.glob(".*.partial*"):
            if (match := re.search(rf"\.{re.escape(_HOST)}-(\d+)\.partial", path.name)) and not _is_running(match[1]):
                path.unlink(missing_ok=True)


def _link_previous(path: Path, previous: Path) -> None:
    """Give a file a second name, so that neither name is missing at any moment."""
    tmp_path = previous.with_name(f".{previous.stem}.{_HOST}-{os.getpid()}.partial{previous.suffix}")
    try:
        os.link(path, tmp_path)
    except OSError:  # a file system without hard links
        os.replace(path, previous)
    else:
        os.replace(tmp_path, previous)


def remove_partial_files(folder: str | Path) -> None:
    """Remove temporary files that killed processes left in a folder. No other process may be writing there."""
    for path in filter(Path.is_file, Path(folder).glob(".*.partial*")):
        path.unlink(missing_ok=True)


def printable(text: object, allowed: str = "\n") -> str:
    """Escape what is not printable, such as terminal control codes and undecodable bytes in file names.

    Args:
        text: Text, or a path.
        allowed: Characters to leave as they are; "" for names on one line.
    """
    return "".join(
        char if char.isprintable() or char in allowed else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(text)
    )


def csv_cell(text: object) -> str:
    """Return text for a table that spreadsheets open: printable, and not taken for a formula."""
    cell = printable(text, "")
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file; a byte order mark is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def check_outside(out_dir: str | Path, folder: str | Path, flag: str = "--exp-dir") -> None:
    """Check that results are not written to a folder of images, where the next run would read them.

    Args:
        out_dir: Folder of the results.
        folder: Folder of the images.
        flag: Option that named ``out_dir``.

    Raises:
        ValueError: ``out_dir`` is ``folder`` or inside of it.
    """
    out, inside = Path(out_dir).resolve(), Path(folder).resolve()
    if out == inside or inside in out.parents:
        raise ValueError(f"{flag} {out_dir} is in the folder of images {folder}; choose a folder outside of it")


def file_digest(path: str | Path) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    atomic_write(path, lambda tmp_path: tmp_path.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_bytes(path: str | Path, content: bytes, check: Callable[[Path], Result]) -> Result:
    """Write bytes atomically, if they pass a check.

    Args:
        path: The file.
        content: Its content.
        check: Function that checks the file under its temporary name. If it raises, the old file stays.

    Returns:
        What ``check`` returns.

    Raises:
        OSError: The disk is full or the folder is not writable.
    """

    def write(tmp_path: Path) -> Result:
        tmp_path.write_bytes(content)
        return check(tmp_path)

    return atomic_write(path, write)


@contextmanager
def partial_folder(out_dir: str | Path) -> Iterator[Path]:
    """Make a temporary folder in ``out_dir`` for files to ``publish``; remove it at the end.

    Temporary folders of killed processes of this machine are removed first. If ``out_dir`` did not exist and is empty
    at the end, it is removed too.
    """
    existed = (out_dir := Path(out_dir)).is_dir()
    out_dir.mkdir(parents=True, exist_ok=True)
    prefix = f".partial-{_HOST}-"
    for stale in out_dir.glob(f"{prefix}*"):
        if not _is_running(stale.name.removeprefix(prefix)):
            shutil.rmtree(stale)
    partial = out_dir / f"{prefix}{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial)
        if not existed and not any(out_dir.iterdir()):
            out_dir.rmdir()


def publish(partial: str | Path, out_dir: str | Path, names: Sequence[str]) -> None:
    """Move files and folders from ``partial_folder`` to the output folder, replacing the old ones of these names.

    A name that is missing in ``partial`` is removed from ``out_dir``. ``meta.json`` is removed first and moved last: a
    folder without it is incomplete, and readers refuse it.

    Args:
        partial: Temporary folder.
        out_dir: Output folder, on the same file system.
        names: Names of the outputs, with or without ``meta.json``.
    """
    partial, out_dir = Path(partial), Path(out_dir)
    (out_dir / "meta.json").unlink(missing_ok=True)
    for name in [*(name for name in names if name != "meta.json"), "meta.json"]:
        if (out_dir / name).is_dir():
            shutil.rmtree(out_dir / name)
        if (partial / name).exists():
            os.replace(partial / name, out_dir / name)
        else:
            (out_dir / name).unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):  # another user's process, or not a number
        pass
    return True


def check_writable(path: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """Check that a file can be written, before the work that computes it.

    Args:
        path: The file; it may exist.
        suffixes: Allowed suffixes; any by default.

    Raises:
        ValueError: ``path`` is a folder or has another suffix.
        OSError: The folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: the suffix tells readers the format; use {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.parent} is not writable; change its permissions or choose another folder")
    return path
