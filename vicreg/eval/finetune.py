"""Finetune a backbone and a linear head, evaluating after every epoch."""

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from vicreg import distributed
from vicreg.augmentations.batch import augment_batch, normalize, seed_step
from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.common.devices import send
from vicreg.common.logger import MetricLogger
from vicreg.common.random_streams import stream_seed
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.data.subsets import LabeledSubset
from vicreg.eval.classification import predict_logits
from vicreg.eval.config import EvaluationConfig
from vicreg.eval.metrics import accuracy
from vicreg.models.backbones import feature_dim
from vicreg.models.heads import Classifier, LinearHead


def fit_batch_size(batch_size: int, count: int) -> int:
    """Limit a batch to ``count`` training samples, and round it down to equal parts of the processes.

    Raises:
        ValueError: There are more processes than samples.
    """
    local = min(batch_size, count) // distributed.world_size()
    if not local:
        raise ValueError(f"{count} samples for {distributed.world_size()} processes; start fewer processes")
    return local * distributed.world_size()


def finetune(
    config: EvaluationConfig,
    seed: int,
    backbone: nn.Module,
    train: LabeledDataset,
    indices: np.ndarray,
    val: LabeledDataset,
    spec: InputSpec,
    device: torch.device,
    logger: MetricLogger,
    show: bool = True,
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Train a copy of a backbone with a new linear head; SGD with momentum 0.9, a cosine schedule per epoch.

    The head has the first learning rate of ``lr_head``; ``indices`` are the training samples.

    Returns:
        ``top1`` and ``top5`` on the validation set after each epoch, and the classes of its samples after the last one,
        the likeliest first: int64 (m, 5), or as many columns as there are classes.

    Raises:
        ValueError: The network diverged.
    """
    torch.manual_seed(stream_seed(seed, "initialization"))
    head = LinearHead(feature_dim(backbone), len(train.classes)).to(device)
    model = Classifier(copy.deepcopy(backbone), head, frozen=False)
    groups = [
        {"params": list(head.parameters()), "lr": config.lr_head[0]},
        {"params": list(model.backbone.parameters()), "lr": config.lr_backbone},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    wrapped: nn.Module = model
    if distributed.world_size() > 1:
        wrapped = DistributedDataParallel(model)
    batch_size = fit_batch_size(config.batch_size, len(indices))
    samples = LabeledSubset(train, indices, PROBE_VIEW, spec.size)
    steps_per_epoch = len(samples) // batch_size
    sampler = ResumableBatchSampler(
        len(samples), batch_size, seed, config.epochs * steps_per_epoch, 0, distributed.rank(),
        distributed.world_size(),
    )  # fmt: skip
    loader = iter(build_loader(samples, sampler, config.workers, device))
    history = []
    for epoch in range(config.epochs):
        model.train()
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            start = time.perf_counter()
            images, labels = next(loader)
            data_time = time.perf_counter() - start
            views = augment_batch(
                images, samples.view, spec.size, batch_size=batch_size, rank=distributed.rank(), seed=seed, step=step,
                device=device,
            )  # fmt: skip
            seed_step(seed, step)
            loss = cross_entropy(wrapped(normalize(views, spec.mean, spec.std)), send(labels, device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean_loss = distributed.all_reduce(loss.detach().clone()) / distributed.world_size()
            logger.add({"loss": mean_loss}, data_time)
        line = {"epoch": epoch, "step": (epoch + 1) * steps_per_epoch, "lr": schedule.get_last_lr()[0]}
        schedule.step()
        logits = predict_logits(model, val, spec, device)
        if not logits.isfinite().all():
            raise ValueError(f"the network diverged in epoch {epoch}; use a lower --lr-head or --lr-backbone")
        ranked = logits.topk(min(5, logits.shape[1])).indices
        scores = accuracy(ranked, val.labels.to(device))
        history.append(scores)
        logger.write({**line, **logger.averages(batch_size, "images"), **scores}, show=show)
        logger.restart_clock()
    return history, ranked
