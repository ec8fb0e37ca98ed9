"""Backbones in the formats of other libraries, each read back by its library before the file takes its name."""

import io
import json
from collections.abc import Callable
from typing import NamedTuple

import torch

from vicreg.common import files
from vicreg.common.files import write_json
from vicreg.exporters import detectron2 as detectron2_exporter
from vicreg.exporters import onnx as onnx_exporter
from vicreg.exporters import verify
from vicreg.exporters.detectron2 import plain_name

_RESNETS = tuple(detectron2_exporter.RESNETS)  # torchvision names them as timm does
_SMP = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
_SMP_THROUGH_TIMM = ("wide_resnet50_2", "wide_resnet101_2")  # SMP's names for these begin with tu-
_SAID = ("arch", "in_chans", "mean", "std", "source")


class Target(NamedTuple):
    """How one library takes a backbone; ``info`` is that of ``load_backbone``."""

    library: str  # to import
    suffixes: tuple
    check: Callable  # info -> None, raises ValueError for what the library does not know
    encode: Callable  # backbone, info -> bytes
    features: Callable  # backbone, images -> list of tensors
    read: Callable  # path, info, images -> list of tensors, with the library's own loader
    recipe: Callable  # path, info -> lines of Python
    note: bool = True  # what the format cannot say goes into <path>.json


def export(to, path, backbone, info, image_size=None):
    """Write a backbone for another library, and read it back with that library where it is installed.

    Args:
        to: of NAMES. path: the file; replaced if it is there. backbone, info: of ``load_backbone``.
        image_size: of ONNX: side of the images, None for any.

    Returns:
        (verified, recipe): what was found, in words, and lines of Python that load the file.

    Raises:
        ValueError: the library does not know this backbone, the name has another ending, or features differ.
        OSError: the file cannot be written.
    """
    if to == "detectron2":
        return detectron2_exporter.save(path, backbone, info), detectron2_exporter.recipe(path)
    if to == "onnx":
        return _export_onnx(path, backbone, info, image_size)
    target = TARGETS[to]
    target.check(info)
    path = files.check_writable(path, target.suffixes)
    images = verify.sample_images(info["in_chans"], verify.natural_size(backbone))
    ours = target.features(backbone, images)

    def check(beside):
        return verify.verify(beside, target.library, ours, lambda file: target.read(file, info, images))

    found = files.write_bytes(path, target.encode(backbone, info), check)
    if target.note:
        write_json(path.with_name(f"{path.name}.json"), {"library": to, **{key: info.get(key) for key in _SAID}})
    return found, target.recipe(path, info)


def _export_onnx(path, backbone, info, image_size):
    path = files.check_writable(path, (".onnx",))
    content = onnx_exporter.encode(backbone, info["in_chans"], _strings(info), image_size)
    batches = onnx_exporter.sample_batches(info["in_chans"], image_size, verify.natural_size(backbone))
    ours = [verify.pooled(backbone, images)[0] for images in batches]

    def check(beside):
        return verify.verify(beside, "onnxruntime", ours, lambda file: onnx_exporter.read_features(file, batches))

    try:
        return files.write_bytes(path, content, check), onnx_exporter.recipe(path)
    except ValueError as error:
        if image_size:
            raise
        raise ValueError(f"with images of any size: {error}; name one size with --image-size") from error


def _strings(info):
    """What a file says of itself, as strings."""
    said = {key: info.get(key) for key in _SAID}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}


def _state(backbone, prefix=""):
    return {f"{prefix}{key}": value.detach().cpu().clone() for key, value in backbone.state_dict().items()}


def _torch_bytes(state):
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


def _load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_torchvision(info):
    if plain_name(info) not in _RESNETS:
        raise ValueError(
            f"torchvision has no network with the weights of timm's {info['arch']}; it shares {', '.join(_RESNETS)}; "
            "--to timm, safetensors and onnx take any"
        )
    if info["in_chans"] != 3:
        raise ValueError(f"torchvision's ResNets take 3 channels, this one {info['in_chans']}; --to timm takes any")


def _read_torchvision(path, info, images):
    import torchvision

    model = getattr(torchvision.models, plain_name(info))()
    model.fc = torch.nn.Identity()
    model.load_state_dict(_load(path))
    return verify.pooled(model, images)


def _torchvision_recipe(path, info):
    return [
        "import torch, torchvision",
        f"model = torchvision.models.{plain_name(info)}(); model.fc = torch.nn.Identity()",
        f'model.load_state_dict(torch.load("{path}", weights_only=True))',
    ]


def _read_timm(path, info, images):
    import timm

    model = timm.create_model(info["arch"], num_classes=0, in_chans=info["in_chans"], checkpoint_path=str(path))
    return verify.pooled(model, images)


def _timm_recipe(path, info):
    channels = "" if info["in_chans"] == 3 else f", in_chans={info['in_chans']}"
    return [
        "import timm",
        f'model = timm.create_model("{info["arch"]}", num_classes=0{channels}, checkpoint_path="{path}")',
    ]


def _encode_safetensors(backbone, info):
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ValueError(f"this format needs the package safetensors ({error}): pip install safetensors") from error
    state = {key: value.contiguous() for key, value in _state(backbone).items()}
    return save(state, metadata={"format": "pt", **_strings(info)})


def _safetensors_recipe(path, info):
    return [
        *_timm_recipe(path, info),
        f'from safetensors.torch import load_file; state = load_file("{path}")  # or the tensors alone',
    ]


def _check_smp(info):
    if plain_name(info) not in _SMP + _SMP_THROUGH_TIMM:
        raise ValueError(
            f"no SMP encoder has the weights of timm's {info['arch']}; there are {', '.join(_SMP + _SMP_THROUGH_TIMM)}"
        )


def _smp_encoder(info):
    return f"tu-{plain_name(info)}" if plain_name(info) in _SMP_THROUGH_TIMM else plain_name(info)


def _encode_smp(backbone, info):
    return _torch_bytes(_state(backbone, "model." if plain_name(info) in _SMP_THROUGH_TIMM else ""))


def _smp_features(backbone, images):
    first, _, *stages = verify.resnet_stages(backbone, images)
    return [first, *stages]


def _read_smp(path, info, images):
    import segmentation_models_pytorch as smp

    model = smp.Unet(_smp_encoder(info), encoder_weights=None, in_channels=info["in_chans"])
    model.encoder.load_state_dict(_load(path))
    with verify.evaluating(model.encoder) as encoder:
        return encoder(images)[1:]


def _smp_recipe(path, info):
    channels = "" if info["in_chans"] == 3 else f", in_channels={info['in_chans']}"
    return [
        "import torch, segmentation_models_pytorch as smp",
        f'model = smp.Unet("{_smp_encoder(info)}", encoder_weights=None{channels})',
        f'model.encoder.load_state_dict(torch.load("{path}", weights_only=True))',
    ]


def _plain(backbone, info):
    return _torch_bytes(_state(backbone))


def _any(info):
    """Whatever timm makes, timm reads."""


_PTH = (".pth", ".pt")
TARGETS = {
    "torchvision": Target(
        "torchvision", _PTH, _check_torchvision, _plain, verify.pooled, _read_torchvision, _torchvision_recipe
    ),
    "timm": Target("timm", _PTH, _any, _plain, verify.pooled, _read_timm, _timm_recipe),
    "smp": Target("segmentation_models_pytorch", _PTH, _check_smp, _encode_smp, _smp_features, _read_smp, _smp_recipe),
    "safetensors": Target(
        "timm", (".safetensors",), _any, _encode_safetensors, verify.pooled, _read_timm, _safetensors_recipe, False
    ),
}
NAMES = ("torchvision", "timm", "detectron2", "smp", "safetensors", "onnx")
