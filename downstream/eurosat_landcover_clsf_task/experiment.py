"""A run on EuroSAT from its settings to its results."""

import time
from pathlib import Path
from typing import Any

import torch

from downstream.eurosat_landcover_clsf_task.config import TASK, EurosatConfig
from downstream.eurosat_landcover_clsf_task.dataset import load_split
from downstream.eurosat_landcover_clsf_task.finetuning import finetune
from downstream.eurosat_landcover_clsf_task.linear_probe import probe
from downstream.eurosat_landcover_clsf_task.results import write_results
from vicreg import distributed
from vicreg.common.files import check_outside
from vicreg.common.logger import log
from vicreg.common.random_streams import stream_seed
from vicreg.data.base import InputSpec
from vicreg.data.raster_bands import resolve_bands
from vicreg.engine.config import plan_run
from vicreg.engine.finetune import build_backbone, init_single_device
from vicreg.engine.run_folder import RunFolder
from vicreg.models.heads import Classifier, LinearHead
from vicreg.models.input_size import check_input_size


def train(config: EurosatConfig) -> None:
    """Train a classifier, or resume the run in ``config.exp_dir``, and write its results.

    Raises:
        ValueError: Settings, data and the run in the folder do not fit each other.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    started = time.perf_counter()
    check_outside(config.exp_dir, config.data_dir)
    device = init_single_device(config, TASK)
    folder = RunFolder(config, TASK, device) if Path(config.exp_dir).exists() else None  # else once the data is known
    backbone, info = build_backbone(config, folder.checkpoint if folder else {})
    bands = resolve_bands(config.bands, info["in_chans"])
    levels = config.levels or info.get("levels")
    split = load_split(config, info["in_chans"], bands, levels)
    folder = folder or RunFolder(config, TASK, device)
    folder.check_data(split.digests)
    if folder.checkpoint and folder.checkpoint["task"]["classes"] != split.train.classes:
        raise ValueError(f"{config.exp_dir} holds a run with other classes; choose another --exp-dir or its --data-dir")
    if info["mean"] is None:
        info["mean"], info["std"] = split.train.statistics()
    spec = InputSpec(config.image_size or split.train.patch_size, info["mean"], info["std"])
    check_input_size(backbone, info["in_chans"], spec.size, info["arch"])
    task = {"name": TASK, "classes": split.train.classes, "image_size": spec.size, "window": split.file_size}
    task |= {"patch_size": split.train.patch_size, "mean": info["mean"], "std": info["std"]}
    task |= {"bands": bands, "levels": levels, **split.digests}
    record = {"backbone": info, "task": task}
    torch.manual_seed(stream_seed(config.seed, "initialization"))
    model = Classifier(backbone, LinearHead(backbone.num_features, len(split.train.classes)), config.frozen)
    plan = plan_run(config, len(split.train), device, folder.batch_size, folder.bf16, spec.size)
    log(
        f"{len(split.train)} training and {len(split.val)} validation images, {len(split.train.classes)} classes, "
        f"{spec.size} px; {split.description}"
    )
    more: dict[str, Any] = {}
    if config.frozen:
        last, best, more = probe(config, plan, folder, model, split, spec, device, record)
    else:
        last, best = finetune(config, plan, folder, model, split, spec, device, record)
    more |= {"train_samples": len(split.train), "image_size": spec.size, "split": split.description}
    more |= {"seconds": round(time.perf_counter() - started, 1)}
    write_results(config, model, split, spec, plan.bf16, last, best, info, more)
    folder.close()
    distributed.destroy()
