"""Files that hold weights: written whole or not at all, read as plain tensors and values, never unpickled."""

import os
import pickle
import zipfile
from pathlib import Path

import torch

from vicreg import distributed
from vicreg.run_log import say

MODEL_FILE = "model.pth"  # everything needed to go on
PREVIOUS_FILE = "model.previous.pth"  # the one before, should a power cut spoil the last one
DIVERGED_FILE = "model.diverged.pth"  # the last one, where its weights gave a loss that is no number
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


def put_aside(folder, step):
    """Rename a run's last checkpoint if it is of this step, so that the one before counts. For the main process.

    The loss at a step is that of the weights which the checkpoint of this step holds.

    Args:
        folder: of the run. step: at which the loss was not finite.
    """
    path = Path(folder) / MODEL_FILE
    if path.is_file() and load(path)["step"] == step:
        os.replace(path, path.with_name(DIVERGED_FILE))


def load_latest(folder, map_location="cpu"):
    """Read a run's last checkpoint, or, if that one is damaged, the one before. To be called by all processes.

    The first process chooses, so that all go on from the same step. It moves a damaged file aside, and removes what a
    killed run left half written.

    Args:
        folder: of the run. map_location: where tensors go; also where the processes tell each other the choice.

    Returns:
        (state, path), or (None, None) where there is no checkpoint.

    Raises:
        ValueError: no file is readable, with the reason for the last one.
        FileNotFoundError: the first process found a checkpoint that this one cannot see.
    """
    paths = [Path(folder) / MODEL_FILE, Path(folder) / PREVIOUS_FILE]
    number, state = _choose(paths, map_location) if distributed.is_main() else (0, None)
    number = int(distributed.all_reduce(torch.tensor(number, device=map_location), "max"))
    if not number:
        return None, None
    path = paths[number - 1]
    if state is None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is on the first machine only; --exp-dir must be a folder that all share")
        state = load(path, map_location)
    return state, path


def _choose(paths, map_location):
    """(1 or 2, state) of the first of two paths that is whole, or (0, None) where neither is there."""
    for partial in paths[0].parent.glob(".*.pth.*.partial"):
        partial.unlink(missing_ok=True)
    problem = None
    for number, path in enumerate(paths, 1):
        if not path.exists():
            continue
        try:
            _check_sums(path)
            state = load(path, map_location)
        except ValueError as error:
            problem = problem or error
            continue
        if number == 2:
            if problem:
                broken = paths[0].with_name(f"{paths[0].name}.broken")
                os.replace(paths[0], broken)
                say(f"note: {problem}; moved to {broken.name}")
            say(f"note: going on from the checkpoint before, {path}")
        return number, state
    if problem:
        raise ValueError(f"{problem}; there is no other to go on from: move it away or choose another --exp-dir")
    return 0, None


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
