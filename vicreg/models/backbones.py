"""Backbones by timm name, made, and loaded from whatever file their weights are in."""

import difflib
import functools

import timm
import torch
from torch import nn

from vicreg.common import checkpoint_io

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BASELINES = ("random", "imagenet", "stats", "pixels")
PARAMETER_FREE = ("stats", "pixels")  # no weights at all
_HEADS = ("fc.", "head.", "classifier.")  # classifiers that files of other libraries carry
# vision transformers of timm resample their position embeddings to any size with these; other families lack them
_ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}
_COUNTER = "num_batches_tracked"  # of BatchNorm, no weight; torchvision's older ImageNet files lack it


def create_backbone(arch, in_chans=3, pretrained=False):
    """Make a backbone that turns images (n, in_chans, H, W) into features (n, backbone.num_features).

    Args:
        arch: any timm name. For ResNets the parameter names are torchvision's.
        in_chans: input channels. pretrained: load timm's ImageNet weights (network, or timm's cache).

    Raises:
        ValueError: timm does not know the name; says the nearest ones.
    """
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), n=4) or ["resnet18", "resnet50"]
        raise ValueError(f"no backbone named {arch!r} in timm; nearest: {', '.join(near)}")
    make = functools.partial(timm.create_model, arch, num_classes=0, in_chans=in_chans, pretrained=pretrained)
    try:
        backbone = make(**_ANY_SIZE)
    except TypeError:
        backbone = make()
    if (width := getattr(backbone, "head_hidden_size", None) or backbone.num_features) != backbone.num_features:
        backbone.num_features = width  # some families widen once more after pooling
    return backbone


class ChannelStatistics(nn.Module):
    """A baseline without parameters: mean and standard deviation of each channel, (n, C, H, W) -> (n, 2 C)."""

    def __init__(self, in_chans=3):
        super().__init__()
        self.num_features = 2 * in_chans

    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


class SmallPixels(nn.Module):
    """A baseline without parameters: the image reduced to side x side means, (n, C, H, W) -> (n, C * side * side)."""

    def __init__(self, in_chans=3, side=8):
        super().__init__()
        self.side, self.num_features = side, in_chans * side * side

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, self.side).flatten(1)


def load_backbone(pretrained, arch=None, in_chans=3, seed=0):
    """Load a backbone from a file, or make one of the baselines by name.

    Files may be ``trained_model.pth``, a full ``model.pth`` of pretraining, or a state dict as torchvision and timm
    write them. Missing weights are an error; what a file holds beyond the backbone is listed in the report.

    Args:
        pretrained: a path, or ``random``, ``imagenet`` (timm's weights), ``stats`` (channel mean and std),
            ``pixels`` (the image reduced to 8 x 8).
        arch: timm name; needed where the file does not name it, must agree where it does.
        in_chans: input channels of the baselines. seed: of ``random``.

    Returns:
        (backbone, info): info is a dict of ``arch, in_chans, mean, std, source, report``; mean and std are None where
        the weights want no particular normalization.

    Raises:
        FileNotFoundError, ValueError: what is wrong, where, and what to do.
    """
    info = {"arch": arch, "in_chans": in_chans, "mean": None, "std": None, "source": str(pretrained)}
    if pretrained == "stats":
        return ChannelStatistics(in_chans), {**info, "arch": "stats", "report": "channel mean and std, no weights"}
    if pretrained == "pixels":
        return SmallPixels(in_chans), {**info, "arch": "pixels", "report": "the image reduced to 8 x 8, no weights"}
    if pretrained in BASELINES:
        if arch is None:
            raise ValueError(f"--pretrained {pretrained} needs --arch, for example --arch resnet18")
        return _named_baseline(pretrained, info, seed)
    state, found = _read_state(pretrained)
    info.update({key: value for key, value in found.items() if value is not None})
    if arch is not None and info["arch"] != arch:
        raise ValueError(f"{pretrained} holds a {info['arch']}, --arch says {arch}; leave --arch out")
    if info["arch"] is None:
        raise ValueError(f"{pretrained} does not name its architecture; say it with --arch")
    try:
        backbone = create_backbone(info["arch"], info["in_chans"])
    except ValueError as error:
        raise ValueError(f"{pretrained}: {error}") from error
    own = backbone.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(_COUNTER)]
    unused = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        raise ValueError(
            f"{pretrained} does not fit {info['arch']}: {len(missing)} of {len(own)} tensors missing"
            f"{_some(missing)}, {len(wrong)} of another shape{_some(wrong)}, {len(unused)} unused{_some(unused)}"
        )
    backbone.load_state_dict({key: state.get(key, own[key]) for key in own})
    others = [key for key in unused if not key.startswith(_HEADS)]
    matched = sum(key in state for key in own)
    info["report"] = (
        f"{info['arch']} from {pretrained}: {matched} tensors matched, 0 missing, {len(unused)} unused"
        f"{_some(others) if others else ''}"
    )
    return backbone, info


def init_backbone(backbone, init_from, arch, in_chans):
    """Give a new backbone the weights of another one.

    Args:
        backbone: of ``create_backbone(arch, in_chans)``. init_from: what ``load_backbone`` takes.
        in_chans: where the weights have another number of input channels, their first convolution is inflated: its
            channels are repeated and scaled by old / new, which keeps the size of what comes out.

    Returns:
        what was loaded, in words.

    Raises:
        FileNotFoundError, ValueError: as ``load_backbone``; a first layer that is no convolution.
    """
    if init_from in ("random", *PARAMETER_FREE):
        raise ValueError(f"--init-from {init_from}: a file of weights or 'imagenet' expected")
    if init_from == "imagenet":
        given, info = load_backbone(init_from, arch, in_chans)  # timm inflates by itself
        backbone.load_state_dict(given.state_dict())
        return info["report"]
    given, info = load_backbone(init_from, arch)
    state, report = given.state_dict(), info["report"]
    for key, own in backbone.state_dict().items():
        weight = state[key]
        if weight.shape != own.shape:
            if weight.dim() != 4 or weight.shape[:1] + weight.shape[2:] != own.shape[:1] + own.shape[2:]:
                raise ValueError(f"{init_from}: {key} is {tuple(weight.shape)}, {tuple(own.shape)} expected")
            times = -(-own.shape[1] // weight.shape[1])
            inflated = weight.repeat(1, times, 1, 1)[:, : own.shape[1]]
            state[key] = inflated * (weight.shape[1] / own.shape[1])
            report += f"; {key} inflated from {weight.shape[1]} to {own.shape[1]} channels"
    backbone.load_state_dict(state)
    return report


def arch_of(path):
    """Architecture that a file of weights names, or None.

    Raises:
        FileNotFoundError, ValueError: no such file, or not one of weights.
    """
    return _read_state(path)[1].get("arch")


def _named_baseline(name, info, seed):
    if name == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = create_backbone(info["arch"], info["in_chans"])
        return backbone, {**info, "report": f"{info['arch']} with random weights (seed {seed})"}
    try:
        backbone = create_backbone(info["arch"], info["in_chans"], pretrained=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"ImageNet weights of {info['arch']} could not be loaded: they come over the network or from timm's cache "
            f"(~/.cache/huggingface), and neither worked here ({type(error).__name__}: {error})"
        ) from error
    settings = backbone.pretrained_cfg
    info.update(mean=list(settings["mean"]), std=list(settings["std"]))
    return backbone, {**info, "report": f"{info['arch']} with timm's ImageNet weights"}


def _read_state(path):
    """State dict of the backbone in a file, and what the file says of it."""
    payload = checkpoint_io.load(path)
    if not isinstance(payload, dict):
        raise ValueError(f"{path}: a dict of weights expected, got {type(payload).__name__}")
    if "state_dict" in payload and "arch" in payload:
        return payload["state_dict"], {key: payload.get(key) for key in ("arch", "in_chans", "mean", "std", "source")}
    if "model" in payload:
        prefix = "module.backbone."
        state = {key[len(prefix) :]: value for key, value in payload["model"].items() if key.startswith(prefix)}
        if not state:
            raise ValueError(f"{path}: no {prefix}* weights in it; is it a pretraining checkpoint?")
        return state, payload.get("backbone", {})
    state = payload.get("state_dict", payload)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: neither a trained_model.pth, nor a model.pth, nor a state dict of tensors")
    looks_like_torchvision = "conv1.weight" in state and "fc.weight" in state
    return state, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if looks_like_torchvision else {}


def _some(keys, most=3):
    if not keys:
        return ""
    return f" ({', '.join(keys[:most])}{', …' if len(keys) > most else ''})"


def check_channels(in_chans, dataset, who):
    """Raise ValueError where a network takes images of another number of channels than a data set has."""
    if dataset.mean is not None and len(dataset.mean) != in_chans:
        raise ValueError(f"{who}: {in_chans} channels, but these images have {len(dataset.mean)}")
