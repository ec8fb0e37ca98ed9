"""Read and write checkpoint files: written atomically, and read without unpickling code."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from vicreg.common import files

MODEL_FILE = "model.pth"  # everything that is needed to resume
BACKBONE_FILE = "trained_model.pth"  # the backbone alone


def save(payload: dict[str, Any], path: str | Path, previous: str | None = None) -> None:
    """Write a dict of tensors and plain values atomically.

    Args:
        payload: The dict.
        path: The file.
        previous: Name under which the old file is kept in the folder.

    Raises:
        OSError: The disk is full or the folder is not writable; the old file is unchanged.
    """

    def write(tmp_path: Path) -> None:
        with tmp_path.open("wb") as file:  # given a path, torch.save writes its name into the file
            torch.save(payload, file)

    files.atomic_write(path, write, previous)


def check_sums(path: str | Path) -> None:
    """Compare the records of a checkpoint with their checksums; ``torch.load`` does not.

    Raises:
        ValueError: The file is truncated or damaged.
    """
    try:
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
    except Exception as error:  # zipfile raises BadZipFile, UnicodeDecodeError, struct.error and others
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps truncated ({error})") from error
    if damaged:
        raise ValueError(f"{path}: wrong checksum of {damaged}; the file is damaged")


def check_unpacked_size(path: str | Path) -> None:
    """Refuse a file that would take much more memory than its size: PyTorch stores tensors uncompressed.

    Raises:
        ValueError: The records of the file are more than four times as large as the file.
    """
    size = Path(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(record.file_size for record in file.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError):  # the older format, or not readable
        return
    if unpacked > 4 * size + 2**20:
        raise ValueError(f"{path}: {unpacked / 1e6:.0f} MB of tensors in a file of {size / 1e6:.0f} MB; is it intact?")


def load(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """Read a checkpoint with ``torch.load(weights_only=True)``.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: The file is not readable.
        ValueError: It is not a PyTorch file, is truncated, or contains more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    check_unpacked_size(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: contains more than tensors and plain values, or is not a PyTorch file") from error
    except PermissionError:
        raise
    except Exception as error:  # torch raises IndexError, OSError and others on damaged files
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps truncated ({error})") from error
