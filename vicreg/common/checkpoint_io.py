"""Read and write checkpoint files: whole or not at all, and never unpickled."""

import os
import pickle
import zipfile
from pathlib import Path

import torch

MODEL_FILE = "model.pth"  # everything needed to go on
BACKBONE_FILE = "trained_model.pth"  # the backbone alone, for everybody else


def save(payload, path, previous=None):
    """Write a dict of tensors and plain values beside ``path``, then rename, so that a crash leaves the old file.

    Args:
        payload: the dict. path: the file. previous: name under which the old file stays in the folder, if at all.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            _keep(path, path.with_name(previous))
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        # torch hides what the system said behind an error of its own
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(
            f"cannot write {path}: {reason.strerror or reason}; free space there or choose another --exp-dir. "
            f"{'What was there before is untouched' if path.exists() else 'Nothing was written'}"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _keep(path, previous):
    """Give a file a second name, at no moment without either."""
    beside = previous.with_name(f".{previous.name}.{os.getpid()}.partial")
    try:
        os.link(path, beside)
    except OSError:  # a file system without links
        os.replace(path, previous)
    else:
        os.replace(beside, previous)


def _check_sums(path):
    """Compare the file's parts with their checksums: torch does not, and would take a spoilt block for weights.

    Raises:
        ValueError: a part is not what was written.
    """
    try:
        spoilt = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps cut short ({error})") from error
    if spoilt:
        raise ValueError(f"{path}: {spoilt} is not what was written; the file is damaged")


def load(path, map_location="cpu"):
    """Read a file of weights with ``weights_only=True``.

    Raises:
        FileNotFoundError: no such file. PermissionError: it may not be read.
        ValueError: not a PyTorch file, cut short, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: holds more than tensors and plain values, or is no PyTorch file; refused") from error
    except PermissionError:
        raise
    except Exception as error:  # torch lets out whatever it stumbles over: IndexError, OSError without a path, …
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps cut short ({error})") from error
