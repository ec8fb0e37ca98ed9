"""How the network looks at scenes: views to train on, the plain view, and what it makes of it."""

import torch
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task.transforms import WHOLE_VIEW
from vicreg.augmentations import batch
from vicreg.common.logger import log
from vicreg.engine import checkpoint
from vicreg.eval import features
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import Classifier, LinearHeads

TASK = "EuroSAT"  # name in checkpoints


def extract(backbone, scenes, look, bf16, view=WHOLE_VIEW, random=None):
    """Features of scenes: float32 (n, F) on the device; see ``vicreg.eval.features.extract_features``."""
    with torch.autocast(look["device"].type, torch.bfloat16, enabled=bf16):
        return features.extract_features(backbone, scenes, **look, view=view, random=random)


@torch.no_grad()
def logits_of(model, scenes, look, bf16):
    """What a ``Classifier`` with one head makes of whole scenes: float32 (n, classes) on the device."""
    found = extract(model.backbone, scenes, look, bf16)
    return torch.cat([model.heads(part)[:, 0] for part in found.split(4096)])


def dihedral_views(images):
    """The eight ways to lay a batch (n, C, S, S) down: each quarter turn, plain and mirrored; the plain one first."""
    for laid in (images, images.flip(-1)):
        for quarters in range(4):
            yield torch.rot90(laid, quarters, (-2, -1))


@torch.no_grad()
def predict_proba(model, images, look, bf16, tta=False):
    """Probabilities of a batch of whole scenes: uint8 (n, 3, S, S) -> float32 (n, classes) on the CPU.

    Args:
        tta: average them over the eight ``dihedral_views`` (test-time augmentation).
    """
    images = images.to(look["device"])
    if tta:
        return torch.stack([predict_proba(model, laid, look, bf16) for laid in dihedral_views(images)]).mean(0)
    numbers = batch.sample_params(WHOLE_VIEW, len(images), *images.shape[-2:], torch.Generator().manual_seed(0))
    views = batch.normalize(batch.apply(images, numbers, look["size"]), look["mean"], look["std"])
    with torch.autocast(look["device"].type, torch.bfloat16, enabled=bf16):
        found = model.backbone(views)
    return model.heads(found.float())[:, 0].softmax(1).cpu()


def predict_tta(model, scenes, look, bf16, batch_size=256):
    """Probabilities of whole scenes, averaged over the eight ``dihedral_views``: float32 (n, classes) on the CPU."""
    was_training = model.training
    model.eval()
    batches = torch.arange(len(scenes)).split(batch_size)
    bar = tqdm(batches, "eight positions", leave=False, disable=None)
    found = torch.cat([predict_proba(model, scenes.images(part), look, bf16, tta=True) for part in bar])
    model.train(was_training)
    return found


def load_classifier(path, device):
    """Load a classifier and what its checkpoint says of the task.

    Args:
        path: ``best_model.pth`` or ``model.pth`` of train_eurosat.py.
        device: Where the model goes.

    Returns:
        The ``Classifier`` in eval mode, and the dict ``task`` of the checkpoint.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a checkpoint of train_eurosat.py.
    """
    weights, about = checkpoint.load_task(path, TASK, device)
    backbone, task = create_backbone(about["backbone"]["arch"], about["backbone"]["in_chans"]), about["task"]
    model = Classifier(backbone, LinearHeads(1, backbone.num_features, len(task["classes"])), frozen=True)
    model.load_state_dict(weights)
    log(f"{about['backbone']['arch']} from {path}: {len(task['classes'])} classes, {task['image_size']} px")
    return model.eval().to(device, memory_format=torch.channels_last), task
