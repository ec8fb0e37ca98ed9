"""Weights as the bytes of a ``.safetensors`` file, with what is known about them and a digest in the metadata."""

import json

import torch
from torch import nn

from vicreg.exporters.detectron2 import Info
from vicreg.models.weight_files import DIGEST, record_of, tensors_digest


def state_of(backbone: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return a copy of the weights on the CPU, under their names after ``prefix``."""
    return {f"{prefix}{key}": value.detach().cpu().clone() for key, value in backbone.state_dict().items()}


def metadata_of(info: Info) -> dict[str, str]:
    """Return what is known about a backbone as text."""
    record = record_of(info).items()
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in record}


def encode(backbone: nn.Module, info: Info) -> bytes:
    """Return the content of the file.

    Raises:
        ValueError: The package safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ValueError(f"this format needs the package safetensors ({error}): pip install safetensors") from error
    state = {key: value.contiguous() for key, value in state_of(backbone).items()}
    metadata = {"format": "pt", **metadata_of(info)}
    return save(state, metadata={**metadata, DIGEST: tensors_digest(state, metadata)})
