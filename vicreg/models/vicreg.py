"""VICReg's network: a backbone, and an expander that pretraining throws away afterwards."""

from torch import nn


def parse_mlp(text):
    """Widths of an expander, ``"8192-8192-8192"`` -> [8192, 8192, 8192].

    Raises:
        ValueError: not numbers joined by hyphens.
    """
    parts = text.split("-")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"--mlp {text}: widths joined by hyphens expected, such as 8192-8192-8192")
    return [int(part) for part in parts]


def expander(features, widths):
    """Linear, BatchNorm, ReLU for each width but the last, which is a linear layer without bias.

    Args:
        features: width of the backbone's output. widths: list of layer widths; the last is the embedding's.
    """
    layers = []
    for width in widths[:-1]:
        layers += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        features = width
    layers.append(nn.Linear(features, widths[-1], bias=False))
    return nn.Sequential(*layers)


class VICReg(nn.Module):
    """Backbone and expander, applied to two views one after the other (each has its own BatchNorm statistics)."""

    def __init__(self, backbone, widths):
        super().__init__()
        self.backbone = backbone
        self.expander = expander(backbone.num_features, widths)

    def forward(self, view1, view2):
        """Images (n, C, H, W) twice -> embeddings (n, D) twice, and the first view's representation (n, F)."""
        representation = self.backbone(view1)
        return self.expander(representation), self.expander(self.backbone(view2)), representation.detach()
