"""Checkpoint files of training runs: read, written, and converted from older layouts."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicreg import distributed
from vicreg.common import checkpoint_io
from vicreg.common.checkpoint_io import MODEL_FILE, load, save
from vicreg.common.logger import log

PREVIOUS_FILE = "model.previous.pth"  # the checkpoint before, in case the last one is damaged
DIVERGED_FILE = "model.diverged.pth"  # the last checkpoint, if its own weights gave a non-finite loss
BEST_FILE = "best_model.pth"  # weights of the best epoch, without the optimizer's state

# settings of checkpoints written before the configuration classes, by their old name
_OLD_NAMES = {"wd": "weight_decay", "base_lr": "lr", "augment_set": "aug_override"}
_OLD_VALUES = {"neighbour": "neighbor"}


def quarantine_checkpoint(folder: str | Path, step: int) -> None:
    """Rename a run's last checkpoint if it is of this step, so that the one before is used.

    The loss at a step is that of the weights that the checkpoint of this step holds. Call it in the main process.

    Args:
        folder: Run folder.
        step: Step with a non-finite loss.
    """
    path = Path(folder) / MODEL_FILE
    with contextlib.suppress(ValueError):  # a damaged file, which must not hide the loss; resuming sets it aside
        if path.is_file() and load(path)["step"] == step:
            os.replace(path, path.with_name(DIVERGED_FILE))


@torch.no_grad()
def check_finite(model: nn.Module, step: int) -> None:
    """Raise FloatingPointError if a weight or a running statistic of a model is not finite.

    A finite loss does not show it: the gradients of the last step may not be finite, for instance those of bfloat16
    convolutions with a stride over 1 x 1 maps in PyTorch's CPU kernels.

    Args:
        model: Model with floating-point parameters.
        step: Steps that it was trained for, for the message.
    """
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: value for name, value in values.items() if value.is_floating_point()}
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(values.values()))])
    if not norms.isfinite().all():
        names = [name for name, norm in zip(values, norms, strict=True) if not norm.isfinite()]
        raise FloatingPointError(
            f"{len(names)} weights are not finite after step {step}, the first is {names[0]}; the last good checkpoint "
            "is kept. A lower --lr, larger images, or --precision fp32 helps"
        )


def load_latest(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], Path] | tuple[None, None]:
    """Read a run's last checkpoint or, if it is damaged, the one before. A collective call.

    The main process chooses, so that all processes resume from the same step. It renames a damaged file.

    Args:
        folder: Run folder.
        device: Device of this process, used to communicate the choice. The tensors are on the CPU.

    Returns:
        The checkpoint and its path, or (None, None) if there is none.

    Raises:
        ValueError: There are files, but none is readable.
        FileNotFoundError: The main process found a checkpoint that this process cannot see.
    """
    paths = [Path(folder) / MODEL_FILE, Path(folder) / PREVIOUS_FILE]
    number, state = _choose(paths) if distributed.is_main() else (0, None)
    number = int(distributed.all_reduce(torch.tensor(number, device=device), "max"))
    if not number:
        return None, None
    path = paths[number - 1]
    if state is None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is on the first machine only; --exp-dir must be a folder that all share")
        state = load(path)
    return state, path


def _choose(paths: Sequence[Path]) -> tuple[int, dict[str, Any] | None]:
    """Return the number (from 1) and the content of the first readable file, or (0, None) if there is no file."""
    problem = None
    for number, path in enumerate(paths, 1):
        if not path.exists():
            continue
        try:
            state = load(path)
        except ValueError as error:
            problem = problem or error
            continue
        if number == 2:
            if problem:
                broken = paths[0].with_name(f"{paths[0].name}.broken")
                os.replace(paths[0], broken)
                log(f"note: {problem}; moved to {broken.name}")
            log(f"note: resuming from the previous checkpoint, {path}")
        return number, state
    if problem:
        raise ValueError(f"{problem}; there is no other checkpoint: move it away or choose another --exp-dir")
    return 0, None


def upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of an older layout, with parsed arguments in place of ``kind`` and ``config``.

    Returns:
        The checkpoint in the current layout; empty if it is not a checkpoint of a training run.
    """
    if "config" in state:
        return state
    if "model" not in state or not isinstance(state.get("args"), dict):
        return {}
    config = {_OLD_NAMES.get(key, key): value for key, value in state["args"].items()}
    config = {key: _OLD_VALUES.get(value, value) if isinstance(value, str) else value for key, value in config.items()}
    if config.get("weights") == "freeze" and "wd_head" in config:  # EuroSAT: a frozen run had a weight decay of its own
        config["weight_decay"] = config["wd_head"]
    if isinstance(state.get("task"), dict):
        kind = state["task"].get("name")
    else:
        kind = "pretraining" if "mlp" in config else "supervised training" if "label_smoothing" in config else None
    best = state.get("best", state.get("figures"))
    rest = {key: value for key, value in state.items() if key not in ("args", "figures")}
    return {**rest, "kind": kind, "config": config, "best": best}


def save_backbone(
    path: str | Path,
    backbone: nn.Module,
    arch: str,
    in_chans: int,
    mean: Iterable[float],
    std: Iterable[float],
    source: str,
    levels: Sequence[Any] | None = None,
) -> None:
    """Write a backbone for other scripts and libraries.

    Args:
        path: Usually ``<exp-dir>/trained_model.pth``.
        backbone: Module whose keys are timm's and torchvision's names.
        arch: Name in timm.
        in_chans: Input channels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        source: Description of the training.
        levels: Values of black and white of image files deeper than 8 bits, (low, high) or a pair for each band; None
            for files of 8 bits.
    """
    state = {key: value.detach().cpu().clone() for key, value in backbone.state_dict().items()}
    payload = {"arch": arch, "in_chans": in_chans, "mean": list(mean), "std": list(std), "source": source}
    if levels is not None:
        payload["levels"] = list(levels)
    save({**payload, "state_dict": state}, path)


def add_module_prefix(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state dict with the keys of DistributedDataParallel."""
    return {f"module.{key}": value for key, value in model.state_dict().items()}


def strip_module_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict without DistributedDataParallel's prefix."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def samples_digest(train: Iterable[str], val: Iterable[str]) -> str:
    """Return a hexadecimal digest of a split.

    Args:
        train: Names of the training samples, without the data's folder, which may move.
        val: Names of the validation samples.
    """
    return hashlib.sha256("\n".join([*train, "", *val]).encode()).hexdigest()[:16]


def files_digest(paths: Iterable[str | Path]) -> str:
    """Return a hexadecimal digest of the sizes of files: other data under the same names rarely has the same."""
    return samples_digest([str(os.stat(path).st_size) for path in paths], [])


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name a checkpoint in the error that its values cause where a model is built from them."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: values are missing or do not fit ({type(error).__name__}: {error})") from error


def load_task(path: str | Path, task: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint of a downstream task, ``best_model.pth`` or ``model.pth``.

    Args:
        path: The file.
        task: Name of the task.

    Returns:
        State dict of the model, and a dict with ``task``, ``backbone`` and ``config``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind.
    """
    payload = checkpoint_io.load(path)
    payload = upgrade(payload) if isinstance(payload, dict) else {}
    if not all(isinstance(payload.get(key), dict) for key in ("task", "model", "backbone", "config")):
        raise ValueError(
            f"{path} is no checkpoint of {task}: a backbone or a pretraining run perhaps; give the {BEST_FILE} or "
            f"{MODEL_FILE} that training on {task} wrote"
        )
    if (name := payload["task"].get("name")) != task:
        raise ValueError(f"{path} is a checkpoint of {name}, not of {task}")
    return strip_module_prefix(payload["model"]), {key: payload[key] for key in ("task", "backbone", "config")}
