"""Extract the features of a labeled data set with a backbone."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import nn
from tqdm import tqdm

from vicreg.augmentations.batch import apply, normalize, sample_params
from vicreg.augmentations.presets import PLAIN, Augmentation, without_crop
from vicreg.common.devices import send
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.distributed.process_group import all_gather_cat, is_main, rank, world_size
from vicreg.models.backbones import BackboneInfo, feature_dim, format_normalization

_WHOLE = dataclasses.replace(PLAIN, fraction=1.0)


def center_crop_size(patch_size: int) -> int:
    """Return the default side of the network's input in pixels: 7/8 of the image's, as 224 of 256."""
    return max(1, round(patch_size * 7 / 8))


def build_input_spec(info: BackboneInfo, dataset: LabeledDataset, image_size: int | None = None) -> InputSpec:
    """Return the input that a backbone is evaluated with.

    Args:
        info: Record of the backbone; its mean and standard deviation are used if they are known.
        dataset: Training set; its mean and standard deviation are used otherwise, for all data sets of an evaluation.
        image_size: Side in pixels (default: 7/8 of the images', as 224 of 256).
    """
    size = image_size or center_crop_size(dataset.patch_size)
    return InputSpec(size, info["mean"] or dataset.mean, info["std"] or dataset.std)


def format_input_spec(spec: InputSpec, info: BackboneInfo) -> str:
    """Format the input of a backbone and where its normalization comes from, for the log."""
    origin = info["normalization"] or "of the data set"
    return f"input {spec.size} x {spec.size} px, {format_normalization(list(spec.mean), list(spec.std), origin)}"


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    dataset: LabeledDataset,
    spec: InputSpec,
    device: torch.device,
    indices: Iterable[int] | None = None,
    *,
    batch_size: int = 256,
    view: Augmentation = PLAIN,
    generator: torch.Generator | None = None,
    bf16: bool = False,
) -> torch.Tensor:
    """Extract features; the processes share the work.

    Args:
        backbone: Module from images (n, C, size, size) to features (n, F); in eval mode during the call.
        dataset: Labeled data set.
        spec: Size and normalization of the input.
        device: Device of the backbone.
        indices: Samples to use (default: all).
        batch_size: Number of images at a time.
        view: Augmentation of the images (default: the center crop).
        generator: CPU generator of a random view. The views do not depend on batch size and number of processes.
        bf16: Whether the backbone runs under bfloat16 autocast; images are always prepared in float32.

    Returns:
        float32 tensor (n, F) on the device, in the order of ``indices``, on every process.
    """
    selected = list(range(len(dataset))) if indices is None else [int(index) for index in indices]
    local_size = -(-len(selected) // world_size())
    start, end = (min(number * local_size, len(selected)) for number in (rank(), rank() + 1))
    generator = generator or torch.Generator().manual_seed(0)
    crop_in_loader = view.crop != "center" and dataset.crops_in_loader
    if crop_in_loader:
        sample_seeds = torch.randint(2**63 - 1, (len(selected),), generator=generator).tolist()
    remaining_view = without_crop(view) if crop_in_loader else view
    params: dict[str, torch.Tensor] = {}  # of all samples, drawn once the size of the images is known
    was_training = backbone.training
    backbone.eval()
    features = torch.empty(end - start, feature_dim(backbone), device=device)  # not a list to join: half the memory
    # the bar is shown on a terminal only
    bar = tqdm(range(start, end, batch_size), "features", leave=False, disable=None if is_main() else True)
    for begin in bar:
        rows = slice(begin, min(begin + batch_size, end))
        if crop_in_loader:
            images = dataset.crop_images(selected[rows], sample_seeds[rows], view, spec.size)
        else:
            images = dataset.images(selected[rows])
        channels, height, width = images.shape[1:]
        params = params or sample_params(remaining_view, len(selected), height, width, generator, channels)
        batch_params = {key: value[rows] for key, value in params.items()}
        views = apply(send(images, device), batch_params, spec.size, remaining_view)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features[rows.start - start : rows.stop - start] = backbone(normalize(views, spec.mean, spec.std))
    backbone.train(was_training)
    return all_gather_cat(features)


def check_features(features: torch.Tensor, source: str) -> None:
    """Raise ValueError if the norm of a sample's features (n, F) is not finite.

    Cosines of such features are NaN or, where only the norm overflows, 0.

    Args:
        features: Floating-point tensor (n, F).
        source: File or name of the backbone.
    """
    bad = int((~torch.linalg.vector_norm(features, dim=1, dtype=torch.float32).isfinite()).sum())
    if bad:
        dtype = str(features.dtype).removeprefix("torch.")
        raise ValueError(f"{source}: {bad} of {len(features)} features are not finite as {dtype}; did the run diverge?")


@torch.no_grad()
def embed_images(
    backbone: nn.Module, images: torch.Tensor, spec: InputSpec, device: torch.device, bf16: bool = False
) -> torch.Tensor:
    """Compute the features of whole images of one size.

    Args:
        backbone: Module from images (n, C, size, size) to features (n, F), in eval mode.
        images: uint8 or uint16 tensor (n, C, S, S); the whole image is resized to the input.
        spec: Size and normalization of the input.
        device: Device of the backbone.
        bf16: Whether the backbone runs under bfloat16 autocast; images are always prepared in float32.

    Returns:
        Tensor (n, F) on the device.
    """
    images = images.to(device)
    channels, height, width = images.shape[1:]
    params = sample_params(_WHOLE, len(images), height, width, torch.Generator().manual_seed(0), channels)
    views = apply(images, params, spec.size, _WHOLE)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return backbone(normalize(views, spec.mean, spec.std))
