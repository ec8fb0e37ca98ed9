"""Mask R-CNN: check of the loaded backbone, and loading of trained weights."""

import pickle
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from vicreg.common import checkpoint_io

EARLIER_CHECKPOINT = "model.pth"  # of earlier versions of this task


def check_backbone(model: torch.nn.Module, weights: str | Path) -> None:
    """Check that every tensor of a converted backbone is in the model.

    ``vicreg.exporters.detectron2.save`` has compared the features of the file with those of the source checkpoint.

    Raises:
        ValueError: A tensor is missing, left over or different.
    """
    given = pickle.loads(Path(weights).read_bytes())["model"]
    state = model.backbone.bottom_up.state_dict()
    wrong = given.keys() ^ state.keys()
    wrong |= {key for key in given.keys() & state.keys() if not np.array_equal(given[key], state[key].cpu().numpy())}
    wrong = sorted(key for key in wrong if not key.endswith("num_batches_tracked"))  # no weights
    if wrong:
        raise ValueError(f"{weights}: {len(wrong)} of {len(state)} tensors were not loaded: {', '.join(wrong[:3])}")


def find_checkpoint(path: str | Path) -> Path:
    """Return a checkpoint file: the path itself, or the last one of a run folder.

    Raises:
        FileNotFoundError: No such file, or a folder without a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        last = path / "last_checkpoint"  # of Detectron2's checkpointer
        path = path / (last.read_text().strip() if last.is_file() else EARLIER_CHECKPOINT)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    return path


def load_model(path: str | Path, cfg: CfgNode) -> tuple[torch.nn.Module, int]:
    """Build a model and load the weights of a checkpoint of train_crowdai.py.

    Returns:
        The model in eval mode, and the number of iterations that it was trained for.

    Raises:
        FileNotFoundError, ValueError: No such file, or it does not fit the configuration.
    """
    state = checkpoint_io.load(path)
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a checkpoint of train_crowdai.py")
    model = build_model(cfg)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the configuration of its run: {str(error).splitlines()[-1]}") from error
    return model.eval(), state["step"] if "step" in state else state.get("iteration", -1) + 1


def autocast_backbone(model: torch.nn.Module, training_only: bool = False) -> None:
    """Run the backbone under bfloat16 autocast from now on.

    The features are converted to float32: Detectron2 converts the boxes to the type of the features and pastes masks in
    that of the logits, and in bfloat16 a coordinate of 600 pixels is off by up to 2.
    """
    forward, device_type = model.backbone.forward, model.device.type

    def autocast_forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.autocast(device_type, torch.bfloat16, enabled=model.training or not training_only):
            features = forward(images)
        return {name: feature.float() for name, feature in features.items()}

    model.backbone.forward = autocast_forward
