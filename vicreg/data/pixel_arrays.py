"""Arrays of pixels: in .npy files, mapped into memory, and as tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vicreg.common.devices import send


def map_pixels(path: Path, advice: str, ndim: int = 4, dtypes: Sequence[str] = ("uint8",)) -> np.ndarray:
    """Map a file of pixels into memory.

    Args:
        path: The file.
        advice: What to do if it is damaged, for the message.
        ndim: Number of dimensions.
        dtypes: Allowed types of the pixels, in the byte order of the machine.

    Returns:
        Read-only array, not a memmap: indexing it is twice as fast.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds something else.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"no file {path}; {advice}")
    try:
        array = np.asarray(np.load(path, mmap_mode="r"))
    except Exception as error:  # numpy raises EOFError, SyntaxError and tokenize.TokenError on damaged headers
        raise ValueError(f"{path}: damaged ({error}); {advice}") from error
    if array.dtype not in dtypes or array.ndim != ndim:
        raise ValueError(
            f"{path}: damaged ({array.dtype} {array.shape} in place of {ndim} dimensions of {' or '.join(dtypes)}); "
            f"{advice}"
        )
    return array


def select_images(images: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Return the images of some indices, on their device; PyTorch 2.8 and older do not index uint16 tensors."""
    index = send(torch.as_tensor(indices), images.device)
    return images.view(torch.int16)[index].view(torch.uint16) if images.dtype == torch.uint16 else images[index]
