"""Operations on pixels that ``torch.compile`` can fuse into fewer and larger kernels for a GPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch

_compile = False  # see ``compile_operations``


def compile_operations(enable: bool) -> None:
    """Choose whether ``torch.compile`` fuses the operations on pixels: fewer and larger kernels for a GPU."""
    global _compile
    _compile = enable


def fused(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let ``compile_operations`` choose between a function and its compiled version."""
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True))

    @functools.wraps(function)
    def call(*arguments: Any) -> torch.Tensor:
        return (compiled() if _compile else function)(*arguments)

    return call
