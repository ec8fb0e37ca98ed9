"""lightly's recipes: a step of its VICReg for bench_pretrain.py, whole runs for bench_quality.py."""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vicreg.engine.checkpoint import save_backbone
from vicreg.engine.optim import build_optimizer, cosine_lr
from vicreg.engine.parallel import reuse_freed_memory, to_device
from vicreg.engine.pretrain_config import PretrainConfig
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD, create_backbone, feature_dim
from vicreg.models.vicreg import parse_mlp

RECIPES = ("lightly_vicreg", "lightly_simclr")


def build(recipe: str, arch: str, widths: list[int], image_size: int) -> tuple[nn.Module, nn.Module, Callable]:
    """Return backbone and head, of which VICReg's has ``widths``, the loss of two batches, and the transform."""
    from lightly.loss import NTXentLoss, VICRegLoss
    from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform
    from lightly.transforms.vicreg_transform import VICRegTransform

    backbone = create_backbone(arch)
    features = feature_dim(backbone)
    if recipe == "lightly_simclr":
        head, loss = SimCLRProjectionHead(features, features), NTXentLoss()
        return nn.Sequential(backbone, head), loss, SimCLRTransform(input_size=image_size)
    head = VICRegProjectionHead(features, widths[0], widths[-1], num_layers=len(widths))
    return nn.Sequential(backbone, head), VICRegLoss(), VICRegTransform(input_size=image_size)


def training_step(
    model: nn.Module, criterion: Callable, optimizer: torch.optim.Optimizer, views: Any, bf16: bool
) -> None:
    """Take a step with the first two of the views of a batch; the loss is computed in float32."""
    device = next(model.parameters()).device
    view1, view2 = (view.to(device) for view in views[:2])
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        z1, z2 = model(view1), model(view2)
    criterion(z1.float(), z2.float()).backward()
    optimizer.step()


def lightly_step(
    args: argparse.Namespace, images: torch.Tensor, device: torch.device, mark: Callable[[str], None]
) -> Callable[[], None]:
    """Return a function that takes one step of lightly's VICReg recipe."""
    from lightly.utils.lars import LARS

    model, criterion, transform = build("lightly_vicreg", args.arch, parse_mlp(args.mlp), args.image_size)
    return pil_step(args, images, device, model, criterion, LARS, transform)


def pil_step(
    args: argparse.Namespace,
    images: torch.Tensor,
    device: torch.device,
    model: nn.Module,
    criterion: Callable,
    lars: Callable[..., torch.optim.Optimizer],
    transform: Callable[[Any], Any],
) -> Callable[[], None]:
    """Return a function that takes one step on all images, uint8 (n, 3, H, W), which loading processes transform."""
    model = to_device(model, device).train()
    optimizer = lars(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-6)
    repeated = np.tile(np.arange(len(images)), 64)  # so that loading processes can work ahead
    dataset = _PilImages(lambda index: images[repeated[index]].numpy(), len(repeated), transform)
    batches = _endless(dataset, len(images), args.workers)

    def step() -> None:
        training_step(model, criterion, optimizer, next(batches), args.precision == "bf16")

    return step


def pretrain_for(
    args: argparse.Namespace, recipe: str, config: PretrainConfig, images: Callable[[int], np.ndarray], samples: int
) -> list[dict[str, Any]]:
    """Pretrain for ``args.minutes`` of training time, which the learning rate follows; return the checkpoints.

    ``images`` returns one of ``samples`` images, uint8 (3, H, W).
    """
    reuse_freed_memory()
    torch.manual_seed(args.seed)
    model, criterion, transform = build(recipe, config.arch, config.widths, config.final_image_size)
    model = to_device(model, torch.device("cpu")).train()
    optimizer = build_optimizer(config.optimizer, model, config.weight_decay)
    batches = _endless(_PilImages(images, samples, transform), config.batch_size, args.workers)
    next(batches)  # the loading processes have started
    points: list[dict[str, Any]] = []
    seconds, steps, peak_lr = 0.0, 0, config.peak_lr(config.batch_size)
    while seconds < args.minutes * 60:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(int(10_000 * seconds / (args.minutes * 60)), 10_000, 1000, peak_lr)
        training_step(model, criterion, optimizer, next(batches), config.precision == "bf16")
        seconds, steps = seconds + time.perf_counter() - started, steps + 1
        if seconds >= args.minutes * 60 * (len(points) + 1) / args.points:
            path = Path(args.exp_dir) / f"{recipe}_{len(points) + 1}.pth"
            save_backbone(path, model[0], config.arch, 3, IMAGENET_MEAN, IMAGENET_STD, f"{recipe}, {steps} steps")
            points.append({"file": str(path), "minutes": seconds / 60, "pairs": steps * config.batch_size})
            print(f"{recipe}: {seconds / 60:.1f} min, {steps} steps", flush=True)
    return points


class _PilImages(torch.utils.data.Dataset):
    """Images as PIL images, through a transform."""

    def __init__(self, images: Callable[[int], np.ndarray], samples: int, transform: Callable[[Any], Any]) -> None:
        self._images, self._samples, self._transform = images, samples, transform

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self._transform(Image.fromarray(np.ascontiguousarray(self._images(index).transpose(1, 2, 0))))


def _endless(dataset: torch.utils.data.Dataset, batch_size: int, workers: int) -> Iterator[Any]:
    loader: Any = torch.utils.data.DataLoader(
        dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader
