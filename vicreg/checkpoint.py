"""Files that hold weights: written whole or not at all, read as plain tensors and values, never unpickled."""

import os
import pickle
from pathlib import Path

import torch

MODEL_FILE = "model.pth"  # everything needed to go on
BACKBONE_FILE = "trained_model.pth"  # the backbone alone, for everybody else


def save(payload, path):
    """Write a dict of tensors and plain values beside ``path``, then rename, so that a crash leaves the old file.

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
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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


def save_backbone(path, backbone, arch, in_chans, mean, std, source):
    """Write a backbone for other scripts and libraries.

    Args:
        path: usually ``<exp-dir>/trained_model.pth``.
        backbone: module whose keys are timm's and torchvision's names.
        arch: timm name. in_chans: input channels. mean, std: lists per channel, of pixels in [0, 1].
        source: a line that says how these weights came about.
    """
    state = {key: value.detach().cpu().clone() for key, value in backbone.state_dict().items()}
    payload = {"arch": arch, "in_chans": in_chans, "mean": list(mean), "std": list(std), "source": source}
    save({**payload, "state_dict": state}, path)
