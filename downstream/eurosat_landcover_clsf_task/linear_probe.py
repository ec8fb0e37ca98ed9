"""A linear head on frozen features, which are extracted once; its rate is chosen among many, without a look ahead."""

import numpy as np
import torch

from downstream.eurosat_landcover_clsf_task.inference import extract
from downstream.eurosat_landcover_clsf_task.transforms import TURNS
from vicreg.augmentations import batch
from vicreg.common.logger import log
from vicreg.data.subsets import held_out_subset
from vicreg.eval import metrics
from vicreg.eval.lr_sweep import lr_sweep, rank_classes, select_lr

HELD_OUT = 0.1  # of the training samples of each class, to choose the rate on


def fit_head(args, model, train, look, bf16):
    """Give a frozen classifier its head: the best of several rates on held-out training samples, fitted again on all.

    Args:
        args: with ``views, lr_head, epochs, batch_size, wd_head, seed``. model: ``Classifier`` with one head.
        train: ``Scenes``. look: dict of ``size, mean, std, device``. bf16: whether features are computed in bfloat16.

    Returns:
        (rate, first): the chosen rate, and the features (n, F) of the scenes as they are.

    Raises:
        ValueError: no class has a sample to spare for choosing.
    """
    views = [extract(model.backbone, train, look, bf16)]
    for number in range(1, args.views):
        random = batch.step_generator(args.seed, number)
        views.append(extract(model.backbone, train.turned(number), look, bf16, TURNS, random))
    views, labels = torch.stack(views), train.labels.to(look["device"])

    def heads(rows, rates):
        """One head for each rate, learnt from all views of some samples."""
        found, wanted = views[:, rows].flatten(0, 1), labels[rows].repeat(len(views))
        return lr_sweep(
            found, wanted, len(train.classes), rates, args.epochs, args.batch_size, args.wd_head, seed=args.seed
        )

    rate = args.lr_head[0]
    if len(args.lr_head) > 1:
        held_out = held_out_subset(train.labels, np.arange(len(train)), HELD_OUT, args.seed)
        if not len(held_out):
            raise ValueError("no class has two training samples, so no rate can be chosen; name one with --lr-head")
        rest = np.setdiff1d(np.arange(len(train)), held_out)
        ranked = rank_classes(*heads(rest, args.lr_head), views[0, held_out])
        scores = [metrics.accuracy(found, labels[held_out])["top1"] for found in ranked]
        rate = args.lr_head[select_lr(scores)]
        shown = "  ".join(f"{rate:g}: {score:.4f}" for rate, score in zip(args.lr_head, scores, strict=True))
        log(f"top-1 on {len(held_out)} held-out training samples by rate\n  {shown}\nrate {rate:g}")
    weight, bias = heads(np.arange(len(train)), [rate])
    with torch.no_grad():
        for parameter, value in zip(model.heads.of(0), (weight[0], bias[0]), strict=True):
            parameter.copy_(value)
    return rate, views[0]
