"""Linear heads on a backbone, and the labeled samples they learn from."""

import torch
from torch import nn


class LinearHeads(nn.Module):
    """Linear classifiers side by side on the same features: (n, F) -> (n, heads, classes)."""

    def __init__(self, heads, num_features, classes):
        super().__init__()
        self.classes = classes
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(classes, num_features)) for _ in range(heads))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(classes)) for _ in range(heads))
        for weight in self.weight:
            nn.init.normal_(weight, std=0.01)

    def of(self, head):
        """Parameters of one head."""
        return [self.weight[head], self.bias[head]]

    def forward(self, x):
        return torch.stack([nn.functional.linear(x, w, b) for w, b in zip(self.weight, self.bias, strict=True)], 1)


class Classifier(nn.Module):
    """A backbone and its heads; a frozen backbone stays in eval mode and out of the graph."""

    def __init__(self, backbone, heads, frozen):
        super().__init__()
        self.heads, self.frozen = heads, frozen
        self.backbone = backbone.requires_grad_(not frozen)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.backbone(images)
        return self.heads(found)
