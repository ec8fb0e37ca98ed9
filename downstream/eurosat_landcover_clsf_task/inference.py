"""Apply a classifier to EuroSAT scenes: features, logits, and probabilities with test-time augmentation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task.config import TASK
from downstream.eurosat_landcover_clsf_task.dataset import Scenes
from downstream.eurosat_landcover_clsf_task.transforms import WHOLE_VIEW
from vicreg.augmentations.batch import to_unit_range
from vicreg.augmentations.presets import Augmentation
from vicreg.common.logger import log
from vicreg.data.base import InputSpec
from vicreg.engine import checkpoint
from vicreg.eval import features
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import Classifier, LinearHead


def extract(
    backbone: torch.nn.Module,
    scenes: Scenes,
    spec: InputSpec,
    bf16: bool,
    view: Augmentation = WHOLE_VIEW,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Extract features: float32 (n, F) on the backbone's device; see ``vicreg.eval.features.extract_features``."""
    device = next(backbone.parameters()).device
    return features.extract_features(backbone, scenes, spec, device, view=view, generator=generator, bf16=bf16)


@torch.no_grad()
def predict_logits(model: Classifier, scenes: Scenes, spec: InputSpec, bf16: bool) -> torch.Tensor:
    """Compute the logits of whole scenes: float32 (n, classes) on the model's device."""
    extracted = extract(model.backbone, scenes, spec, bf16)
    return torch.cat([model.heads(part) for part in extracted.split(4096)])


def dihedral_views(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the eight flips and quarter turns of a batch (n, C, S, S), the unchanged one first."""
    for flipped in (images, images.flip(-1)):
        for quarter_turns in range(4):
            yield torch.rot90(flipped, quarter_turns, (-2, -1))


@torch.no_grad()
def predict_proba(
    model: Classifier, images: torch.Tensor, spec: InputSpec, bf16: bool, tta: bool = False
) -> torch.Tensor:
    """Compute the class probabilities of a batch.

    Args:
        model: Classifier in eval mode.
        images: uint8 or uint16 tensor (n, C, S, S).
        spec: Input of the network.
        bf16: Whether the backbone runs under bfloat16 autocast.
        tta: Average over ``dihedral_views`` (test-time augmentation).

    Returns:
        float32 tensor (n, classes) on the CPU.
    """
    device = next(model.parameters()).device
    images = images.to(device)
    if tta:
        views = dihedral_views(to_unit_range(images))
        return torch.stack([predict_proba(model, view, spec, bf16) for view in views]).mean(0)
    extracted = features.embed_images(model.backbone, images, spec, device, bf16)
    return model.heads(extracted.float()).softmax(1).cpu()


def predict_tta(model: Classifier, scenes: Scenes, spec: InputSpec, bf16: bool, batch_size: int = 256) -> torch.Tensor:
    """Average the class probabilities of scenes over ``dihedral_views``: float32 (n, classes) on the CPU."""
    model.eval()
    batches = tqdm(torch.arange(len(scenes)).split(batch_size), "test-time augmentation", leave=False, disable=None)
    return torch.cat([predict_proba(model, scenes.images(part), spec, bf16, tta=True) for part in batches])


def load_classifier(path: str | Path, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """Load a classifier and what its checkpoint, of train_eurosat.py, says of the task.

    Returns:
        The classifier in eval mode, and the dict ``task`` of the checkpoint, with the number of ``channels``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of train_eurosat.py.
    """
    weights, about = checkpoint.load_task(path, TASK)
    with checkpoint.naming(path):
        backbone, task = create_backbone(about["backbone"]["arch"], about["backbone"]["in_chans"]), about["task"]
        model = Classifier(backbone, LinearHead(backbone.num_features, len(task["classes"])), frozen=True)
        model.load_state_dict(weights)
        log(f"{about['backbone']['arch']} from {path}: {len(task['classes'])} classes, {task['image_size']} px")
        task["channels"] = about["backbone"]["in_chans"]
    return model.eval().to(device, memory_format=torch.channels_last), task
