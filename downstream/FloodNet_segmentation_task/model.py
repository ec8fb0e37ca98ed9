"""The segmentation network: a decoder of segmentation_models_pytorch over our backbone as its encoder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from downstream.FloodNet_segmentation_task.config import TASK, FloodConfig
from vicreg.augmentations.batch import normalize
from vicreg.common.logger import log
from vicreg.common.random_streams import stream_seed
from vicreg.engine.checkpoint import load_task, naming
from vicreg.engine.finetune import build_backbone
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD

DECODERS = {
    "unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus,
}  # fmt: skip
ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # the ones whose weights have ResNet's names


class Segmenter(nn.Module):
    """Segmentation network with normalization: images -> logits.

    Args:
        arch: Encoder, one of ``ENCODERS``.
        decoder: A key of ``DECODERS``.
        num_classes: Number of classes; two classes have one logit.
        mean: Mean of each channel, of pixels in [0, 1]; None for ImageNet's.
        std: Standard deviation of each channel; None for ImageNet's.
        in_chans: Number of channels.

    Raises:
        ValueError: The encoder is not one of ``ENCODERS``, or the normalization of many channels is unknown.
    """

    def __init__(
        self,
        arch: str,
        decoder: str,
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        in_chans: int = 3,
    ):
        super().__init__()
        if arch not in ENCODERS:
            raise ValueError(f"no U-Net over {arch}; backbones for segmentation are {', '.join(ENCODERS)}")
        if mean is None and in_chans != 3:
            raise ValueError(
                f"the weights of {in_chans} channels record no mean and std; name them with --mean and --std"
            )
        outputs = 1 if num_classes == 2 else num_classes
        self.network = DECODERS[decoder](arch, encoder_weights=None, in_channels=in_chans, classes=outputs)
        self.mean, self.std = list(mean or IMAGENET_MEAN), list(std or IMAGENET_STD)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (n, C, H, W), sides multiples of 32, to logits (n, outputs, H, W); floats are in [0, 1]."""
        white = 1 if images.is_floating_point() else torch.iinfo(images.dtype).max
        images = normalize(images.float() / white, self.mean, self.std)
        return self.network(images.contiguous(memory_format=torch.channels_last))


def build_model(config: FloodConfig, checkpoint: dict[str, Any]) -> tuple[Segmenter, dict[str, Any]]:
    """Build the network with its initial weights, or that of a checkpoint (empty: a new run), whose are loaded later.

    Returns:
        The network, and ``arch``, ``in_chans``, ``mean``, ``std`` and ``source`` of its backbone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a backbone, or does not fit the encoder.
    """
    if config.init_from and not checkpoint:
        weights, saved = load_task(config.init_from, TASK)
        info = saved["backbone"]
        about, count = saved["task"], len(config.classes.names)
        model = Segmenter(info["arch"], config.decoder, count, about["mean"], about["std"], info.get("in_chans", 3))
        model.load_state_dict(weights)
        log(f"{config.decoder} over {info['arch']} from {config.init_from}: all {len(weights)} tensors")
        return model, info
    backbone, info = build_backbone(config, checkpoint)
    torch.manual_seed(stream_seed(config.seed, "initialization"))
    model = Segmenter(
        info["arch"], config.decoder, len(config.classes.names), info["mean"], info["std"], info["in_chans"]
    )
    if not checkpoint:
        log(load_encoder(model, backbone))
    return model, info


def load_encoder(model: Segmenter, backbone: nn.Module) -> str:
    """Copy the weights of a backbone of the same architecture into the encoder; return a report.

    Raises:
        ValueError: A tensor is missing, unused, or of another shape; nothing is copied then.
    """
    expected, given = model.network.encoder.state_dict(), backbone.state_dict()
    missing, unused = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    wrong = [key for key in expected.keys() & given.keys() if expected[key].shape != given[key].shape]
    if missing or unused or wrong:
        first = ", ".join([*missing, *unused, *wrong][:3])
        raise ValueError(
            f"the backbone does not fit the encoder: {len(missing)} of {len(expected)} tensors missing, {len(unused)} "
            f"unused, {len(wrong)} of another shape ({first}, …)"
        )
    model.network.encoder.load_state_dict(given)
    return f"encoder: {len(expected)} of {len(expected)} tensors from the backbone, 0 missing, 0 unused"


def load_segmenter(path: str | Path, device: torch.device) -> tuple[Segmenter, dict[str, Any]]:
    """Load a segmentation network and what its checkpoint, of train_floodnet.py, says of the task.

    Returns:
        The network, and the dict ``task`` of the checkpoint, with the number of ``channels``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of train_floodnet.py.
    """
    weights, about = load_task(path, TASK)
    task, info = about["task"], about["backbone"]
    task["channels"] = info.get("in_chans", 3)
    with naming(path):
        model = Segmenter(
            info["arch"], task["decoder"], len(task["classes"]), task["mean"], task["std"], task["channels"]
        )
        model.load_state_dict(weights)
    return model.to(device), task


class SegmentationLoss(nn.Module):
    """Dice loss (Milletari et al. 2016), and cross-entropy if weighted.

    Dice is computed over the whole batch: the mean over the classes that occur, or, of two classes, that of the second
    class alone (zero for a batch without it).

    Args:
        num_classes: Number of classes.
        cross_entropy: Weight of the cross-entropy beside Dice's 1.
    """

    def __init__(self, num_classes: int, cross_entropy: float = 0.0):
        super().__init__()
        self._dice = smp.losses.DiceLoss("binary" if num_classes == 2 else "multiclass")
        self._pixelwise = smp.losses.SoftBCEWithLogitsLoss() if num_classes == 2 else nn.CrossEntropyLoss()
        self._binary, self._weight = num_classes == 2, cross_entropy

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``loss`` and its terms in float32 from logits (n, 1 or classes, H, W) and labels (n, H, W)."""
        logits, labels = logits.float(), labels.long()
        losses = {"dice_loss": self._dice(logits, labels)}
        loss = losses["dice_loss"]
        if self._weight:
            target = labels[:, None].float() if self._binary else labels
            losses["cross_entropy"] = self._pixelwise(logits, target)
            loss = loss + self._weight * losses["cross_entropy"]
        return {"loss": loss, **losses}


def predictor(model: nn.Module, device: torch.device, bf16: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from images (n, C, S, S) to probabilities (n, classes, S, S), in eval mode."""

    @torch.inference_mode()
    def predict(images: torch.Tensor) -> torch.Tensor:
        model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(images.to(device))
        if logits.shape[1] > 1:
            return logits.float().softmax(1)
        probabilities = logits.float().sigmoid()
        return torch.cat([1 - probabilities, probabilities], 1)

    return predict
