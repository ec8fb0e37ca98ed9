"""What timm knows: names of backbones, and weights on the Hugging Face Hub or in folders of its format."""

import difflib
import re
from pathlib import Path
from typing import Any

import timm
import torch

_HUB = re.compile(r"(hf[-_]hub|local-dir):", re.IGNORECASE)


def is_hub_name(path: str | Path) -> bool:
    """Return whether timm reads these weights: ``hf-hub:<repository>`` or ``local-dir:<folder>``."""
    return bool(_HUB.match(str(path)))


def check_arch(arch: str) -> None:
    """Raise ValueError, with the nearest names, unless timm knows a backbone of this name."""
    if not timm.is_model(arch):
        names = timm.list_models()
        longer = sorted((name for name in names if arch and name.startswith(arch)), key=len)[:4]
        nearest = longer or difflib.get_close_matches(arch, names, n=4) or ["resnet18", "resnet50"]
        raise ValueError(f"no backbone named {arch!r} in timm; nearest: {', '.join(nearest)}")


def read_with_timm(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read weights through timm.

    Args:
        name: ``hf-hub:<repository>`` or ``local-dir:<folder>``.

    Returns:
        State dict, and ``arch``, ``in_chans``, ``mean``, ``std``, ``normalization`` and ``source``.

    Raises:
        ValueError: timm cannot load it, or its features are not those of the architecture that the configuration names.
    """
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0).eval()
    except Exception as error:  # timm and huggingface_hub raise exceptions of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name}: timm cannot load it ({reason}); hf-hub: needs the network or the cache of an earlier download, "
            "local-dir: a folder with config.json and model.safetensors"
        ) from error
    config, state = model.pretrained_cfg, model.state_dict()
    arch, size = config["architecture"], config["input_size"]
    plain: Any = timm.create_model(arch, num_classes=0, in_chans=size[0]).eval()
    try:
        plain.load_state_dict(state)
        images = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            same = torch.allclose(model(images), plain(images), atol=1e-4)
    except (RuntimeError, AssertionError, ValueError):  # timm asserts the size of the images
        same = False
    if not same:
        raise ValueError(f"{name}: its configuration changes {arch}; only architectures as timm names them are known")
    record = {"arch": arch, "in_chans": size[0], "source": name}
    if len(config["mean"]) == len(config["std"]) == size[0]:
        record |= {"mean": list(config["mean"]), "std": list(config["std"]), "normalization": "of timm's configuration"}
    return state, record
