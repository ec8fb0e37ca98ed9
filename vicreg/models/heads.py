"""A linear classification head, and a backbone with its head."""

import torch
from torch import nn


class LinearHead(nn.Module):
    """A linear classifier of features: (n, F) to (n, num_classes).

    The weight starts from N(0, 0.01), the bias from zero.

    Args:
        num_features: Size of the features, F.
        num_classes: Number of classes.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        # lists of one, which are named weight.0 and bias.0 in checkpoints
        self.weight = nn.ParameterList([torch.empty(num_classes, num_features).normal_(std=0.01)])
        self.bias = nn.ParameterList([torch.zeros(num_classes)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of features."""
        return nn.functional.linear(x, self.weight[0], self.bias[0])


class Classifier(nn.Module):
    """A backbone with a linear head: images (n, C, H, W) to logits (n, num_classes).

    Args:
        backbone: Module from images to features (n, F).
        head: Classifier of these features.
        frozen: Keep the backbone in eval mode and out of the autograd graph.
    """

    def __init__(self, backbone: nn.Module, head: LinearHead, frozen: bool) -> None:
        super().__init__()
        self.heads, self.frozen = head, frozen  # named heads in checkpoints
        self.backbone = backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits of images."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(images)
        return self.heads(features)
