"""Backbones for Detectron2: the pickle of its own convert-torchvision-to-d2.py, and the settings that go with it.

    backbone, info = load_backbone("exp/trained_model.pth")
    print(save("r18.pkl", backbone, info))                  # r18.pkl and r18.pkl.yaml
    cfg.merge_from_list(flat(config(info, "r18.pkl")))      # or cfg.merge_from_file("r18.pkl.yaml")

Only ``read_features`` (and so the check that ``save`` makes) needs Detectron2 itself.
"""

import json
import pickle
import re
from pathlib import Path

from vicreg.common import files
from vicreg.exporters import verify
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD

SUFFIXES = (".pkl",)  # anything else Detectron2 takes for a checkpoint of its own
STAGES = ("stem", "res2", "res3", "res4", "res5")
_PLAIN = {"NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "RES2_OUT_CHANNELS": 256}
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


def plain_name(info):
    """Architecture without timm's tag: ``resnet50`` of ``resnet50.a1_in1k``."""
    return info["arch"].partition(".")[0]


def resnet_settings(info):
    """MODEL.RESNETS of a backbone; info is that of ``load_backbone``.

    Raises:
        ValueError: Detectron2 does not build this architecture, or does not read images of so many channels.
    """
    name = plain_name(info)
    if name not in RESNETS:
        raise ValueError(f"Detectron2's build_resnet_backbone has no {info['arch']}; it knows {', '.join(RESNETS)}")
    if info["in_chans"] != 3:
        raise ValueError(f"Detectron2 reads images of 3 channels, this {name} takes {info['in_chans']}")
    return _PLAIN | RESNETS[name]


def rename(key):
    """Detectron2's name of a weight: ``layer1.0.bn1.bias`` is ``res2.0.conv1.norm.bias``."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert(backbone, info):
    """Weights under Detectron2's names.

    Args:
        backbone: of ``load_backbone``. info: its second value; ``arch`` counts, and what there is of ``in_chans,
            mean, std, source`` travels along as ``metadata``, which Detectron2 does not read.

    Returns:
        dict of ``model`` (name -> float array), ``__author__``, ``matching_heuristics``, ``metadata``.

    Raises:
        ValueError: a backbone that Detectron2 does not build.
    """
    resnet_settings(info)
    model = {rename(key): value.detach().cpu().numpy().copy() for key, value in backbone.state_dict().items()}
    metadata = {key: info.get(key) for key in ("arch", "in_chans", "mean", "std", "source")}
    return {"model": model, "__author__": "vicreg", "matching_heuristics": True, "metadata": metadata}


def config(info, weights=None, norm="SyncBN", freeze_at=0):
    """Settings without which the weights do not give the features that they were trained for.

    Args:
        info: of ``load_backbone``; where it has no mean and std, ImageNet's are taken.
        weights: file to name in MODEL.WEIGHTS, if any.
        norm: of the backbone. SyncBN goes on learning it (BN: on one GPU or a CPU); FrozenBN keeps the pretrained
            statistics, and is of no use to random weights, which have none.
        freeze_at: first stages that are not trained; Detectron2's default is 2, which random weights do not bear.

    Returns:
        dict of full names, such as ``MODEL.RESNETS.DEPTH``, to values. Pixels are in 0..255, in RGB order.

    Raises:
        ValueError: a backbone that Detectron2 does not build.
    """
    mean, std = info.get("mean") or IMAGENET_MEAN, info.get("std") or IMAGENET_STD
    settings = {"MODEL.WEIGHTS": str(Path(weights).resolve())} if weights else {}
    settings |= {
        "MODEL.PIXEL_MEAN": [round(255 * value, 6) for value in mean],
        "MODEL.PIXEL_STD": [round(255 * value, 6) for value in std],
        "MODEL.BACKBONE.FREEZE_AT": freeze_at,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }
    settings |= {f"MODEL.RESNETS.{key}": value for key, value in resnet_settings(info).items()}
    return settings | {"INPUT.FORMAT": "RGB"}


def flat(settings):
    """Settings as the list ``[name, value, name, value, …]`` of ``cfg.merge_from_list``."""
    return [word for pair in settings.items() for word in pair]


def as_yaml(settings):
    """Settings as the text of a file for ``cfg.merge_from_file``."""
    tree = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return "\n".join(_yaml_lines(tree)) + "\n"


def _yaml_lines(tree, indent=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"


def save(path, backbone, info, norm="SyncBN", freeze_at=0):
    """Write ``path`` and ``<path>.yaml``, its settings; read it back with Detectron2 where that is installed.

    Args:
        path: a name that ends in .pkl. backbone, info: of ``load_backbone``. norm, freeze_at: as ``config``.

    Returns:
        what was verified, in words.

    Raises:
        ValueError: a backbone that Detectron2 does not build, another ending, features that differ.
        OSError: it cannot be written.
    """
    path = files.check_writable(path, SUFFIXES)
    settings = config(info, path, norm, freeze_at)
    content = pickle.dumps(convert(backbone, info), protocol=4)
    images = verify.sample_images()
    ours = verify.resnet_stages(backbone, images)[1:]

    def check(beside):
        return verify.verify(beside, "detectron2", ours, lambda file: read_features(file, info, images))

    found = files.write_bytes(path, content, check)
    files.write_bytes(path.with_name(f"{path.name}.yaml"), as_yaml(settings).encode())
    return found


def read_features(path, info, images, norm="BN"):
    """Build Detectron2's backbone, load a file with its own checkpointer, and show it images.

    Args:
        path: of ``save``. info: of ``load_backbone``. images: (n, C, H, W), normalized. norm: BN or FrozenBN.

    Returns:
        list of what STAGES put out.

    Raises:
        ImportError: Detectron2 is not installed.
    """
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone

    cfg = get_cfg()
    cfg.merge_from_list(flat(config(info, norm=norm)))
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=images.shape[1])).eval()
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.fill_(torch.nan if value.is_floating_point() else 0)  # what is not loaded shows
    DetectionCheckpointer(backbone, save_to_disk=False).load(str(path))
    with torch.no_grad():
        features = backbone(images)
    return [features[name] for name in STAGES]


def recipe(path):
    """Lines of Python that train a detector on what ``save`` wrote."""
    return [
        "from detectron2 import checkpoint, config, model_zoo, modeling",
        'cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")  # or another ResNet detector',
        f'cfg.merge_from_file("{path}.yaml"); model = modeling.build_model(cfg)',
        "checkpoint.DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)",
    ]
