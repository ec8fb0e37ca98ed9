"""The VICReg network: a backbone and an expander, which is discarded after pretraining (Bardes et al. 2022)."""

import torch
from torch import nn

from vicreg.models.backbones import feature_dim
from vicreg.models.small_maps import use_matrix_products


def parse_mlp(text: str) -> list[int]:
    """Parse the layer widths of an expander: ``"8192-8192-8192"`` gives ``[8192, 8192, 8192]``.

    Raises:
        ValueError: The text is not positive integers joined by hyphens.
    """
    widths = text.split("-")
    if not all(width.isdecimal() and int(width) > 0 for width in widths):
        raise ValueError(f"--mlp {text}: widths joined by hyphens expected, such as 8192-8192-8192")
    return [int(width) for width in widths]


def expander(num_features: int, widths: list[int]) -> nn.Sequential:
    """Build an expander: Linear, BatchNorm and ReLU for each width but the last, a linear layer without bias.

    Args:
        num_features: Size of the backbone's features.
        widths: Layer widths; the last one is the embedding size.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(num_features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        num_features = width
    layers.append(nn.Linear(num_features, widths[-1], bias=False))
    return nn.Sequential(*layers)


class VICReg(nn.Module):
    """Backbone and expander; each of the two views has its own BatchNorm statistics.

    The expander's linear layers take both views at once: their weights are read once, and their gradients need no sum.
    On a CPU, convolutions of small maps are matrix products (``use_matrix_products``).

    Args:
        backbone: Module from images (n, C, H, W) to features (n, F), with the attribute ``num_features``. Classes of
            its convolutions change in place.
        widths: Layer widths of the expander.
    """

    def __init__(self, backbone: nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        use_matrix_products(backbone)
        self.expander = expander(feature_dim(backbone), widths)

    def forward(self, view1: torch.Tensor, view2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map two views (n, C, H, W) to their embeddings (n, D) and the first view's detached features (n, F)."""
        features = self.backbone(view1)
        z = torch.cat([features, self.backbone(view2)])
        for layer in self.expander:
            is_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)  # SyncBatchNorm too
            z = torch.cat([layer(half) for half in z.chunk(2)]) if is_norm else layer(z)
        z1, z2 = z.chunk(2)
        return z1, z2, features.detach()
