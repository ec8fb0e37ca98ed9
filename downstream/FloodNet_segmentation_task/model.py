"""The segmentation network: a decoder of segmentation_models_pytorch over our backbone as its encoder."""

import segmentation_models_pytorch as smp
import torch
from torch import nn

from vicreg.augmentations.batch import normalize
from vicreg.engine import checkpoint
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD

TASK = "flood segmentation"  # name in checkpoints
DECODERS = {
    "unet": smp.Unet, "unetplusplus": smp.UnetPlusPlus, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus,
}  # fmt: skip
ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # the ones whose weights have ResNet's names


class Segmenter(nn.Module):
    """uint8 images (n, 3, H, W), sides multiples of 32 -> logits (n, classes, H, W); one channel for two classes.

    Args:
        arch: of ``ENCODERS``. decoder: of ``DECODERS``. classes: how many. mean, std: per channel, of pixels in
            [0, 1]; None for ImageNet's.

    Raises:
        ValueError: an encoder that has no place here.
    """

    def __init__(self, arch, decoder, classes, mean=None, std=None):
        super().__init__()
        if arch not in ENCODERS:
            raise ValueError(f"no U-Net over {arch}; backbones for segmentation are {', '.join(ENCODERS)}")
        outputs = 1 if classes == 2 else classes
        self.network = DECODERS[decoder](arch, encoder_weights=None, in_channels=3, classes=outputs)
        self.mean, self.std = list(mean or IMAGENET_MEAN), list(std or IMAGENET_STD)

    def forward(self, images):
        images = normalize(images.float() / 255, self.mean, self.std)
        return self.network(images.contiguous(memory_format=torch.channels_last))


def fill_encoder(model, backbone):
    """Copy a backbone's weights into the encoder.

    Args:
        model: ``Segmenter``. backbone: of ``vicreg.models.backbones.load_backbone``, of the same architecture.

    Returns:
        what was copied, in words.

    Raises:
        ValueError: a weight is missing, left over, or of another shape; nothing is copied then.
    """
    own, given = model.network.encoder.state_dict(), backbone.state_dict()
    missing, unused = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    wrong = [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    if missing or unused or wrong:
        first = ", ".join([*missing, *unused, *wrong][:3])
        raise ValueError(
            f"the backbone does not fit the encoder: {len(missing)} of {len(own)} tensors missing, {len(unused)} left "
            f"over, {len(wrong)} of another shape ({first}, …)"
        )
    model.network.encoder.load_state_dict(given)
    return f"encoder: {len(own)} of {len(own)} tensors from the backbone, 0 missing, 0 left over"


class SegmentationLoss(nn.Module):
    """Dice loss, as the earlier work's, and with it cross-entropy if wanted.

    Dice is of the whole batch, a mean over the classes that are there. Of two classes it is that of the second alone,
    and zero for a batch without it.

    Args:
        classes: how many. cross_entropy: its weight beside Dice's 1.
    """

    def __init__(self, classes, cross_entropy=0.0):
        super().__init__()
        self._dice = smp.losses.DiceLoss("binary" if classes == 2 else "multiclass")
        self._pixelwise = smp.losses.SoftBCEWithLogitsLoss() if classes == 2 else nn.CrossEntropyLoss()
        self._binary, self._weight = classes == 2, cross_entropy

    def forward(self, logits, labels):
        """Loss of logits (n, 1 or classes, H, W) and labels (n, H, W), in float32; and its parts, to be logged."""
        logits, labels = logits.float(), labels.long()
        parts = {"dice_loss": self._dice(logits, labels)}
        loss = parts["dice_loss"]
        if self._weight:
            target = labels[:, None].float() if self._binary else labels
            parts["cross_entropy"] = self._pixelwise(logits, target)
            loss = loss + self._weight * parts["cross_entropy"]
        return loss, parts


def predictor(model, device, bf16=False):
    """Function of uint8 images (n, 3, S, S) -> probabilities (n, classes, S, S), by a model in eval mode."""

    @torch.inference_mode()
    def predict(images):
        model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(images.to(device))
        if logits.shape[1] > 1:
            return logits.float().softmax(1)
        above = logits.float().sigmoid()
        return torch.cat([1 - above, above], 1)

    return predict


def load_segmenter(path, device):
    """Load a segmentation network and what its checkpoint says of the task.

    Args:
        path: ``best_model.pth`` or ``model.pth`` of train_floodnet.py.
        device: Where the model goes.

    Returns:
        The ``Segmenter``, and the dict ``task`` of the checkpoint.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a checkpoint of train_floodnet.py.
    """
    weights, about = checkpoint.load_task(path, TASK, device)
    task = about["task"]
    model = Segmenter(about["backbone"]["arch"], task["decoder"], len(task["classes"]), task["mean"], task["std"])
    model.load_state_dict(weights)
    return model.to(device), task
