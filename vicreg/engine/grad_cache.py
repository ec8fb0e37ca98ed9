"""Gradient caching: the gradient of a whole batch, computed one micro-batch at a time in less memory.

VICReg's statistics are those of the whole batch, so the sum of the losses of micro-batches would optimize something
else. Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") is
exact: embed all micro-batches without a graph, compute the loss's gradient with respect to the joined embeddings, then
embed each micro-batch again and backpropagate its rows of that gradient.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn


def cached_backward(
    run: Any,
    make_views: Callable[..., Sequence[torch.Tensor]],
    criterion: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
    micro_batches: int,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Compute the gradients of one step and update the parameters; ``TrainingRun.backward`` in micro-batches.

    Args:
        run: ``TrainingRun`` whose ``model`` maps two views to two embeddings and the first view's features.
        make_views: Function (part, parts) -> the two views of a micro-batch.
        criterion: Loss of the two embeddings of all local samples; the returned dict has a differentiable ``loss``.
        micro_batches: Number of micro-batches. Each is embedded twice, and has its own BatchNorm statistics.

    Returns:
        The losses, and embeddings and features of the first view of all local samples, detached.
    """
    network = run.model

    def embed(part: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        run.seed(part)  # both passes draw the same random numbers, such as dropout's
        view1, view2 = make_views(part, micro_batches)
        with run.autocast():
            return network(view1, view2)

    with torch.no_grad(), freeze_running_stats(network):
        cached = [embed(part) for part in range(micro_batches)]
    z1, z2, features = (torch.cat(rows) for rows in zip(*cached, strict=True))
    sizes = [len(rows) for rows, _, _ in cached]
    del cached
    z1.requires_grad_(), z2.requires_grad_()
    losses = criterion(z1, z2)
    run.record(losses["loss"])
    gradients = torch.autograd.grad(losses["loss"], (z1, z2))
    for part, rows in enumerate(zip(*(gradient.split(sizes) for gradient in gradients), strict=True)):
        # processes exchange gradients once, with the last micro-batch
        is_local = part < micro_batches - 1 and isinstance(network, nn.parallel.DistributedDataParallel)
        with network.no_sync() if is_local else contextlib.nullcontext():
            embedded1, embedded2, _ = embed(part)
            torch.autograd.backward((embedded1, embedded2), rows)
    run.update()
    return losses, z1.detach(), features


@contextlib.contextmanager
def freeze_running_stats(network: nn.Module) -> Iterator[None]:
    """Leave BatchNorm's running statistics unchanged by forward passes that will be repeated."""
    norms: list[Any] = [module for module in network.modules() if getattr(module, "track_running_stats", False)]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
