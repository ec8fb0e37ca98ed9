"""Detectron2's settings for one run: its own FPN defaults, a file of ours, the command line, and what was loaded."""

from pathlib import Path

import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg

from vicreg.exporters import detectron2

CONFIG_FILE = "config.yaml"  # in a run's folder: everything, as the run used it


def read(config_file, changes=()):
    """Settings from a file over Detectron2's Base-RCNN-FPN, with changes on top.

    The base rate belongs to the batch size of the file: if only the batch is changed, the rate is scaled linearly.

    Args:
        config_file: yaml; may name a file that it changes with ``_BASE_``.
        changes: list KEY, VALUE, KEY, VALUE, …

    Returns:
        (settings, list of remarks in words).

    Raises:
        FileNotFoundError, ValueError: no such file, a setting that Detectron2 does not know, a value of another kind.
    """
    config_file = Path(config_file)
    if not config_file.is_file():
        raise FileNotFoundError(f"no settings at {config_file}; configs/train_config.yaml is the recipe")
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("Base-RCNN-FPN.yaml"), allow_unsafe=False)
    _merge(config_file, lambda: cfg.merge_from_file(str(config_file), allow_unsafe=False))
    own_batch = cfg.SOLVER.IMS_PER_BATCH
    changes = list(changes)
    if len(changes) % 2:
        raise ValueError(f"settings come in pairs KEY VALUE, got {' '.join(changes)}")
    _merge("command line", lambda: cfg.merge_from_list(changes))
    remarks = []
    if cfg.SOLVER.IMS_PER_BATCH != own_batch and "SOLVER.BASE_LR" not in changes:
        scaled = cfg.SOLVER.BASE_LR * cfg.SOLVER.IMS_PER_BATCH / own_batch
        remarks.append(
            f"rate {cfg.SOLVER.BASE_LR:g} x {cfg.SOLVER.IMS_PER_BATCH} / {own_batch} = {scaled:g}: scaled with the "
            "batch (say SOLVER.BASE_LR to choose another); the number of iterations is left as it is"
        )
        cfg.SOLVER.BASE_LR = scaled
    return cfg, remarks


def _merge(where, merge):
    try:
        merge()
    except (KeyError, ValueError, AssertionError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{where}: Detectron2 refuses a setting: {error}") from error


def fit(cfg, info, classes, device, processes):
    """Make settings agree with a backbone, the data, and where it all runs.

    Args:
        cfg: settings, changed in place. info: of ``load_backbone``. classes: how many.
        device: torch.device. processes: how many train together.

    Raises:
        ValueError: a backbone that Detectron2 does not build, a batch that the processes cannot share.
    """
    wanted = detectron2.config(info, norm=cfg.MODEL.RESNETS.NORM, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
    cfg.merge_from_list(detectron2.flat(wanted))
    cfg.MODEL.WEIGHTS = ""  # they are put in, and compared, by detector.take_backbone
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.MODEL.DEVICE = device.type
    if device.type == "cpu" or processes == 1:  # PyTorch's SyncBatchNorm wants GPUs, and others to talk to
        for part in (cfg.MODEL.RESNETS, cfg.MODEL.FPN):
            part.NORM = "BN" if part.NORM == "SyncBN" else part.NORM
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared equally by {processes} processes"
        )


def reread(folder, changes=()):
    """Settings as a run left them in its folder, with changes on top.

    Raises:
        FileNotFoundError: the folder has none. ValueError: as ``read``.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {folder}; it belongs to the checkpoints of train_crowdai.py")
    cfg = get_cfg()
    _merge(path, lambda: cfg.merge_from_file(str(path), allow_unsafe=False))
    _merge("command line", lambda: cfg.merge_from_list(list(changes)))
    return cfg
