"""A linear probe on the features of frozen scenes."""

import torch

from downstream.eurosat_landcover_clsf_task.inference import extract
from downstream.eurosat_landcover_clsf_task.transforms import TURNS
from vicreg.augmentations import batch
from vicreg.common.logger import log
from vicreg.eval.linear_probe import fit_linear_probe


def fit_head(args, model, train, look, bf16):
    """Train the head of a frozen classifier, with a learning rate selected on held-out training samples.

    Args:
        args: Options ``views``, ``lr_head``, ``epochs``, ``batch_size``, ``wd_head`` and ``seed``.
        model: ``Classifier`` with one head, changed in place.
        train: Training scenes.
        look: dict of ``size``, ``mean``, ``std`` and ``device``.
        bf16: Compute features in bfloat16.

    Returns:
        The selected learning rate, and the features (n, F) of the scenes without augmentation.

    Raises:
        ValueError: There is nothing to hold out, or the head diverged.
    """
    views = [extract(model.backbone, train, look, bf16)]
    for number in range(1, args.views):
        random = batch.step_generator(args.seed, number)
        views.append(extract(model.backbone, train.turned(number), look, bf16, TURNS, random))
    head, lr, scores = fit_linear_probe(
        torch.stack(views), train.labels, None, len(train.classes), args.lr_head, epochs=args.epochs * args.views,
        batch_size=args.batch_size, weight_decay=args.wd_head, seed=args.seed,
    )  # fmt: skip
    if scores:
        shown = "  ".join(f"{rate:g}: {score:.4f}" for rate, score in scores.items())
        log(f"top-1 on held-out training samples by learning rate\n  {shown}\nlearning rate {lr:g}")
    with torch.no_grad():
        for parameter, value in zip(model.heads.of(0), (head.weight, head.bias), strict=True):
            parameter.copy_(value)
    return lr, views[0]
