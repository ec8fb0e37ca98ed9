"""Mask R-CNN: built from settings, given a backbone's weights, and read back from a run's folder."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

from downstream.detectron2_crowdai_detection_task import config
from vicreg.common import checkpoint_io
from vicreg.exporters import detectron2, verify


def build(cfg, seed=0):
    """A new model in CPU memory, with weights that the seed settles."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(seed)
    return build_model(cfg)


def take_backbone(model, backbone, info):
    """Put a backbone's weights into a model, and make sure that it now sees what the backbone sees.

    Args:
        model: of ``build``, in CPU memory. backbone, info: of ``load_backbone``.

    Returns:
        what was matched, in words.

    Raises:
        ValueError: weights are missing, left over or of another shape, or the features of a stage differ.
    """
    bottom_up = model.backbone.bottom_up
    given = detectron2.convert(backbone, info)["model"]
    given = {key: torch.from_numpy(value) for key, value in given.items() if not key.endswith("num_batches_tracked")}
    own = {key: value for key, value in bottom_up.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing, unused = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    wrong = [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
    if missing or unused or wrong:
        raise ValueError(
            f"{info['source']} does not fit Detectron2's backbone: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unused)} unused {unused[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    bottom_up.load_state_dict(given, strict=False)  # the counters of BatchNorm are no weights
    images = verify.sample_images()
    with verify.evaluating(bottom_up):
        theirs = list(bottom_up(images).values())
    difference = verify.largest_difference(verify.resnet_stages(backbone, images)[-len(theirs) :], theirs)
    if not difference <= verify.BOUND:
        raise ValueError(
            f"{info['source']}: Detectron2's backbone finds other features (largest difference {difference:.2g}, "
            f"{verify.BOUND:g} allowed); Detectron2 may have been changed"
        )
    return (
        f"Detectron2's backbone: {len(given)} of {len(own)} tensors matched, 0 missing, 0 unused; features of its "
        f"{len(theirs)} stages equal to {difference:.0e}"
    )


def load(path, device, changes=()):
    """A trained model from its checkpoint and the settings beside it.

    Args:
        path: ``model.pth`` of train_crowdai.py, or its folder. device: torch.device.
        changes: list KEY, VALUE, … of settings.

    Returns:
        (model in eval mode, settings, the checkpoint's dict without weights).

    Raises:
        FileNotFoundError, ValueError: no such file, or not one of train_crowdai.py.
    """
    path = Path(path)
    path = path / checkpoint_io.MODEL_FILE if path.is_dir() else path
    state = checkpoint_io.load(path)
    if not isinstance(state, dict) or not {"model", "step", "categories"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of train_crowdai.py")
    cfg = config.reread(path.parent, changes)
    cfg.MODEL.DEVICE = device.type
    model = build(cfg)
    try:
        model.load_state_dict(state.pop("model"))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the {config.CONFIG_FILE} beside it: {error}") from error
    state.pop("optimizer", None)
    return model.to(device).eval(), cfg, state
