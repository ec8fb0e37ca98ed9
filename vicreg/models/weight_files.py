"""Files of backbone weights: read them, with what they record, and compare them with a network."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from vicreg.common import checkpoint_io, files
from vicreg.common.json_files import is_levels, is_numbers, read_json
from vicreg.models.checkpoint_layouts import COUNTER, BackboneWeights, StateDict, format_counts, group, unwrap
from vicreg.models.timm_weights import is_hub_name, read_with_timm

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RECORDED = ("arch", "in_chans", "mean", "std", "source", "levels")  # what trained_model.pth and exported files record
_HEADS, _TOKENS = {"head", "fc", "classifier"}, {"reg_token", "register_tokens", "dist_token"}
DIGEST = "content_sha256"  # in the metadata of .safetensors files

_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "arch": lambda value: isinstance(value, str),
    "in_chans": lambda value: isinstance(value, int) and 0 < value <= 2**12,
    "mean": is_numbers,
    "std": lambda value: is_numbers(value) and all(x > 0 for x in value),
    "levels": is_levels,
}


def read_weights(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """Read the weights of a backbone and what the file records about them.

    Args:
        path: ``trained_model.pth``, a run's ``model.pth``, a checkpoint or state dict of another library, a
            ``.safetensors`` file, or ``hf-hub:<repository>`` or ``local-dir:<folder>``, which timm reads.
            ``<path>.json``, as written by ``export.py``, is read too.

    Returns:
        State dict, and a dict of those of ``arch``, ``in_chans``, ``mean``, ``std``, ``source`` and ``levels`` that are
        known, with ``normalization``: where mean and std come from; and ``containers``: the names of the dicts around
        the tensors in a file of another library.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    if is_hub_name(path):
        state, record = read_with_timm(str(path))
        if _hub_file(path).is_file():  # it also records levels and a digest if this project wrote it
            record |= {key: value for key, value in _read_safetensors(_hub_file(path))[1].items() if key in RECORDED}
        return state, record
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        state, record = _read_safetensors(path)
    else:
        state, record = _parse(path, checkpoint_io.load(path))
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise ValueError(f"{path}: not a state dict of tensors")
    sidecar = _sidecar(path)
    if "arch" not in record and sidecar.is_file():
        record = {"containers": record.get("containers"), **_read_sidecar(sidecar)}
    record = {key: value for key, value in record.items() if value is not None}
    if wrong := [key for key, value in record.items() if key in _IS_VALID and not _IS_VALID[key](value)]:
        raise ValueError(f"{path}: {wrong[0]} is {str(record[wrong[0]])[:100]!r}; the file is damaged")
    if "mean" in record:
        record.setdefault("normalization", f"stored in {path.name}")
    return state, record


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what ``read_weights`` returns about the weights."""
    return read_weights(path)[1]


def weights_digest(path: str | Path) -> str:
    """Return a digest of weights and their normalization: of a file and its ``.json``, or of what timm reads."""
    if is_hub_name(path):
        state, record = read_weights(path)
        return checkpoint_io.content_digest({"state_dict": state, "mean": record.get("mean"), "std": record.get("std")})
    sidecar = _sidecar(path)
    return files.file_digest(path) + (files.file_digest(sidecar) if sidecar.is_file() else "")


def _sidecar(path: str | Path) -> Path:
    """Return the path of the ``.json`` that ``export.py`` writes beside files that cannot record normalization."""
    return Path(f"{path}.json")


def _hub_file(path: str | Path) -> Path:
    """Return the path of the weights of ``local-dir:<folder>``."""
    return Path(str(path).partition(":")[2], "model.safetensors")


def record_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of weights records about a backbone, of the information that ``load_backbone`` returns."""
    return {key: info.get(key) for key in RECORDED if key != "levels" or info.get(key)}


def recorded_levels(records: Iterable[Mapping[str, Any]]) -> tuple[Any, ...] | None:
    """Return the levels that backbones were trained with, (low, high) or a pair for each band; None if none has any.

    Raises:
        ValueError: They were trained with different ones.
    """
    recorded = [record["levels"] for record in records if record.get("levels")]
    levels = {
        tuple(tuple(value) if isinstance(value, (list, tuple)) else value for value in values) for values in recorded
    }
    if len(levels) > 1:
        raise ValueError(f"the backbones were trained with different --levels ({levels}); name them with --levels")
    return levels.pop() if levels else None


def _parse(path: Path, payload: Any) -> tuple[StateDict, dict[str, Any]]:
    """Take the tensors and their record out of a loaded PyTorch file."""
    if not isinstance(payload, dict):
        raise ValueError(f"{path}: a dict of weights expected, got {type(payload).__name__}")
    if isinstance(payload.get("state_dict"), dict) and {"arch", "in_chans"} <= payload.keys():
        return payload["state_dict"], {key: payload.get(key) for key in RECORDED}
    state, containers = unwrap(payload)
    if not state:
        raise ValueError(f"{path}: neither a trained_model.pth, nor a model.pth, nor a state dict of tensors")
    record: dict[str, Any] = {"containers": containers}
    about = payload.get("backbone")
    if isinstance(about, dict) and "arch" in about:  # a run of this project
        return state, record | {key: about.get(key) for key in RECORDED}
    if (arch := _foreign_arch(payload)) and timm.is_model(arch):
        record["arch"] = arch
    if arch == "vit_small" and any(key.startswith("base_encoder.") for key in state):
        raise ValueError(
            f"{path}: the vit_small of MoCo v3 has 12 attention heads, and timm's has 6; no timm name fits"
        )
    if "conv1.weight" in state and "fc.weight" in state and not containers and state["conv1.weight"].shape[1:2] == (3,):
        assumed = "ImageNet's, assumed for a torchvision classifier"
        record |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "normalization": assumed}
    return state, record


def _foreign_arch(payload: Mapping[str, Any]) -> str | None:
    """Return the architecture that a file of another library names: on its own or among its settings."""
    for settings in (payload, payload.get("args"), payload.get("hyper_parameters")):
        values = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
        for key in ("arch", "backbone", "model", "base_encoder"):
            value = values.get(key)
            value = value.get("name") if isinstance(value, Mapping) else value
            if isinstance(value, str):
                return value
    return None


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
    if DIGEST in metadata and metadata[DIGEST] != tensors_digest(state, metadata):
        raise ValueError(f"{path}: the content differs from its digest; the file is damaged or was changed")
    if "arch" not in metadata:
        state, record["containers"] = unwrap(state)
    return state, {key: value for key, value in record.items() if value is not None}


def tensors_digest(state: StateDict, metadata: Mapping[str, str]) -> str:
    """Return the digest of a ``.safetensors`` file, which does not depend on the order of its entries."""
    said = {key: value for key, value in sorted(metadata.items()) if key != DIGEST}
    return checkpoint_io.content_digest([said, dict(sorted(state.items()))])


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
        return {key: record.get(key) for key in RECORDED}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object as export.py writes it ({error})") from error


def check_fit(weights: BackboneWeights, expected: StateDict, arch: str, path: str | Path) -> str:
    """Compare the weights of a file with those that a backbone needs.

    Args:
        weights: Backbone in the file.
        expected: State dict of the backbone.
        arch: Architecture, for messages.
        path: The file, for messages.

    Returns:
        Numbers of tensors that were matched and left out, and the layout of the file.

    Raises:
        ValueError: Tensors are missing, of another shape, of a network of another depth, or not finite.
    """
    state = weights.state
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    unused = [key for key in state if key not in expected]
    wrong = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    if missing or wrong:
        prefixes = format_counts(weights.outside + group(state))
        raise ValueError(
            f"{path} does not fit {arch}: {len(missing)} of {len(expected)} tensors missing{format_keys(missing)}, "
            f"{len(wrong)} of another shape{format_keys(wrong)}, {len(unused)} unused{format_keys(unused)}; the names "
            f"in the file begin with{prefixes}"
        )
    patterns, kind = {re.sub(r"\d+", "#", key) for key in expected}, "another depth"
    others = [key for key in unused if re.sub(r"\d+", "#", key) in patterns]
    if not others:
        parts, kind = {key.partition(".")[0] for key in expected} - _HEADS, "another kind"
        others = [key for key in unused if key in _TOKENS or (key.split(".")[0] in parts and _is_weight(key, state))]
    if others:
        raise ValueError(
            f"{path} does not fit {arch}: {len(others)} tensors belong to a network of {kind}{format_keys(others)}; "
            "name its architecture"
        )
    shared = [key for key in expected if key in state]
    if odd := [key for key in shared if expected[key].is_floating_point() != state[key].is_floating_point()]:
        raise ValueError(f"{path}: {len(odd)} tensors of {state[odd[0]].dtype}{format_keys(odd)}; save them as float32")
    bad = [key for key in shared if not state[key].isfinite().all() or (key.endswith("var") and state[key].min() < 0)]
    if bad:
        raise ValueError(f"{path}: {len(bad)} tensors are NaN or infinite{format_keys(bad)}; did the run diverge?")
    left_out, label = weights.outside + group(unused), f"; recognized: {weights.label}" if weights.label else ""
    matched = f"{len(state) - len(unused)} tensors matched, 0 missing, {left_out.total()} unused"
    return matched + format_counts(left_out) + label


def _is_weight(key: str, state: StateDict) -> bool:
    """Return whether a tensor in a module is a weight, not a buffer that can be computed, as in Swin."""
    return state[key].is_floating_point() and not key.endswith(("attn_mask", "relative_coords_table"))


def format_keys(keys: list[str]) -> str:
    """Format the first three keys in parentheses, with a leading space; an empty string for none."""
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f" ({shown})" if keys else ""
