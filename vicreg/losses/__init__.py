"""Losses of two embedding batches.

A loss is a frozen dataclass of its settings. Called with the embeddings of two views, it returns a dict of scalar
tensors with ``loss`` and its terms. ``add_arguments`` declares its settings on the command line. It may have a method
``lower_bound(batch_size, dim)``. To add a loss, write one file and add one line to ``LOSSES``.
"""

from vicreg.losses.vicreg import VICRegLoss, vicreg_loss

LOSSES = {
    "vicreg": VICRegLoss,
}

__all__ = ["LOSSES", "vicreg_loss"]
