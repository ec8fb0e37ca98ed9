"""Read and write checkpoint files: written atomically, and read without unpickling code.

A file holds the sha256 of its content under ``"content_sha256"``, which is compared on reading. Files without one, of
older versions or other libraries, are checked by the checksums of their records alone.
"""

import argparse
import collections
import hashlib
import pathlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicreg.common import files

MODEL_FILE = "model.pth"  # everything that is needed to resume
BACKBONE_FILE = "trained_model.pth"  # the backbone alone

_DIGEST = "content_sha256"
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # at the beginning of files of PyTorch before 1.6


class _Settings(dict):
    """Stands for OmegaConf's classes: holds their settings and runs nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})


_ATTRIBUTE_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict",
)  # fmt: skip
_SETTINGS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")), "typing.Any",
)  # fmt: skip
# Plain values in checkpoints of other projects, by the names under which they are pickled. None of them runs code.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]  # in modules that NumPy 2 renamed
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace, dict, list, str, int, collections.defaultdict,
    *((collections.OrderedDict, name) for name in _ATTRIBUTE_DICTS), *((_Settings, name) for name in _SETTINGS),
    np.dtype, np.ndarray, *{type(np.dtype(kind)) for kind in np.sctypeDict.values()},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *(
        (pathlib.PurePosixPath if "Posix" in name else pathlib.PureWindowsPath, f"pathlib{module}.{name}")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
        for module in ("", "._local")
    ),
]  # fmt: skip


def save(payload: dict[str, Any], path: str | Path, previous: str | None = None) -> None:
    """Write a dict of tensors and plain values, and its digest, atomically.

    Args:
        payload: The dict.
        path: The file.
        previous: Name under which the old file is kept in the folder.

    Raises:
        OSError: The disk is full or the folder is not writable; the old file is unchanged.
    """
    payload = {key: value for key, value in payload.items() if key != _DIGEST}  # of the file that it was read from

    def write(tmp_path: Path) -> None:
        with tmp_path.open("wb") as file:  # given a path, torch.save writes its name into the file
            torch.save({**payload, _DIGEST: content_digest(payload)}, file)

    files.atomic_write(path, write, previous)


def content_digest(content: Any) -> str:
    """Return the sha256 of nested dicts, lists and tuples of tensors and plain values."""
    digest = hashlib.sha256()

    def update(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                update(item)
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                update(item)
        else:
            digest.update(f"{value!r},".encode())

    update(content)
    return digest.hexdigest()


def _check_records(path: Path, limit: int) -> None:
    """Raise ValueError if records take more than ``limit`` bytes: PyTorch stores tensors uncompressed; or are damaged.

    ``torch.load`` does not compare the records with their checksums.
    """
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(record.file_size for record in file.infolist())
            damaged = file.testzip() if unpacked <= limit else None
    except Exception as error:  # zipfile raises BadZipFile, UnicodeDecodeError, struct.error and others
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps truncated ({error})") from error
    if unpacked > limit:
        size = path.stat().st_size
        raise ValueError(f"{path}: {unpacked / 1e6:.0f} MB of tensors in a file of {size / 1e6:.0f} MB; is it intact?")
    if damaged:
        raise ValueError(f"{path}: wrong checksum of {damaged}; the file is damaged")


def _check_tensor_sizes(path: Path, limit: int, content: Any) -> None:
    """Raise ValueError if a tensor is sparse or larger than its file allows, such as one number of any shape."""
    stack, seen = [content], set[int]()
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor) and value.layout != torch.strided:
            raise ValueError(f"{path}: a sparse tensor; save it as a dense one")
        if isinstance(value, (torch.Tensor, np.ndarray)) and value.nbytes > limit:
            raise ValueError(f"{path}: a tensor of {value.nbytes / 1e6:.0f} MB in a smaller file; save it anew")
        if isinstance(value, (dict, list, tuple, argparse.Namespace)) and id(value) not in seen:
            seen.add(id(value))
            value = vars(value) if isinstance(value, argparse.Namespace) else value
            stack.extend(value.values() if isinstance(value, dict) else value)


def load(path: str | Path) -> Any:
    """Read a checkpoint with ``torch.load(weights_only=True)``, and compare it with its checksums and digest.

    The tensors are on the CPU; ``load_state_dict`` copies them to a model's or optimizer's device. It leaves the step
    counts of Adam where they are: on a GPU, PyTorch would read each of them back in every step.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: The file is not readable.
        ValueError: It is not a PyTorch file, is damaged, or contains more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    limit = 4 * path.stat().st_size + 2**20  # of the memory for the content
    with path.open("rb") as file:  # before anything is unpickled
        first = file.read(32)
    if not first.startswith(b"PK") and _LEGACY not in first:
        raise ValueError(f"{path}: contains more than tensors and plain values, or is not a PyTorch file")
    if zipfile.is_zipfile(path):
        _check_records(path, limit)
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = ", or is not a PyTorch file"
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f" (a {name[1]}), and unpickling it could run code; in the project that wrote the file, save the "
            reason += "weights alone: torch.save(model.state_dict(), path)"
        raise ValueError(f"{path}: contains more than tensors and plain values{reason}") from error
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # torch raises IndexError, OSError and others on damaged files
        raise ValueError(f"{path}: not a readable PyTorch file, perhaps truncated ({error})") from error
    _check_tensor_sizes(path, limit, content)
    if isinstance(content, dict) and isinstance(content.get(_DIGEST), str):
        if content.pop(_DIGEST) != content_digest(content):
            raise ValueError(f"{path}: the content differs from its digest; the file is damaged or was changed")
    return content
