"""Pretraining with VICReg: the loop, once, for every data set."""

import functools
import sys
import time

import torch

from vicreg import distributed
from vicreg.augmentations import batch, presets
from vicreg.augmentations.batch import augment_pair, seed_step
from vicreg.common.logger import MetricLogger, format_eta, log
from vicreg.common.plots import save_view_pairs
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.engine.checkpoint import read_checkpoint
from vicreg.engine.config import log_config, plan_run
from vicreg.engine.grad_cache import backward
from vicreg.engine.optim import cosine_lr
from vicreg.engine.run import PreemptionGuard, build, open_run, save_checkpoint, wrap_ddp, write_preempted_marker
from vicreg.eval import features, knn, metrics
from vicreg.eval.metrics import check_collapse
from vicreg.losses.vicreg import vicreg_loss

PROBE_TRAIN, PROBE_VAL = 10_000, 5_000  # samples of the kNN probe; enough to see a trend
TIMED_STEPS = 20  # after which the run says when it expects to end


def pretrain(args, dataset, probe_sets=None, source="vicreg"):
    """Train a backbone with VICReg, or go on where the run in ``args.exp_dir`` was cut off.

    Args:
        args: of ``get_parser``.
        dataset: ``len``, ``__getitems__([(index, draw), …])`` -> two uint8 tensors (n, C, H, W), ``mean``, ``std``,
            ``patch_size``.
        probe_sets: labeled (train, val) data sets of the kNN probe, or None. source: goes into the checkpoint.

    Raises:
        ValueError: arguments that do not fit each other, the data, or the folder's earlier run.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    device, lock = open_run(args)
    earlier = read_checkpoint(args, device)
    plan = plan_run(args, dataset, device, source, earlier.get("batch_size"))
    model, optimizer, begin = build(args, plan, device, earlier)
    del earlier
    if distributed.is_main():
        log_config(args, plan, model, begin)
    parallel = wrap_ddp(model, device)
    autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=plan["bf16"])
    coefficients = {name: getattr(args, name) for name in ("sim_coeff", "std_coeff", "cov_coeff")}
    criterion = functools.partial(vicreg_loss, **coefficients)
    views = dataset.set_views(presets.get_augmentation(args.augment, args.augment_set), plan["image_size"])
    watch = PreemptionGuard(device, folder=args.exp_dir)
    share = (distributed.rank(), distributed.world_size())
    batches = ResumableBatchSampler(len(dataset), plan["batch_size"], args.seed, plan["steps"], begin, *share)
    if args.store == "device":
        dataset.to_device(device)
    loader = iter(build_loader(dataset, batches, 0 if args.store == "device" else args.workers, device))
    keep = functools.partial(save_checkpoint, args, plan, model, optimizer, dataset)
    metric_logger, alarmed = MetricLogger(args.exp_dir, begin, plan["steps"]), False

    for step in range(begin, plan["steps"]):
        interrupted = watch.check()  # what the step before showed
        if interrupted:
            keep(step)
            log(f"{interrupted.name}: saved at step {step}; the same command goes on from here")
            sys.exit(write_preempted_marker(args.exp_dir, interrupted, step))
        tick = time.perf_counter()
        first, second = next(loader)
        waited = time.perf_counter() - tick
        make = functools.partial(
            augment_pair, first, second, views, plan["image_size"], batch_size=plan["batch_size"],
            rank=distributed.rank(), seed=args.seed, step=step, device=device,
        )  # fmt: skip
        if step == 0 and distributed.is_main():
            save_view_pairs(args.exp_dir / "views.png", *make())

        rate = cosine_lr(step, plan["steps"], plan["warmup_steps"], plan["peak_lr"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses, z1, representation = backward(
            parallel,
            functools.partial(_normalized, make, dataset), criterion, args.accumulate, autocast,
            functools.partial(seed_step, args.seed, step),
        )  # fmt: skip
        watch.put(step, losses["loss"])
        optimizer.step()

        done, epoch = step + 1, step // plan["steps_per_epoch"]
        epoch_ends, last = done % plan["steps_per_epoch"] == 0, done == plan["steps"]
        metric_logger.add({**losses, "embedding_std": z1.float().std(0).mean()}, waited)
        if done == begin + TIMED_STEPS < plan["steps"]:
            log(f"{format_eta(metric_logger.seconds_per_step * (plan['steps'] - done))} to go at this pace")
        if distributed.is_main() and (epoch_ends or last or metric_logger.seconds >= args.log_freq_time):
            line = {"epoch": epoch, "step": done, "lr": rate, **metric_logger.averages(plan["batch_size"])}
            line["effective_rank"] = metrics.effective_rank(representation)
            metric_logger.write({**line, "loss_lower_bound": plan["loss_lower_bound"]})
            warning = check_collapse(line["embedding_std"], line["effective_rank"], *representation.shape)
            if warning and not alarmed and done > plan["warmup_steps"]:
                log(warning)
                alarmed = True
        if last or done % plan["checkpoint_every"] == 0:
            watch.check()  # never keep weights of a loss that is not finite
            keep(done)
        probe_due = last or (epoch_ends and (epoch + 1) % max(1, args.probe_every) == 0)
        if probe_sets and args.probe_every and probe_due:
            metric_logger.write(
                {"epoch": epoch, "step": done, **knn_probe(model.backbone, probe_sets, dataset, plan, device)}
            )
        if epoch_ends:
            metric_logger.restart_clock()
    watch.close()
    metric_logger.close()
    if lock:
        lock.close()
    distributed.destroy()


def _normalized(make, dataset, part, parts):
    views = make(micro_batch=part, num_micro_batches=parts)
    return [batch.normalize(view, dataset.mean, dataset.std) for view in views]


def knn_probe(backbone, probe_sets, dataset, plan, device, k=20):
    """Top-1 of weighted kNN on evenly spaced samples of the labeled sets: how good the features are by now."""
    distributed.broadcast_buffers(backbone)
    parts = []
    for labeled, most in zip(probe_sets, (PROBE_TRAIN, PROBE_VAL), strict=True):
        indices = torch.linspace(0, len(labeled) - 1, min(most, len(labeled))).round().long()
        view = plan["image_size"], dataset.mean, dataset.std
        found = features.extract_features(backbone, labeled, *view, device, indices.tolist())
        parts.append((found, labeled.labels[indices].to(device)))
    (train, train_labels), (val, val_labels) = parts
    ranked = knn.knn_predict(train, train_labels, val, len(probe_sets[0].classes), k)
    return {f"knn{k}_top1": round(metrics.accuracy(ranked, val_labels, (1,))["top1"], 4)}
