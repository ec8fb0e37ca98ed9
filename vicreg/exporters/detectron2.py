"""Detectron2: the pickle of its convert-torchvision-to-d2.py, and the configuration that belongs to it.

    backbone, info = load_backbone("exp/trained_model.pth")
    print(save("r18.pkl", backbone, info))                  # r18.pkl and r18.pkl.yaml
    cfg.merge_from_list(flat(config(info, "r18.pkl")))      # or cfg.merge_from_file("r18.pkl.yaml")

Only ``read_features``, and so the verification in ``save``, needs Detectron2 itself.
"""

import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vicreg.common import files
from vicreg.exporters import verify
from vicreg.models.weight_files import IMAGENET_MEAN, IMAGENET_STD, record_of

SUFFIXES = (".pkl",)  # Detectron2 takes other files for checkpoints of its own
STAGES = ("stem", "res2", "res3", "res4", "res5")
_DEFAULTS = {"NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "RES2_OUT_CHANNELS": 256}
RESNETS = {  # MODEL.RESNETS of each architecture
    "resnet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "resnet34": {"DEPTH": 34, "RES2_OUT_CHANNELS": 64},
    "resnet50": {"DEPTH": 50},
    "resnet101": {"DEPTH": 101},
    "resnet152": {"DEPTH": 152},
    "wide_resnet50_2": {"DEPTH": 50, "WIDTH_PER_GROUP": 128},
    "wide_resnet101_2": {"DEPTH": 101, "WIDTH_PER_GROUP": 128},
    "resnext50_32x4d": {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
    "resnext101_32x8d": {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8},
}
_RENAMES = [
    (r"^(conv1|bn1)\.", r"stem.\1."),
    *[(rf"^layer{number}\.", f"res{number + 1}.") for number in (1, 2, 3, 4)],
    (r"\bbn([123])\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
]
Info = Mapping[str, Any]  # second value of load_backbone


def plain_name(info: Info) -> str:
    """Return the architecture without timm's tag: ``resnet50`` for ``resnet50.a1_in1k``."""
    return info["arch"].partition(".")[0]


def resnet_settings(info: Info) -> dict[str, int]:
    """Return MODEL.RESNETS of a backbone.

    Raises:
        ValueError: Detectron2 does not build this architecture, or does not read images of so many channels.
    """
    name = plain_name(info)
    if name not in RESNETS:
        raise ValueError(f"Detectron2's build_resnet_backbone has no {info['arch']}; it knows {', '.join(RESNETS)}")
    if info["in_chans"] != 3:
        raise ValueError(f"Detectron2 reads images of 3 channels, this {name} takes {info['in_chans']}")
    return _DEFAULTS | RESNETS[name]


def rename(key: str) -> str:
    """Return Detectron2's name of a weight: ``layer1.0.bn1.bias`` is ``res2.0.conv1.norm.bias``."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert(backbone: nn.Module, info: Info) -> dict[str, Any]:
    """Return the weights under Detectron2's names.

    Returns:
        dict of ``model`` (name to float array), ``__author__``, ``matching_heuristics``, and ``metadata``: what is
        known about the backbone, which Detectron2 does not read.

    Raises:
        ValueError: Detectron2 does not build this backbone.
    """
    resnet_settings(info)
    model = {rename(key): value.detach().cpu().numpy().copy() for key, value in backbone.state_dict().items()}
    return {"model": model, "__author__": "vicreg", "matching_heuristics": True, "metadata": record_of(info)}


def config(info: Info, weights: str | Path | None = None, norm: str = "SyncBN") -> dict[str, Any]:
    """Return the configuration that the weights need to give the features that they were trained for.

    Args:
        info: Second value of ``load_backbone``; without mean and std, ImageNet's are used.
        weights: File for MODEL.WEIGHTS.
        norm: Normalization layers of the backbone. SyncBN continues to train them (BN: on one GPU or a CPU); FrozenBN
            keeps the pretrained statistics, and does not suit random weights, which have none.

    Returns:
        dict from full names, such as ``MODEL.RESNETS.DEPTH``, to values. Pixels are in 0..255, in RGB order.

    Raises:
        ValueError: Detectron2 does not build this backbone.
    """
    mean, std = info.get("mean") or IMAGENET_MEAN, info.get("std") or IMAGENET_STD
    settings: dict[str, Any] = {"MODEL.WEIGHTS": str(Path(weights).resolve())} if weights else {}
    settings |= {
        "MODEL.PIXEL_MEAN": [round(255 * value, 6) for value in mean],
        "MODEL.PIXEL_STD": [round(255 * value, 6) for value in std],
        "MODEL.BACKBONE.FREEZE_AT": 0,  # train all stages; Detectron2's default is 2
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }
    settings |= {f"MODEL.RESNETS.{key}": value for key, value in resnet_settings(info).items()}
    return settings | {"INPUT.FORMAT": "RGB"}


def flat(settings: Mapping[str, Any]) -> list[Any]:
    """Return a configuration as the list ``[name, value, name, value, …]`` of ``cfg.merge_from_list``."""
    return [item for pair in settings.items() for item in pair]


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return a configuration as the text of a file for ``cfg.merge_from_file``."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000)


def save(path: str | Path, backbone: nn.Module, info: Info) -> str:
    """Write ``path`` and its configuration ``<path>.yaml``, and verify them with Detectron2 if it is installed.

    ``backbone`` and ``info`` are the values of ``load_backbone``. Returns one line on what was verified.

    Raises:
        ValueError: Detectron2 does not build this backbone, the file name has another suffix, or features differ.
        OSError: The file cannot be written.
    """
    out_path = files.check_writable(path, SUFFIXES)
    settings = config(info, out_path)
    content = pickle.dumps(convert(backbone, info), protocol=4)
    images = verify.sample_images()
    expected = verify.resnet_stages(backbone, images)[1:]
    read = functools.partial(read_features, info=info, images=images)
    check = functools.partial(verify.verify, library="detectron2", expected=expected, read=read)
    report = files.write_bytes(out_path, content, check)
    files.write_text(out_path.with_name(f"{out_path.name}.yaml"), as_yaml(settings))
    return report


def read_features(path: Path, info: Info, images: torch.Tensor) -> list[torch.Tensor]:
    """Load a file of ``save`` with Detectron2, and compute the output of each of ``STAGES`` of images (n, C, H, W)."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone

    cfg = get_cfg()
    cfg.merge_from_list(flat(config(info, norm="BN")))
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=images.shape[1])).eval()
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.fill_(torch.nan if value.is_floating_point() else 0)  # weights that are not loaded give NaN
    DetectionCheckpointer(backbone, save_to_disk=False).load(str(path))
    with torch.no_grad():
        features = backbone(images)
    return [features[name] for name in STAGES]


def recipe(path: str | Path) -> list[str]:
    """Return lines of Python that build a detector with the file."""
    return [
        "from detectron2 import checkpoint, config, model_zoo, modeling",
        'cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")  # or another ResNet detector',
        f'cfg.merge_from_file("{path}.yaml"); model = modeling.build_model(cfg)',
        "checkpoint.DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)",
    ]
