"""One pretraining step of lightly's VICReg recipe, for bench_pretrain.py."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from vicreg.engine.parallel import to_device
from vicreg.models.backbones import create_backbone, feature_dim
from vicreg.models.vicreg import parse_mlp


def lightly_step(
    args: argparse.Namespace, images: torch.Tensor, device: torch.device, mark: Callable[[str], None]
) -> Callable[[], None]:
    """Return a function that takes one step of lightly's VICReg recipe."""
    from lightly.loss import VICRegLoss
    from lightly.models.modules.heads import VICRegProjectionHead
    from lightly.transforms.vicreg_transform import VICRegTransform
    from lightly.utils.lars import LARS

    widths = parse_mlp(args.mlp)
    backbone = create_backbone(args.arch)
    head = VICRegProjectionHead(feature_dim(backbone), widths[0], widths[-1], num_layers=len(widths))
    model = to_device(nn.Sequential(backbone, head), device).train()
    criterion = VICRegLoss()
    optimizer = LARS(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-6)
    dataset = _PilImages(images, VICRegTransform(input_size=args.image_size))
    batches = _endless(
        torch.utils.data.DataLoader(
            dataset, len(images), drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
        )
    )

    def step() -> None:
        view1, view2 = (view.to(device) for view in next(batches))
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            z1, z2 = model(view1), model(view2)
        criterion(z1.float(), z2.float()).backward()
        optimizer.step()

    return step


class _PilImages(torch.utils.data.Dataset):
    """The images as PIL images, through a transform; repeated, so that loading processes can work ahead."""

    def __init__(self, images: torch.Tensor, transform: Callable[[Any], Any]) -> None:
        self._images, self._transform = images.permute(0, 2, 3, 1).numpy(), transform

    def __len__(self) -> int:
        return len(self._images) * 64

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self._transform(Image.fromarray(self._images[index % len(self._images)]))


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
