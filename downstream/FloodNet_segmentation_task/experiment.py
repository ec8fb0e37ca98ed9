"""A run of flood segmentation from its settings to its results."""

from pathlib import Path

import torch

from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs, RandomCrops, default_side
from downstream.FloodNet_segmentation_task.config import TASK, FloodConfig
from downstream.FloodNet_segmentation_task.floodnet import find_parts
from downstream.FloodNet_segmentation_task.metrics import evaluate_segmentation
from downstream.FloodNet_segmentation_task.model import SegmentationLoss, build_model, predictor
from downstream.FloodNet_segmentation_task.results import write_results
from downstream.FloodNet_segmentation_task.segmentation_folder import FOLDER, find_folder_parts
from vicreg.common.devices import send
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

    Raises:
        ValueError: Settings, data and the run in the folder do not fit each other.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    check_outside(config.exp_dir, config.data_dir)
    device = init_single_device(config, TASK)
    folder = RunFolder(config, TASK, device)
    model, backbone_info = build_model(config, folder.checkpoint)
    bands = resolve_bands(config.bands, backbone_info.get("in_chans", 3))
    levels = config.levels or backbone_info.get("levels")
    data, side, digests = prepare_data(config, bands, levels)
    folder.check_data(digests)
    crops = RandomCrops(data["train"], side, config.repeats)  # augmented while loading
    plan = plan_run(config, len(crops), device, folder.batch_size, folder.bf16)
    classes = config.classes
    task = {"name": TASK, "kind": config.task, "classes": list(classes.names), "colors": classes.palette.tolist()}
    task |= {"decoder": config.decoder, "side": side, "image_size": config.image_size, "scale": data["train"].scale}
    task |= {"mean": model.mean, "std": model.std, "bands": bands, "levels": levels, **digests}
    predict = predictor(model, device, plan.bf16)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    run = TrainingRun(
        config, plan, folder, model, optimizer, device, describe=lambda step: {"backbone": backbone_info, "task": task},
        validate=lambda: evaluate_segmentation(predict, data["val"], classes.names, side, config.overlap),
        monitor="mean_iou", info={"source": f"{TASK}, {config.task}", "side": side},
    )  # fmt: skip
    criterion = SegmentationLoss(len(classes.names), config.cross_entropy)
    for _, (images, labels) in run.steps(run.loader(crops)):
        images, labels = send(images, device), send(labels, device)
        with run.autocast():
            logits = run.model(images)
        losses = criterion(logits, labels)
        run.backward(losses["loss"])
        run.log(losses)
    write_results(config, run, data, predict, side, backbone_info)
    run.close()


def prepare_data(
    config: FloodConfig, bands: Bands, levels: Levels
) -> tuple[dict[str, CachedPairs], int, dict[str, str]]:
    """Find the pairs of each part and reduce them.

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
    cache_dir = config.cache_dir or Path(config.exp_dir) / "working_copies"
    size = (config.image_size, config.scale)
    data = {
        part: CachedPairs(pairs, cache_dir, config.task, *size, config.workers, part, levels, bands)
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
