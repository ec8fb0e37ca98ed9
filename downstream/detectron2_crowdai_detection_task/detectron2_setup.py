"""Import of Detectron2, an optional library."""

import importlib
import logging
import warnings
from pathlib import Path


def require() -> None:
    """Check that Detectron2 can be imported, and silence its warnings about newer libraries.

    Raises:
        ValueError: It cannot be imported; the message names the installation script.
    """
    for category in (UserWarning, FutureWarning, DeprecationWarning):  # of its code with newer PyTorch and setuptools
        warnings.filterwarnings("ignore", category=category, module=r"detectron2|torch|fvcore|iopath")
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        importlib.import_module("detectron2.model_zoo")
    except ImportError as error:
        script = Path(__file__).with_name("install_detectron2.sh")
        raise ValueError(f"Detectron2 cannot be imported ({error}); install it with: bash {script}") from error


def choose_device(name: str) -> str:
    """Return "cuda" or "cpu" for ``--device``; raise ValueError if "cuda" is not available."""
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda: no GPU is visible to PyTorch; use --device cpu or check nvidia-smi")
    return "cuda" if available and name != "cpu" else "cpu"
