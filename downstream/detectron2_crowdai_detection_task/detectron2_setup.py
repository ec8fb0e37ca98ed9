"""Detectron2 as a library that may be missing, and that talks too much."""

import importlib
import logging
import warnings
from pathlib import Path


def need():
    """Make sure that Detectron2 can be imported, and let it be quiet about other libraries' future.

    Raises:
        ValueError: it cannot; says what to do.
    """
    for kind in (UserWarning, FutureWarning, DeprecationWarning):  # of its code with today's PyTorch and setuptools
        warnings.filterwarnings("ignore", category=kind, module=r"detectron2|torch|fvcore|iopath")
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        importlib.import_module("detectron2.model_zoo")
    except ImportError as error:
        script = Path(__file__).with_name("install_detectron2.sh")
        raise ValueError(f"Detectron2 cannot be imported ({error}); install it with: bash {script}") from error


def keep_log(path):
    """Let Detectron2's own messages go to a file, and only its warnings to the terminal."""
    for name in ("detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        file, terminal = logging.FileHandler(path), logging.StreamHandler()
        terminal.setLevel(logging.ERROR)
        for handler in (file, terminal):
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.handlers = [file, terminal]
