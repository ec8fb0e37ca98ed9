"""Convolutions of maps of 1 x 1 and 2 x 2 pixels as matrix products, which take a fraction of the operations on a CPU.

The last stages of a ResNet see such maps at images of 32 and 64 pixels. A 3 x 3 kernel then lies mostly on the padding:
8 of its 9 taps at 1 x 1 pixels, and 5 of 9 at 2 x 2.
"""

import torch
from torch import nn

_MIN_CHANNELS = 128  # fewer gain nothing
_MAX_SIDE = 2  # at 3 x 3 pixels the product takes as many operations as the convolution


class SmallMapConv2d(nn.Conv2d):
    """A 3 x 3 convolution with padding 1, on a CPU without the padding for maps of up to 2 x 2 pixels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (n, C, H, W) to (n, O, H', W')."""
        n, _, height, width = input.shape
        if max(height, width) > _MAX_SIDE or input.device.type != "cpu":
            return super().forward(input)
        rows, columns = (range(0, side, stride) for side, stride in zip((height, width), self.stride, strict=True))
        taps = self.weight.permute(0, 2, 3, 1)
        # The part of the kernel that lies on the map, for each pixel of the result: (H' W' O, H W C).
        matrix = torch.cat(
            [taps[:, 1 - y : 1 - y + height, 1 - x : 1 - x + width].flatten(1) for y in rows for x in columns]
        )
        product = nn.functional.linear(input.permute(0, 2, 3, 1).flatten(1), matrix)
        return product.view(n, len(rows), len(columns), -1).permute(0, 3, 1, 2)


def use_matrix_products(model: nn.Module) -> None:
    """Let the wide 3 x 3 convolutions of a model compute small maps by matrix products; parameters stay as they are."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (3, 3)
            and module.padding == (1, 1)
            and module.padding_mode == "zeros"
            and module.dilation == (1, 1)
            and module.groups == 1
            and module.bias is None
            and module.in_channels >= _MIN_CHANNELS
        ):
            module.__class__ = SmallMapConv2d
