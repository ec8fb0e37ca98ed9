"""Losses of two embedding batches."""

from vicreg.losses.vicreg import vicreg_loss

__all__ = ["vicreg_loss"]
