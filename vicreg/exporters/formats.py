"""Backbones in the formats of other libraries, each verified by its library before the file gets its name."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import nn

from vicreg.common import files
from vicreg.exporters import detectron2 as detectron2_exporter
from vicreg.exporters import hugging_face, safetensors_file, verify
from vicreg.exporters import onnx as onnx_exporter
from vicreg.exporters.detectron2 import Info, plain_name
from vicreg.models.weight_files import record_of

_RESNETS = tuple(detectron2_exporter.RESNETS)  # torchvision and timm use the same names
_SMP_THROUGH_TIMM = ("wide_resnet50_2", "wide_resnet101_2")  # SMP's names for these start with tu-
_PTH = (".pth", ".pt")


class Target(NamedTuple):
    """How a library takes a backbone; ``info`` is the second value of ``load_backbone``.

    Attributes:
        library: Package name.
        suffixes: Suffixes of its files.
        archs: timm names of the networks that it shares, without tags; none for all of timm's.
        encode: Returns the content of the file.
        features: Computes the features to compare.
        read: Computes them with the library's own loader.
        recipe: Returns lines of Python that load the file.
        sidecar: Write what the format cannot record to ``<path>.json``.
    """

    library: str
    suffixes: tuple[str, ...]
    archs: tuple[str, ...]
    encode: Callable[[nn.Module, Info], bytes]
    features: Callable[[nn.Module, torch.Tensor], list[torch.Tensor]]
    read: Callable[[Path, Info, torch.Tensor], list[torch.Tensor]]
    recipe: Callable[[str | Path, Info], list[str]]
    sidecar: bool = True

    def check(self, info: Info) -> None:
        """Raise ValueError if the library does not know a backbone."""
        if self.archs and plain_name(info) not in self.archs:
            raise ValueError(
                f"{self.library} has no network with the weights of timm's {info['arch']}; it shares "
                f"{', '.join(self.archs)}; --to timm, safetensors and onnx take any"
            )
        if self.library == "torchvision" and info["in_chans"] != 3:
            raise ValueError(f"torchvision's ResNets take 3 channels, this one {info['in_chans']}; --to timm takes any")


def export(
    to: str, path: str | Path, backbone: nn.Module, info: Info, image_size: int | None = None, card: str = ""
) -> tuple[str, list[str]]:
    """Write a backbone for another library, and verify the file with that library if it is installed.

    Args:
        to: One of ``NAMES``.
        path: The file, or the folder of ``hf``; replaced if it exists.
        backbone: First value of ``load_backbone``.
        info: Second value of ``load_backbone``.
        image_size: For ONNX: side of the images, None for any.
        card: For ``hf``: the model card; see ``hugging_face.model_card``.

    Returns:
        One line on what was verified, and lines of Python that load the file.

    Raises:
        ValueError: The library does not know this backbone, the file name has another suffix, or features differ.
        OSError: The file cannot be written.
    """
    if to == "detectron2":
        return detectron2_exporter.save(path, backbone, info), detectron2_exporter.recipe(path)
    if to == "hf":
        return hugging_face.save(path, backbone, info, card), hugging_face.recipe(path)
    if to == "onnx":
        return _export_onnx(path, backbone, info, image_size)
    target = TARGETS[to]
    target.check(info)
    out_path = files.check_writable(path, target.suffixes)
    images = verify.sample_images(info["in_chans"], verify.natural_size(backbone))
    expected = target.features(backbone, images)
    check = functools.partial(
        verify.verify, library=target.library, expected=expected, read=lambda file: target.read(file, info, images)
    )
    report = files.write_bytes(out_path, target.encode(backbone, info), check)
    if target.sidecar:
        record = {"library": to, **record_of(info)}
        files.write_json(out_path.with_name(f"{out_path.name}.json"), record)
    return report, target.recipe(path, info)


def _export_onnx(path: str | Path, backbone: nn.Module, info: Info, image_size: int | None) -> tuple[str, list[str]]:
    path = files.check_writable(path, (".onnx",))
    content = onnx_exporter.encode(backbone, info["in_chans"], safetensors_file.metadata_of(info), image_size)
    batches = onnx_exporter.sample_batches(info["in_chans"], image_size, verify.natural_size(backbone))
    expected = [verify.pooled(backbone, images)[0] for images in batches]
    read = functools.partial(onnx_exporter.read_features, batches=batches)
    check = functools.partial(verify.verify, library="onnxruntime", expected=expected, read=read)
    try:
        return files.write_bytes(path, content, check), onnx_exporter.recipe(path)
    except ValueError as error:
        if image_size:
            raise
        raise ValueError(f"with images of any size: {error}; name one size with --image-size") from error


def _encode(backbone: nn.Module, info: Info, prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    torch.save(safetensors_file.state_of(backbone, prefix), buffer)
    return buffer.getvalue()


def _load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_torchvision(path: Path, info: Info, images: torch.Tensor) -> list[torch.Tensor]:
    import torchvision

    model = getattr(torchvision.models, plain_name(info))()
    model.fc = torch.nn.Identity()
    model.load_state_dict(_load(path))
    return verify.pooled(model, images)


def _torchvision_recipe(path: str | Path, info: Info) -> list[str]:
    return [
        "import torch, torchvision",
        f"model = torchvision.models.{plain_name(info)}(); model.fc = torch.nn.Identity()",
        f'model.load_state_dict(torch.load("{path}", weights_only=True))',
    ]


def _read_timm(path: Path, info: Info, images: torch.Tensor) -> list[torch.Tensor]:
    model = timm.create_model(info["arch"], num_classes=0, in_chans=info["in_chans"], checkpoint_path=str(path))
    return verify.pooled(model, images)


def _timm_recipe(path: str | Path, info: Info) -> list[str]:
    channels = "" if info["in_chans"] == 3 else f", in_chans={info['in_chans']}"
    return [
        "import timm",
        f'model = timm.create_model("{info["arch"]}", num_classes=0{channels}, checkpoint_path="{path}")',
    ]


def _safetensors_recipe(path: str | Path, info: Info) -> list[str]:
    return [
        *_timm_recipe(path, info),
        f'from safetensors.torch import load_file; state = load_file("{path}")  # or the tensors alone',
    ]


def _smp_encoder(info: Info) -> str:
    return f"tu-{plain_name(info)}" if plain_name(info) in _SMP_THROUGH_TIMM else plain_name(info)


def _encode_smp(backbone: nn.Module, info: Info) -> bytes:
    return _encode(backbone, info, "model." if plain_name(info) in _SMP_THROUGH_TIMM else "")


def _smp_features(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    first, _, *stages = verify.resnet_stages(backbone, images)
    return [first, *stages]


@torch.no_grad()
def _read_smp(path: Path, info: Info, images: torch.Tensor) -> list[torch.Tensor]:
    import segmentation_models_pytorch as smp

    model = smp.Unet(_smp_encoder(info), encoder_weights=None, in_channels=info["in_chans"])
    model.encoder.load_state_dict(_load(path))
    return model.encoder.eval()(images)[1:]


def _smp_recipe(path: str | Path, info: Info) -> list[str]:
    channels = "" if info["in_chans"] == 3 else f", in_channels={info['in_chans']}"
    return [
        "import torch, segmentation_models_pytorch as smp",
        f'model = smp.Unet("{_smp_encoder(info)}", encoder_weights=None{channels})',
        f'model.encoder.load_state_dict(torch.load("{path}", weights_only=True))',
    ]


TARGETS = {
    "torchvision": Target(
        "torchvision", _PTH, _RESNETS, _encode, verify.pooled, _read_torchvision, _torchvision_recipe
    ),
    "timm": Target("timm", _PTH, (), _encode, verify.pooled, _read_timm, _timm_recipe),
    "smp": Target("segmentation_models_pytorch", _PTH, _RESNETS, _encode_smp, _smp_features, _read_smp, _smp_recipe),
    "safetensors": Target(
        "timm", (".safetensors",), (), safetensors_file.encode, verify.pooled, _read_timm, _safetensors_recipe, False
    ),
}
NAMES = ("torchvision", "timm", "detectron2", "smp", "safetensors", "onnx", "hf")
