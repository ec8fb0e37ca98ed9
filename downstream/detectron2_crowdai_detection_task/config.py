"""Detectron2 configuration of a run: Base-RCNN-FPN, the backbone, a YAML file and the command line, in this order."""

from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from vicreg.exporters import detectron2

CONFIG_FILE = "config.yaml"  # in a run folder, written by detectron2.engine.default_setup
TASK = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.KEYPOINT_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
}
ADJUSTABLE = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.NORM", "MODEL.BACKBONE.FREEZE_AT")


def build_config(
    config_file: str | Path, opts: list[str], backbone: dict[str, Any], fixed: dict[str, Any], device: str
) -> CfgNode:
    """Build the configuration of a training run.

    The learning rate of the file belongs to its batch size: a change of the batch size alone scales it linearly.

    Args:
        config_file: YAML file; ``_BASE_`` names a file that it extends.
        opts: ``[KEY, VALUE, KEY, VALUE, …]`` of the command line.
        backbone: Second value of ``load_backbone``; sets depth, pixel mean and std, and RGB input.
        fixed: Settings that options of the script or the data determine; they may not be changed.
        device: Default of MODEL.DEVICE.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A setting is unknown to Detectron2, has a wrong type, or contradicts the backbone or ``fixed``.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"no configuration at {config_file}; configs/train_config.yaml is the recipe")
    defaults = TASK | detectron2.config(backbone) | fixed
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("Base-RCNN-FPN.yaml"), allow_unsafe=False)
    cfg.merge_from_list(detectron2.flat(defaults | {"MODEL.DEVICE": device}))
    _merge(config_file, lambda: cfg.merge_from_file(str(config_file), allow_unsafe=False))
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    _merge_opts(cfg, opts, {key: value for key, value in defaults.items() if key not in ADJUSTABLE})
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("SOLVER.AMP.ENABLED needs a GPU; use --precision bf16 on a CPU")
    if "SOLVER.BASE_LR" not in opts:
        cfg.SOLVER.BASE_LR *= cfg.SOLVER.IMS_PER_BATCH / batch_size
    return cfg


def load_config(folder: str | Path, opts: list[str], fixed: dict[str, Any], device: str) -> CfgNode:
    """Load the configuration of an existing run, changed by ``opts``; arguments and errors as ``build_config``."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {folder}; it is written by train_crowdai.py")
    cfg = get_cfg()
    _merge(path, lambda: cfg.merge_from_file(str(path), allow_unsafe=False))
    cfg.merge_from_list(detectron2.flat(fixed | {"MODEL.WEIGHTS": "", "MODEL.DEVICE": device}))
    _merge_opts(cfg, opts, fixed)
    return cfg


def check_same_model(folder: Path, cfg: CfgNode) -> None:
    """Raise ValueError if the model of a run folder is not the one of ``cfg``: Detectron2 would load a part of it."""
    saved = load_config(folder, [], {}, cfg.MODEL.DEVICE)
    saved, current = (
        yaml.safe_load(one.dump())["MODEL"] for one in (saved, cfg)
    )  # tuples and lists are the same there
    for key, value in current.items():
        if key not in ("WEIGHTS", "DEVICE") and saved[key] != value:
            raise ValueError(f"{folder} holds a run with another MODEL.{key}; choose another --exp-dir")


def _merge_opts(cfg, opts, fixed):
    if len(opts) % 2:
        raise ValueError(f"settings come in pairs KEY VALUE, got {' '.join(opts)}")
    _merge("command line", lambda: cfg.merge_from_list(opts))
    for key, value in fixed.items():
        if (given := reduce(getattr, key.split("."), cfg)) != value:
            raise ValueError(
                f"{key} is {given} in the configuration or on the command line, but {value} according to the backbone, "
                "the data and the options of this script; remove it there"
            )


def _merge(source, merge):
    try:
        merge()
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{source}: Detectron2 refuses a setting: {error}") from error
