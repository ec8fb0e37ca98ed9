"""How the network looks at scenes: views to train on, the plain view, and what it makes of it."""

import dataclasses

import torch
from tqdm import tqdm

from vicreg import augmentations, features
from vicreg.judge import figures
from vicreg.views import counted_view

WHOLE_VIEW = dataclasses.replace(augmentations.PLAIN, fraction=1.0)
# from above no direction is special: with a quarter turn of every second sample, flips give all eight positions
TURNS = dataclasses.replace(WHOLE_VIEW, flip=0.5, vertical_flip=0.5)
VIEWS = ("turns", *augmentations.REGIMES)


def view_named(name, changes=()):
    """The ``View`` to train on: ``turns``, or the first one of a regime, with numbers changed.

    Raises:
        ValueError: no such regime or number.
    """
    if name != "turns":
        return augmentations.regime(name, changes)[0]
    if changes:
        raise ValueError("--augment-set changes the numbers of a regime, and --augment turns has none")
    return TURNS


def training_view(images, view, plan, seed, step, device):
    """One view of a step's batch, counted from (seed, step).

    Args:
        images: uint8 (n, 3, S, S). view: of ``view_named``. plan: with ``batch_size, share, image_size``.

    Returns:
        float (n, 3, image_size, image_size) in [0, 1] on the device.
    """
    found = counted_view(images, view, 0, plan, seed, step, device)
    if view is not TURNS:
        return found
    turn = torch.rand(len(found), generator=augmentations.counted_generator(seed, step, 1)) < 0.5
    return torch.where(turn.to(device)[:, None, None, None], found.transpose(2, 3), found)


def extract(backbone, scenes, look, bf16, view=WHOLE_VIEW, random=None):
    """Features of scenes: float32 (n, F) on the device; see ``vicreg.features.extract``."""
    with torch.autocast(look["device"].type, torch.bfloat16, enabled=bf16):
        return features.extract(backbone, scenes, **look, view=view, random=random)


@torch.no_grad()
def logits_of(model, scenes, look, bf16):
    """What a ``Classifier`` with one head makes of whole scenes: float32 (n, classes) on the device."""
    found = extract(model.backbone, scenes, look, bf16)
    return torch.cat([model.heads(part)[:, 0] for part in found.split(4096)])


def positions(images):
    """The eight ways to lay a batch (n, C, S, S) down: each quarter turn, plain and mirrored; the plain one first."""
    for laid in (images, images.flip(-1)):
        for quarters in range(4):
            yield torch.rot90(laid, quarters, (-2, -1))


@torch.no_grad()
def shares_of(model, images, look, bf16, tta=False):
    """Probabilities of a batch of whole scenes: uint8 (n, 3, S, S) -> float32 (n, classes) on the CPU.

    Args:
        tta: average them over the eight ``positions`` (test-time augmentation).
    """
    images = images.to(look["device"])
    if tta:
        return torch.stack([shares_of(model, laid, look, bf16) for laid in positions(images)]).mean(0)
    numbers = augmentations.draw(WHOLE_VIEW, len(images), *images.shape[-2:], torch.Generator().manual_seed(0))
    views = augmentations.normalise(augmentations.apply(images, numbers, look["size"]), look["mean"], look["std"])
    with torch.autocast(look["device"].type, torch.bfloat16, enabled=bf16):
        found = model.backbone(views)
    return model.heads(found.float())[:, 0].softmax(1).cpu()


def averaged(model, scenes, look, bf16, batch_size=256):
    """Probabilities of whole scenes, averaged over the eight ``positions``: float32 (n, classes) on the CPU."""
    was_training = model.training
    model.eval()
    batches = torch.arange(len(scenes)).split(batch_size)
    bar = tqdm(batches, "eight positions", leave=False, disable=None)
    found = torch.cat([shares_of(model, scenes.images(part), look, bf16, tta=True) for part in bar])
    model.train(was_training)
    return found


def judged(logits, labels, classes):
    """Figures of logits or probabilities: those of ``vicreg.judge.figures``, and precision, recall, F1 and support of
    each class."""
    from sklearn.metrics import precision_recall_fscore_support

    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    columns = precision_recall_fscore_support(labels, ranked[:, 0], labels=range(len(classes)), zero_division=0.0)
    found = figures(ranked, labels, classes)
    found["per_class"] = {
        name: {"precision": round(p, 6), "recall": round(r, 6), "f1": round(f, 6), "support": int(n)}
        for name, p, r, f, n in zip(classes, *(column.tolist() for column in columns), strict=True)
    }
    found["macro_f1"] = round(float(columns[2].mean()), 6)
    return found


def per_class_table(per_class):
    """Precision, recall, F1 and samples of each class in columns, for a terminal."""
    width = max(len("class"), *map(len, per_class))
    lines = [f"{'class':{width}}  precision  recall      F1  samples"]
    for name, row in per_class.items():
        lines.append(
            f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    return "\n".join(lines)
