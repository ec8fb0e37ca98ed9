"""Numbers of input channels: of weights, and weights adapted to another number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

StateDict = dict[str, torch.Tensor]


def other_channels(state: StateDict, expected: StateDict) -> int | None:
    """Return the input channels of weights that fit a network in all but these; None if there is another difference."""
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if len(wrong) != 1 or not _differ_in_channels(state[wrong[0]], expected[wrong[0]]):
        return None
    return state[wrong[0]].shape[1]


def _differ_in_channels(weight: torch.Tensor, target: torch.Tensor) -> bool:
    """Return whether two weights of convolutions have equal shapes but for the input channels."""
    return weight.dim() == target.dim() == 4 and weight.shape[:1] + weight.shape[2:] == (
        target.shape[:1] + target.shape[2:]
    )


def adapt_channels(
    state: StateDict, expected: StateDict, bands: Sequence[int] | None, path: str | Path
) -> tuple[StateDict, str]:
    """Adapt the first convolution of weights to a network with another number of input channels.

    With ``bands``, these input channels of the weights are selected, as they are: the features are those of the
    original network where the other channels are zero, which is their mean. Without, the channels are repeated and
    scaled by old / new, which preserves the magnitude of the output.

    Args:
        state: Weights.
        expected: State dict of the network.
        bands: Channels to select, counted from 1 and checked.
        path: The file, for messages.

    Returns:
        The weights, and words on what was adapted.

    Raises:
        ValueError: The network has fewer channels and ``bands`` are not given; or the first layer is not a convolution.
    """
    state, note = dict(state), ""
    first = next((name for name, value in expected.items() if value.dim() == 4), None)
    for key, target in expected.items():
        weight = state[key]
        if weight.shape == target.shape and not (bands and key == first):
            continue
        if not _differ_in_channels(weight, target):
            raise ValueError(f"{path}: {key} is {tuple(weight.shape)}, {tuple(target.shape)} expected")
        old, new = weight.shape[1], target.shape[1]
        if bands:
            state[key] = weight[:, [band - 1 for band in bands]].clone()
            note += f"; {key} takes the channels {' '.join(map(str, bands))} of {old}"
        elif new < old:
            raise ValueError(
                f"{path} takes {old} channels, {new} are asked for; select them with --weight-bands, such as "
                f"--weight-bands {' '.join(str(band + 1) for band in range(new))}"
            )
        else:
            state[key] = weight.repeat(1, -(-new // old), 1, 1)[:, :new] * (old / new)
            note += f"; {key} inflated from {old} to {new} channels"
    return state, note


def adapt_normalization(record: dict[str, Any], channels: int, bands: Sequence[int] | None) -> None:
    """Select mean and standard deviation of the selected channels; forget those of channels that were repeated."""
    for key in ("mean", "std"):
        values = record[key]
        record[key] = [values[band - 1] for band in bands] if values and bands and len(values) == channels else None
    if record["mean"] is None:
        record["normalization"] = None


def check_channels(in_chans: int, dataset: Any, source: str) -> None:
    """Raise ValueError if a network, chosen by ``source``, takes another number of channels than a data set has."""
    if dataset.num_channels != in_chans:
        select = " and --weight-bands to select channels of the weights" if dataset.num_channels < in_chans else ""
        raise ValueError(
            f"{source}: {in_chans} channels, but these images have {dataset.num_channels}; to adapt the network, set "
            f"--in-chans {dataset.num_channels}{select}"
        )
