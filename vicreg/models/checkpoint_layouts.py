"""Layouts of checkpoints: where a file of another library holds the backbone, found by the names of its tensors."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

StateDict = dict[str, torch.Tensor]

COUNTER = "num_batches_tracked"  # of BatchNorm; not in torchvision's older ImageNet files
# Where dicts hold a network. DINO documents the teacher, timm the moving average.
_CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "student")
_WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_forward_module)\.")
# nn.Sequential(*resnet.children()), as lightly and SeCo build it; 2 and 3 are the ReLU and the max-pooling
_SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
# Of two networks, the teacher of DINO is documented for use, and the online (query) network of the other methods.
_MOMENTUM = re.compile(r"student|momentum|target|\bema\b|_ema\b|_k\b|_key\b")
# Names of layouts, for messages: the first whose pattern is in "<containers>/<prefix> <first parts of the other names>"
_NAMES = (
    (r"^(.*/)?teacher/|^\S*/\S*teacher", "DINO"),
    (r"/\S*encoder_q\.\[0\]", "SeCo"),
    (r"/\S*encoder_q\.", "MoCo v2"),
    (r"/\S*base_encoder\.", "MoCo v3"),
    (r" decoder_blocks", "MAE"),
    (r"/(backbone|encoder)\. (?=.*\bclassifier\b)(?=.*\bprojector\b)", "solo-learn"),
    (r"/\S*\[0\]", "nn.Sequential (lightly)"),
    (r"^model/backbone\. .*\bexpander\b", "pretraining"),
    (r"^model/backbone\. .*\bprojector\b", "Barlow Twins or VICReg"),
    (r"^state_dict/\S", "Lightning"),
)


class BackboneWeights(NamedTuple):
    """The weights of a backbone in a checkpoint.

    Attributes:
        state: Tensors under the names of the backbone, those of its head included.
        outside: Number of tensors in other parts of the file, by the first part of their names.
        label: Name of the layout; empty for a plain state dict.
    """

    state: StateDict
    outside: Counter
    label: str


def unwrap(payload: Mapping[str, Any]) -> tuple[StateDict, str]:
    """Take the tensors out of nested dicts, without the prefixes of DDP, FSDP and ``torch.compile``.

    Args:
        payload: Loaded file.

    Returns:
        State dict, empty if the file holds no tensors, and the names of the dicts, such as ``state_dict/``.
    """
    containers = ""
    while True:
        nested = {key: value for key, value in payload.items() if isinstance(value, Mapping)}
        named = [key for key in _CONTAINERS if nested.get(key)]
        if not named and not _tensors(payload):
            named = [key for key, value in nested.items() if _tensors(value)]
            named = named if len(named) == 1 else []
        if not named:
            break
        payload, containers = nested[named[0]], f"{containers}{named[0]}/"
    state = _tensors(payload)
    plain = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    return (plain if len(plain) == len(state) else state), containers


def _tensors(payload: Mapping[str, Any]) -> StateDict:
    return {key: value for key, value in payload.items() if isinstance(value, torch.Tensor) and isinstance(key, str)}


def find_backbone(state: StateDict, expected: StateDict, containers: str, path: Any) -> BackboneWeights:
    """Find the tensors of a backbone, under any prefix.

    Args:
        state: Tensors of the file, as ``unwrap`` returns them.
        expected: State dict of the backbone.
        containers: Second value of ``unwrap``.
        path: The file, for messages.

    Returns:
        The backbone; where the file holds none, what resembles one most, or the tensors as they are.

    Raises:
        ValueError: The file holds several backbones, and none of them is known to be the one to use.
    """
    if all(key in state for key in expected if not key.endswith(COUNTER)):
        return _take(state, "", {}, containers)
    sequential = _SEQUENTIAL if all(any(key.startswith(f"{name}.") for key in expected) for name in _SEQUENTIAL) else {}
    best: tuple[int, str, dict[str, str]] = (0, "", {})
    for aliases in ({}, sequential) if sequential else ({},):
        required = {_rename(key, aliases) for key in expected if not key.endswith(COUNTER)}
        counts = Counter(prefix for key in state for prefix in _prefixes(key, required))
        complete = sorted(prefix for prefix, count in counts.items() if count == len(required))
        online = [prefix for prefix in complete if not _MOMENTUM.search(prefix)] or complete
        if len(online) > 1:
            raise ValueError(f"{path} holds {len(online)} backbones ({', '.join(online)}); save one as a state dict")
        if online:
            return _take(state, online[0], aliases, containers)
        best = max([best, *((count, prefix, aliases) for prefix, count in counts.items())], key=lambda entry: entry[0])
    count, prefix, aliases = best
    return (
        _take(state, prefix, aliases, containers)
        if 2 * count > len(expected)
        else BackboneWeights(state, Counter(), "")
    )


def _prefixes(key: str, required: set[str]) -> Iterable[str]:
    """Yield the prefixes after which a key is one of those required."""
    parts = key.split(".")
    for begin in range(len(parts)):
        if (name := ".".join(parts[begin:])) in required:
            yield key.removesuffix(name)


def _rename(key: str, names: Mapping[str, str]) -> str:
    first, dot, rest = key.partition(".")
    return f"{names.get(first, first)}{dot}{rest}"


def _take(state: StateDict, prefix: str, aliases: Mapping[str, str], containers: str) -> BackboneWeights:
    """Take the tensors of a prefix under the backbone's names, and name the layout."""
    names = {number: name for name, number in aliases.items()}
    inside = {_rename(key.removeprefix(prefix), names): value for key, value in state.items() if key.startswith(prefix)}
    outside = group(key for key in state if not key.startswith(prefix))
    if not prefix and not aliases and not containers:
        return BackboneWeights(inside, outside, "")
    address = f"{containers or '/'}{prefix}{'[0]' if aliases else ''}"
    signature = f"{address} {' '.join(sorted({*outside, *group(inside)}))}"
    name = next((name for pattern, name in _NAMES if re.search(pattern, signature)), "")
    where = " ".join(filter(None, (containers.strip("/").replace("/", " "), prefix.rstrip("."))))
    return BackboneWeights(
        inside, outside, f"{name} checkpoint, {where}" if name else f"checkpoint, {where or 'nn.Sequential'}"
    )


def group(keys: Iterable[str]) -> Counter:
    """Count names of tensors by their first part."""
    return Counter(key.partition(".")[0] for key in keys)


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the six largest counts in parentheses, with a leading space; an empty string for none."""
    if not counts:
        return ""
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{name} {count}" for name, count in items[:6]]
    return f" ({', '.join(words)}{', …' if len(items) > 6 else ''})"
