"""A run of flood segmentation from its settings to its results."""

import functools
from typing import Any

import torch

from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs, RandomCrops, default_side
from downstream.FloodNet_segmentation_task.config import TASK, FloodConfig
from downstream.FloodNet_segmentation_task.floodnet import find_parts
from downstream.FloodNet_segmentation_task.metrics import evaluate_segmentation
from downstream.FloodNet_segmentation_task.model import SegmentationLoss, Segmenter, build_model, predictor
from downstream.FloodNet_segmentation_task.results import write_results
from downstream.FloodNet_segmentation_task.segmentation_folder import FOLDER, find_folder_parts
from vicreg.common.files import check_outside
from vicreg.common.logger import log
from vicreg.data.raster_bands import Bands, Levels, resolve_bands
from vicreg.engine.checkpoint import files_digest, samples_digest
from vicreg.engine.config import plan_run
from vicreg.engine.finetune import init_single_device
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder


def train(config: FloodConfig) -> None:
    """Train a segmentation network, or resume the run in ``config.exp_dir``, and write its results.

    Args:
        config: Settings of the run.

    Raises:
        ValueError: Settings, data and the run in the folder do not fit each other.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    check_outside(config.exp_dir, config.data_dir)
    device = init_single_device(config, TASK)
    folder = RunFolder(config, TASK, device)
    model, backbone_info = build_model(config, folder.checkpoint)
    bands, levels = (
        resolve_bands(config.bands, backbone_info.get("in_chans", 3)),
        config.levels or backbone_info.get("levels"),
    )
    data, side, digests = prepare_data(config, bands, levels)
    folder.check_data(digests)
    crops = RandomCrops(data["train"], side, config.repeats)  # augmented while loading
    run = start_run(config, folder, model, backbone_info, data, len(crops), side, digests, device)
    criterion = SegmentationLoss(len(config.classes.names), config.cross_entropy)
    for _, (images, labels) in run.steps(run.loader(crops)):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with run.autocast():
            logits = run.model(images)
        losses = criterion(logits, labels)
        run.backward(losses["loss"])
        run.log(losses)
    write_results(config, run, data, side, backbone_info)
    run.close()


def start_run(
    config: FloodConfig, folder: RunFolder, model: Segmenter, backbone_info: dict[str, Any],
    data: dict[str, CachedPairs], samples: int, side: int, digests: dict[str, str], device: torch.device,
) -> TrainingRun:  # fmt: skip
    """Build the optimizer, and start or resume the run; see ``train``."""
    plan = plan_run(config, samples, device, folder.batch_size, folder.bf16)
    task = {"name": TASK, "kind": config.task, "classes": list(config.classes.names), "decoder": config.decoder}
    task |= {"colors": config.classes.palette.tolist(), "bands": data["train"].bands}
    task |= {"side": side, "mean": model.mean, "std": model.std, "image_size": config.image_size}
    task |= {"scale": data["train"].scale, "levels": data["train"].levels} | digests
    validate = functools.partial(
        evaluate_segmentation,
        predictor(model, device, plan.bf16),
        data["val"],
        config.classes.names,
        side,
        config.overlap,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return TrainingRun(
        config, plan, folder, model, optimizer, device, describe=lambda step: {"backbone": backbone_info, "task": task},
        validate=validate, monitor="mean_iou", info={"source": f"{TASK}, {config.task}", "side": side},
    )  # fmt: skip


def prepare_data(
    config: FloodConfig, bands: Bands = None, levels: Levels = None
) -> tuple[dict[str, CachedPairs], int, dict[str, str]]:
    """Find the pairs of each part and reduce them.

    Args:
        config: Settings of the run.
        bands: See ``image_mask_io.read_pair``.
        levels: See ``image_mask_io.read_pair``.

    Returns:
        Images and masks of each part, the side of the crops in pixels, and digests of the split and its files.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Images or masks cannot be used, or are smaller than the crops.
    """
    if config.task == FOLDER:
        parts, description = find_folder_parts(config.data_dir, config.val_fraction, config.seed)
    else:
        parts, description = find_parts(config.data_dir, config.task, config.val_fraction, config.seed)
    log(description)
    options = (config.image_size, config.scale, config.workers)
    data = {
        part: CachedPairs(pairs, config.copies_dir, config.task, *options, part, levels, bands)
        for part, pairs in parts.items()
    }
    smallest = min(map(min, data["train"].sizes))
    if (config.crop or 32) > smallest:
        raise ValueError(
            f"the smallest image is {smallest} pixels at its working size, crops of {config.crop or 32} do not fit; "
            "lower --crop, or raise --image-size or --scale"
        )
    names = [[f"{pair.group}/{pair.image.name}" for pair in parts[part]] for part in ("train", "val")]
    paths = [path for part in ("train", "val") for pair in parts[part] for path in (pair.image, pair.mask)]
    digests = {"samples": samples_digest(*names), "files": files_digest(paths)}
    return data, config.crop or default_side(data["train"].sizes), digests
