"""Files that are there whole, or not at all: written beside, and looked at if need be, before they take their name."""

import json
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def partial_folder(out_dir):
    """A folder inside ``out_dir`` to write into; gone afterwards, whatever happens, and with it an empty out_dir.

    What a killed run of this machine left behind is removed first; its process is known by the folder's name.
    """
    out_dir = Path(out_dir)
    existed = out_dir.is_dir()
    out_dir.mkdir(parents=True, exist_ok=True)
    prefix = f".partial-{socket.gethostname()}-"
    for left_over in out_dir.glob(f"{prefix}*"):
        if not _is_running(left_over.name.removeprefix(prefix)):
            shutil.rmtree(left_over)
    partial = out_dir / f"{prefix}{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial)
        if not existed and not any(out_dir.iterdir()):
            out_dir.rmdir()


def _is_running(process):
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass  # somebody else's, or not a number: leave it alone
    return True


def check_writable(path, suffixes=()):
    """Make sure that a file can be written, before the work that fills it.

    Args:
        path: the file; one that exists will be replaced. suffixes: endings that its readers know it by, default any.

    Returns:
        Path.

    Raises:
        ValueError: a folder, or another ending. OSError: the folder is missing or may not be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: its readers tell the format by the name; let it end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it, or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path.parent} cannot be written; change its permissions, or choose another folder")
    return path


def atomic_write(path, save):
    """Let ``save`` write a file beside ``path``, then rename, so that a failure leaves the old file, or none.

    Args:
        path: the file. save: function of the path to write, which has the same ending.

    Returns:
        what ``save`` returned.
    """
    path = Path(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        found = save(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return found


def write_text(path, text):
    """Write text in UTF-8 beside ``path``, then rename."""
    atomic_write(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_bytes(path, content, check=None):
    """Write bytes beside ``path``, then rename, so that a failure leaves the old file, or none.

    Args:
        path: the file. content: bytes. check: function of the path beside (of the same ending), called before the
            file takes its name; what it raises leaves the old file.

    Returns:
        what ``check`` returned.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)

    def save(beside):
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            kept = "What was there before is untouched" if path.exists() else "Nothing was written"
            raise OSError(f"cannot write {path}: {error.strerror or error}; choose another place. {kept}") from error
        return check(beside) if check else None

    return atomic_write(path, save)


def write_json(path, content):
    """Write JSON beside ``path``, then rename."""
    write_text(path, json.dumps(content, indent=2) + "\n")
