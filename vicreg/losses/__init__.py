"""Losses of two embedding batches.

A loss is one module of this package and one line below. The module has two functions: ``add_arguments(group)`` declares
the loss's settings on the command line, and ``build(namespace)`` returns the loss, a frozen dataclass of its settings.
Called with the embeddings of two views, the loss returns a dict of scalar tensors with ``loss`` and its terms. It may
have a method ``lower_bound(batch_size, dim)``.
"""

from importlib import import_module
from types import ModuleType

from vicreg.losses.vicreg import vicreg_loss

NAMES = (
    "vicreg",
    "barlow_twins",
)  # fmt: skip
LOSSES: dict[str, ModuleType] = {name: import_module(f"vicreg.losses.{name}") for name in NAMES}

__all__ = ["LOSSES", "vicreg_loss"]
