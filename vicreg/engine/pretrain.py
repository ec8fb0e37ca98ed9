"""Self-supervised pretraining: the loop, for every data set and every loss."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from vicreg import distributed
from vicreg.augmentations import fusion, presets
from vicreg.augmentations.batch import augment_pair, normalize
from vicreg.common.checkpoint_io import BACKBONE_FILE
from vicreg.common.logger import VIEWS_FILE, log
from vicreg.common.plots import save_view_pairs
from vicreg.common.random_streams import stream_seed
from vicreg.data.base import InputSpec, LabeledDataset, PairDataset
from vicreg.engine.checkpoint import save_backbone
from vicreg.engine.config import RunPlan, plan_run
from vicreg.engine.grad_cache import cached_backward
from vicreg.engine.optim import average_weights, build_optimizer
from vicreg.engine.parallel import init_device
from vicreg.engine.pretrain_config import PretrainConfig
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder
from vicreg.eval import features, knn
from vicreg.eval.metrics import accuracy, check_collapse, effective_rank, embedding_std
from vicreg.models.backbones import check_channels, create_backbone, feature_dim, init_backbone
from vicreg.models.input_size import check_input_size
from vicreg.models.vicreg import VICReg

PROBE_TRAIN, PROBE_VAL = 10_000, 5_000  # samples of the kNN probe; enough to see a trend


def pretrain(
    config: PretrainConfig, dataset: PairDataset, probe_sets: tuple[LabeledDataset, LabeledDataset] | None, source: str
) -> None:
    """Pretrain a backbone, or resume the run in ``config.exp_dir``.

    Args:
        config: Settings of the run.
        dataset: Data set of image pairs.
        probe_sets: Labeled training and validation data set of the kNN probe, or None.
        source: Description of the run, kept in its checkpoints.

    Raises:
        ValueError: Settings do not fit each other, the data, or the run in the folder.
        FloatingPointError: The loss is not finite; the last good checkpoint is kept.
    """
    device = init_device(config)
    folder = RunFolder(config, "pretraining", device)
    folder.check_data(digests := dataset.digests())
    smallest = config.view_sizes(dataset.patch_size, 3)[0]
    plan = plan_run(config, len(dataset), device, folder.batch_size, folder.bf16, smallest)
    check_batch_size(config, plan)
    augment = PairAugmentation(config, plan, dataset, device)
    run = start_run(config, plan, folder, dataset, probe_sets, source, digests, device)
    criterion = config.criterion
    for step, (images1, images2) in run.steps(augment.batches(run)):
        if config.accumulate == 1:
            view1, view2 = augment(images1, images2, step)
            with run.autocast():
                z1, z2, representation = run.model(view1, view2)
            losses = criterion(z1, z2)
            run.backward(losses["loss"])
        else:
            make_views = functools.partial(augment, images1, images2, step)
            losses, z1, representation = cached_backward(run, make_views, criterion, config.accumulate)
        run.log(
            losses,
            embedding_std=embedding_std(z1.detach()),
            effective_rank=functools.partial(effective_rank_of_all, representation),
            image_size=functools.partial(augment.size, step),
        )
    run.close()


class PairAugmentation:
    """Batches of images, and their two normalized views on the device. The views of step 0 are also drawn to a file.

    Args:
        config: Names the augmentation preset and its changes.
        plan: Batch size and epochs.
        dataset: Data set of the images, which may crop them for the views while it decodes them.
        device: Device of this process.

    Raises:
        ValueError: The preset cannot be changed as asked for, or the data set has other channels.
    """

    def __init__(self, config: PretrainConfig, plan: RunPlan, dataset: PairDataset, device: torch.device) -> None:
        check_channels(config.in_chans, dataset, "--in-chans")
        fusion.compile_operations(config.compile and device.type == "cuda")
        self._views = presets.get_augmentation(config.augment, config.aug_override)
        self._sizes, self._steps_per_epoch = config.view_sizes(dataset.patch_size, plan.epochs), plan.steps_per_epoch
        self._augment = functools.partial(
            augment_pair, views=dataset.set_views(self._views, self._sizes[0]), batch_size=plan.batch_size,
            rank=distributed.rank(), seed=config.seed, device=device,
        )  # fmt: skip
        self._dataset, self._example = dataset, config.exp_dir / VIEWS_FILE

    def size(self, step: int) -> int:
        """Return the side of a step's views in pixels."""
        return self._sizes[step // self._steps_per_epoch]

    def batches(self, run: TrainingRun) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images of each step that is left; loading processes start anew where the size changes."""
        stop = 0
        for size, epochs in itertools.groupby(self._sizes):
            start, stop = stop, min(stop + len(list(epochs)) * self._steps_per_epoch, run.plan.steps)
            if run.start_step < stop:
                self._dataset.set_views(self._views, size)
                yield from run.loader(self._dataset, steps=range(start, stop))

    def __call__(
        self, images1: torch.Tensor, images2: torch.Tensor, step: int, micro_batch: int = 0, num_micro_batches: int = 1
    ) -> list[torch.Tensor]:
        """Return two batches (m, C, size, size); m = n for one micro-batch.

        Args:
            images1: uint8 (n, C, H, W), first images of this process's pairs.
            images2: uint8 (n, C, H, W), second images.
            step: Step, which seeds the random numbers.
            micro_batch: Index of the micro-batch.
            num_micro_batches: Number of micro-batches.
        """
        views = self._augment(
            images1, images2, size=self.size(step), step=step, micro_batch=micro_batch,
            num_micro_batches=num_micro_batches,
        )  # fmt: skip
        if step == micro_batch == 0 and distributed.is_main():
            save_view_pairs(self._example, *views)
        return [normalize(view, self._dataset.mean, self._dataset.std) for view in views]


def effective_rank_of_all(features: torch.Tensor) -> float:
    """Return the effective rank of the features of all processes, each of which has some rows. A collective call."""
    return effective_rank(distributed.all_gather_cat(features))


def check_batch_size(config: PretrainConfig, plan: RunPlan) -> None:
    """Raise ValueError unless the batch and each micro-batch hold two samples to compare."""
    if config.accumulate > 1 and plan.local_batch_size < 2 * config.accumulate:
        raise ValueError(
            f"--accumulate {config.accumulate} divides {plan.local_batch_size} samples per process too finely; each "
            "micro-batch needs 2"
        )
    if plan.batch_size < 2:
        raise ValueError(f"--batch-size {plan.batch_size}: the loss compares samples, at least 2 are needed")


def start_run(
    config: PretrainConfig,
    plan: RunPlan,
    folder: RunFolder,
    dataset: PairDataset,
    probe_sets: tuple[LabeledDataset, LabeledDataset] | None,
    source: str,
    digests: dict[str, str],
    device: torch.device,
) -> TrainingRun:
    """Build the model and its optimizer, and start or resume the run; see ``pretrain``."""
    bound = None
    if hasattr(config.criterion, "lower_bound"):
        bound = round(config.criterion.lower_bound(plan.batch_size, config.widths[-1]), 4)
    torch.manual_seed(stream_seed(config.seed, "initialization"))
    model = VICReg(create_backbone(config.arch, config.in_chans), config.widths)
    if config.init_from and not folder.checkpoint:
        log(init_backbone(model.backbone, config.init_from, config.arch, config.in_chans, config.weight_bands))
    if config.cache_on_device:
        dataset.to_device(device)
    sizes = sorted(set(config.view_sizes(dataset.patch_size, plan.epochs)))
    for size in sizes:
        check_input_size(model.backbone, config.in_chans, size, config.arch)
    spec = InputSpec(size, dataset.mean, dataset.std)
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model.expander)]
    summary = {
        "data": f"{plan.samples} samples, views {config.augment} {', '.join(map(str, sizes))} px",
        "model": f"{config.arch} {millions[0]:.1f} M parameters, expander {config.mlp} {millions[1]:.1f} M",
        "loss": config.loss + (f" in {config.accumulate} micro-batches" if config.accumulate > 1 else ""),
    }
    if bound is not None:
        summary["bound"] = f"the loss cannot fall below {bound:.2f} with this batch size and expander"

    def describe(step: int) -> dict[str, Any]:
        info = {"arch": config.arch, "in_chans": config.in_chans, "mean": dataset.mean, "std": dataset.std}
        info["source"] = f"{source}, {config.augment} views, step {step} of {plan.steps}"
        info["levels"] = dataset.levels and list(dataset.levels)
        return {"backbone": info, "data": digests}

    optimizer, backbone = build_optimizer(config.optimizer, model, config.weight_decay), model.backbone
    if config.ema_decay:
        if folder.checkpoint and not any(".backbone_ema." in key for key in folder.checkpoint["model"]):
            raise ValueError(f"{config.exp_dir} holds a run without --ema-decay; choose another --exp-dir")
        average = model.backbone_ema = average_weights(model.backbone, optimizer, config.ema_decay)
        backbone = average.module
    run = TrainingRun(
        config, plan, folder, model, optimizer, device,
        describe=describe, summary=summary, info={"source": source, "image_size": size, "loss_lower_bound": bound},
        validate=functools.partial(knn_probe, backbone, probe_sets, spec, device) if probe_sets else None,
        validate_every=config.probe_every,
        on_line=CollapseWarning(plan.warmup_steps, plan.batch_size, feature_dim(model.backbone)),
        constants={} if bound is None else {"loss_lower_bound": bound}, unit="pairs",
    )  # fmt: skip
    run.outputs[BACKBONE_FILE] = lambda path: save_backbone(path, backbone, **describe(plan.steps)["backbone"])
    return run


class CollapseWarning:
    """Print a warning once, at the first log line after the warm-up that shows a collapse.

    Args:
        warmup_steps: Steps to ignore.
        samples: Rows of the matrix that the effective rank is of.
        dim: Its columns.
    """

    def __init__(self, warmup_steps: int, samples: int, dim: int) -> None:
        self._warmup_steps, self._samples, self._dim, self._warned = warmup_steps, samples, dim, False

    def __call__(self, line: dict[str, Any]) -> None:
        """Check a log line with ``embedding_std`` and ``effective_rank``."""
        if self._warned or line["step"] <= self._warmup_steps:
            return
        warning = check_collapse(line["embedding_std"], line["effective_rank"], self._samples, self._dim)
        if warning:
            log(warning)
            self._warned = True


def knn_probe(
    backbone: torch.nn.Module, probe_sets: tuple[LabeledDataset, LabeledDataset], spec: InputSpec, device: torch.device
) -> dict[str, float]:
    """Return the top-1 accuracy of weighted kNN-20 on evenly spaced samples of two labeled data sets.

    Args:
        backbone: Module (n, C, size, size) -> (n, F).
        probe_sets: Labeled training and validation data set.
        spec: Size and normalization of the backbone's input.
        device: Device of this process.
    """
    distributed.broadcast_buffers(backbone)
    parts = []
    for labeled, max_samples in zip(probe_sets, (PROBE_TRAIN, PROBE_VAL), strict=True):
        indices = torch.linspace(0, len(labeled) - 1, min(max_samples, len(labeled))).round().long()
        extracted = features.extract_features(backbone, labeled, spec, device, indices.tolist())
        parts.append((extracted, labeled.labels[indices].to(device)))
    (train, train_labels), (val, val_labels) = parts
    ranked = knn.knn_predict(train, train_labels, val, len(probe_sets[0].classes), 20)
    return {"knn20_top1": round(accuracy(ranked, val_labels, (1,))["top1"], 4)}
