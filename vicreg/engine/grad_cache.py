"""One training step's gradient, in one pass or micro-batch by micro-batch: the same gradient, in less memory.

VICReg's statistics are over the whole batch, so summing the losses of micro-batches would optimize something else.
Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") is exact:
embed all micro-batches without a graph, take the loss's gradient with respect to the joined embeddings, then embed
each micro-batch again and send its rows of that gradient through the network.
"""

import contextlib

import torch


def backward(network, views, criterion, parts=1, autocast=contextlib.nullcontext, before_forward=None):
    """Accumulate the gradient of one step in the parameters' ``grad``.

    Args:
        network: (view1, view2) -> (embeddings, embeddings, representation); may be wrapped for several processes.
        views: function (part, parts) -> the two views of that micro-batch.
        criterion: (z1, z2) of this process's whole share -> dict with a differentiable ``loss``.
        parts: micro-batches. Twice the forward passes for ``parts > 1``; BatchNorm's statistics are a micro-batch's.
        autocast: context of forward passes. before_forward: called with the part; settles the random numbers that
            the network draws (dropout), so that both passes draw the same.

    Returns:
        (losses, z1, representation): of ``criterion``; embeddings and representation of the first view, detached, all
        rows of this process.
    """
    before_forward = before_forward or (lambda part: None)

    def embed(part):
        before_forward(part)
        pair = views(part, parts)
        with autocast():
            return network(*pair)

    if parts == 1:
        z1, z2, representation = embed(0)
        losses = criterion(z1, z2)
        losses["loss"].backward()
        return losses, z1.detach(), representation
    with torch.no_grad(), running_statistics_kept(network):
        cached = [embed(part) for part in range(parts)]
    z1, z2, representation = (torch.cat(rows) for rows in zip(*cached, strict=True))
    sizes = [len(rows) for rows, _, _ in cached]
    del cached
    z1.requires_grad_(), z2.requires_grad_()
    losses = criterion(z1, z2)
    losses["loss"].backward()
    gradients = list(zip(z1.grad.split(sizes), z2.grad.split(sizes), strict=True))
    for part, rows in enumerate(gradients):
        # several processes add their gradients once, with the last micro-batch
        alone = part < parts - 1 and hasattr(network, "no_sync")
        with network.no_sync() if alone else contextlib.nullcontext():
            embedded1, embedded2, _ = embed(part)
            torch.autograd.backward((embedded1, embedded2), rows)
    return losses, z1.detach(), representation


@contextlib.contextmanager
def running_statistics_kept(network):
    """Leave BatchNorm's running statistics as they are, for forward passes that will be made again."""
    norms = [module for module in network.modules() if getattr(module, "track_running_stats", False)]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
