"""Files of backbone weights: the layouts of this project, torchvision, timm and safetensors."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from vicreg.common import checkpoint_io

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RECORDED = ("arch", "in_chans", "mean", "std", "source", "levels")  # what trained_model.pth and exported files record
_COUNTER = "num_batches_tracked"  # of BatchNorm; not in torchvision's older ImageNet files
_RUN_PREFIXES = ("module.backbone.", "backbone.")

StateDict = dict[str, torch.Tensor]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "arch": lambda value: isinstance(value, str),
    "in_chans": lambda value: isinstance(value, int) and 0 < value <= 2**12,
    "mean": _is_numbers,
    "std": lambda value: _is_numbers(value) and all(x > 0 for x in value),
    "levels": lambda value: _is_numbers(value) and len(value) == 2,
}


def read_weights(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """Read the weights of a backbone and what the file records about them.

    Args:
        path: ``trained_model.pth``, a run's ``model.pth``, a state dict (also under ``state_dict``), or a
            ``.safetensors`` file. ``<path>.json``, as written by ``export.py``, is read too.

    Returns:
        State dict, and a dict of those of ``arch``, ``in_chans``, ``mean``, ``std``, ``source`` and ``levels`` that are
        known, with ``normalization``: where mean and std come from.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        state, record = _read_safetensors(path)
    else:
        state, record = _parse(path, checkpoint_io.load(path))
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise ValueError(f"{path}: not a state dict of tensors")
        largest = max((value.numel() * value.element_size() for value in state.values()), default=0)
        if largest > path.stat().st_size:  # such as one number that is expanded to any shape
            raise ValueError(f"{path}: a tensor of {largest / 1e6:.0f} MB in a smaller file; save it anew")
    sidecar = path.with_name(f"{path.name}.json")
    if "arch" not in record and sidecar.is_file():
        record = _read_sidecar(sidecar)
    record = {key: value for key, value in record.items() if value is not None}
    if wrong := [key for key, value in record.items() if key in _IS_VALID and not _IS_VALID[key](value)]:
        raise ValueError(f"{path}: {wrong[0]} is {str(record[wrong[0]])[:100]!r}; the file is damaged")
    if "mean" in record:
        record.setdefault("normalization", f"stored in {path.name}")
    return state, record


def check_arch(arch: str) -> None:
    """Raise ValueError, with the nearest names, unless timm knows a backbone of this name."""
    if not timm.is_model(arch):
        names = timm.list_models()
        longer = sorted((name for name in names if arch and name.startswith(arch)), key=len)[:4]
        nearest = longer or difflib.get_close_matches(arch, names, n=4) or ["resnet18", "resnet50"]
        raise ValueError(f"no backbone named {arch!r} in timm; nearest: {', '.join(nearest)}")


def recorded_arch(path: str | Path) -> str | None:
    """Return the architecture that a file of weights names, or None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no weights.
    """
    return read_weights(path)[1].get("arch")


def record_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of weights records about a backbone, of the information that ``load_backbone`` returns."""
    return {key: info.get(key) for key in RECORDED if key != "levels" or info.get(key)}


def recorded_levels(paths: Iterable[str | Path]) -> tuple[float, float] | None:
    """Return the ``--levels`` that backbones were trained with; None if no file records them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file holds no weights, or they record different ones.
    """
    levels = {tuple(found) for path in paths if (found := read_weights(path)[1].get("levels"))}
    if len(levels) > 1:
        raise ValueError(f"the backbones were trained with different --levels ({levels}); name them with --levels")
    return levels.pop() if levels else None


def _parse(path: Path, payload: Any) -> tuple[StateDict, dict[str, Any]]:
    """Take the backbone's state dict and its record out of a loaded PyTorch file."""
    if not isinstance(payload, dict):
        raise ValueError(f"{path}: a dict of weights expected, got {type(payload).__name__}")
    weights = payload.get("state_dict", {})
    if not isinstance(weights, dict) or not isinstance(payload.get("backbone", {}), dict):
        raise ValueError(f"{path}: a dict of weights expected, got {type(weights).__name__}")
    if "state_dict" in payload and "arch" in payload:
        return payload["state_dict"], {key: payload.get(key) for key in RECORDED}
    if isinstance(payload.get("model"), dict):
        weights = payload["model"]
        for prefix in _RUN_PREFIXES:
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            if state:
                return state, {key: payload.get("backbone", {}).get(key) for key in RECORDED}
        raise ValueError(f"{path}: no {_RUN_PREFIXES[0]}* weights in it; is it a checkpoint of a training run?")
    state = payload.get("state_dict", payload)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: neither a trained_model.pth, nor a model.pth, nor a state dict of tensors")
    if "conv1.weight" in state and "fc.weight" in state:
        assumed = "ImageNet's, assumed for a torchvision classifier"
        return state, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "normalization": assumed}
    return state, {}


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors: pip install safetensors") from error
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
        record = {key: metadata.get(key) for key in ("arch", "source")}
        record |= {key: json.loads(metadata[key]) for key in ("in_chans", "mean", "std", "levels") if key in metadata}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    return state, record


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record.get(key) for key in RECORDED}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object as export.py writes it ({error})") from error


def match_state_dict(state: StateDict, expected: StateDict, arch: str, path: str | Path) -> tuple[StateDict, list[str]]:
    """Compare the weights of a file with those that a backbone needs.

    Args:
        state: Weights of the file. A prefix such as ``encoder.``, as in files of other libraries, is removed.
        expected: State dict of the backbone.
        arch: Architecture, for messages.
        path: The file, for messages.

    Returns:
        The state dict under the backbone's names, and its keys that the backbone does not use.

    Raises:
        ValueError: Tensors are missing, of another shape, of a network of another depth, or not finite.
    """
    state = _strip_prefix(state, expected, path)
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTER)]
    unused = [key for key in state if key not in expected]
    wrong = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    if missing or wrong:
        raise ValueError(
            f"{path} does not fit {arch}: {len(missing)} of {len(expected)} tensors missing{format_keys(missing)}, "
            f"{len(wrong)} of another shape{format_keys(wrong)}, {len(unused)} unused{format_keys(unused)}"
        )
    patterns = {re.sub(r"\d+", "#", key) for key in expected}
    deeper = [key for key in unused if re.sub(r"\d+", "#", key) in patterns]
    if deeper:
        raise ValueError(
            f"{path} does not fit {arch}: {len(deeper)} tensors belong to a network of another depth"
            f"{format_keys(deeper)}; name its architecture"
        )
    bad = [key for key in expected if key in state and not state[key].isfinite().all()]
    if bad:
        raise ValueError(f"{path}: {len(bad)} tensors are NaN or infinite{format_keys(bad)}; did the run diverge?")
    return state, unused


def _strip_prefix(state: StateDict, expected: StateDict, path: str | Path) -> StateDict:
    required = [key for key in expected if not key.endswith(_COUNTER)]
    if all(key in state for key in required):
        return state
    candidates = {key.removesuffix(required[0]) for key in state if key.endswith(f".{required[0]}")}
    prefixes = sorted(prefix for prefix in candidates if all(f"{prefix}{key}" in state for key in required))
    if len(prefixes) > 1:
        raise ValueError(f"{path} holds {len(prefixes)} backbones ({', '.join(prefixes)}); save one as a state dict")
    if not prefixes:
        return state
    prefix = prefixes[0]
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inside | {key: value for key, value in state.items() if not key.startswith(prefix) and key not in inside}


def format_keys(keys: list[str], max_items: int = 3) -> str:
    """Format the first few keys in parentheses, with a leading space; an empty string for none."""
    if not keys:
        return ""
    return f" ({', '.join(keys[:max_items])}{', …' if len(keys) > max_items else ''})"
