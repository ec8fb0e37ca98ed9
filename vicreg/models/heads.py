"""Linear classification heads, and a backbone with its heads."""

import torch
from torch import nn


class LinearHeads(nn.Module):
    """Independent linear classifiers on the same features: (n, F) to (n, num_heads, num_classes).

    Weights start from N(0, 0.01), biases from zero.

    Args:
        num_heads: Number of classifiers.
        num_features: Size of the input features, F.
        num_classes: Number of classes of each classifier.
    """

    def __init__(self, num_heads: int, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(num_classes, num_features)) for _ in range(num_heads))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(num_classes)) for _ in range(num_heads))
        for weight in self.weight:
            nn.init.normal_(weight, std=0.01)

    def of(self, head: int) -> list[nn.Parameter]:
        """Return weight (num_classes, F) and bias (num_classes,) of one classifier."""
        return [self.weight[head], self.bias[head]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of features."""
        return torch.stack([nn.functional.linear(x, w, b) for w, b in zip(self.weight, self.bias, strict=True)], 1)


class Classifier(nn.Module):
    """A backbone with linear heads: images (n, C, H, W) to logits (n, num_heads, num_classes).

    Args:
        backbone: Module from images to features (n, F).
        heads: Classifiers of these features.
        frozen: Keep the backbone in eval mode and out of the autograd graph.
    """

    def __init__(self, backbone: nn.Module, heads: LinearHeads, frozen: bool) -> None:
        super().__init__()
        self.heads, self.frozen = heads, frozen
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
