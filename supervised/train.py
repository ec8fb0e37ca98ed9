"""Supervised training: cross-entropy on the labels, with the data path, record and files of pretraining."""

import argparse
import functools
import sys
import time

import torch
from torch.nn.functional import cross_entropy

from vicreg import distributed
from vicreg.augmentations import batch, presets
from vicreg.augmentations.batch import augment_batch, seed_step
from vicreg.common.cli import check_positive, to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import MetricLogger, log
from vicreg.common.plots import plot_confusion_matrix
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.data.subsets import LabeledSubset, check_percent, stratified_subset
from vicreg.engine.checkpoint import read_checkpoint
from vicreg.engine.config import add_run_arguments, count_steps, local_batch_size, log_progress, use_bf16
from vicreg.engine.optim import build_optimizer, cosine_lr
from vicreg.engine.run import PreemptionGuard, open_run, restore, save_checkpoint, wrap_ddp, write_preempted_marker
from vicreg.eval.classification import evaluate_classifier
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import Classifier, LinearHeads


def get_parser(description):
    """Arguments of supervised training; scripts add those of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser, "weights, subset, order and augmentation")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet18", help="backbone, any timm name")
    model.add_argument("--init-from", help="weights to begin with: a file that --pretrained takes, or imagenet")
    parser.set_defaults(in_chans=3)
    loss = parser.add_argument_group("loss")
    loss.add_argument("--label-smoothing", type=float, default=0.0, help="share of the target spread over all classes")
    loss.add_argument(
        "--class-weights", choices=["none", "sqrt", "inverse"], default="none",
        help="weight of a class by its number of samples n: the same, 1 / sqrt(n), or 1 / n (all classes count alike)",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--train-percent", type=int, default=100, help="share of the labels of each class, 1 to 100")
    data.add_argument("--augment", default="crop", choices=list(presets.PRESETS), help="its first view is taken")
    data.add_argument(
        "--augment-set", nargs="+", default=[], metavar="NUMBER=VALUE",
        help="change numbers of the view: scale=0.3,1 vertical_flip=0.5",
    )  # fmt: skip
    data.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    data.add_argument("--workers", type=int, default=2, help="loading processes for each training process")
    data.add_argument("--store", choices=["disk", "device"], default="disk", help="device: all patches in its memory")
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--epochs", type=int, default=100, help="passes over the data")
    optim.add_argument("--batch-size", type=int, default=64, help="samples of all processes together")
    optim.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd", help="neither decays biases and norms")
    optim.add_argument("--lr", type=float, default=0.01, help="peak rate, as it is: it does not scale with the batch")
    optim.add_argument("--momentum", type=float, default=0.9, help="of sgd")
    optim.add_argument("--wd", type=float, default=1e-4, help="weight decay")
    optim.add_argument("--warmup-epochs", type=float, default=0.0, help="epochs over which the rate rises from 0")
    optim.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine", help="after the warm-up")
    optim.add_argument("--milestones", type=int, nargs="+", default=[], help="epochs at which --schedule step falls")
    optim.add_argument("--gamma", type=float, default=0.1, help="factor of each fall")
    optim.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    optim.add_argument("--compile", action="store_true", help="torch.compile the network")
    distributed.add_arguments(parser)
    return parser


def train(args, dataset, val, split=None, source="supervised"):
    """Train a classifier on labels, or go on where the run in ``args.exp_dir`` was cut off.

    Args:
        args: of ``get_parser``.
        dataset, val: to train and to judge on: ``images(indices)``, ``labels``, ``classes``, ``mean``, ``std``,
            ``patch_size``.
        split: record of the split in ``meta.json``, or None. source: goes into the checkpoint.

    Writes ``result.json`` (accuracies, recall and confusion of the last and the best epoch) and ``confusion.png`` (of
    the last) beside the files that pretraining writes; ``trained_model.pth`` is the last step's.

    Raises:
        ValueError: arguments that do not fit each other, the data, or the folder's earlier run.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    device, lock = open_run(args)
    share_classes(dataset, val)
    view = one_view(args.augment, args.augment_set)
    check_percent(args.train_percent)
    earlier = earlier_run(args, dataset.classes, device)
    chosen = stratified_subset(dataset.labels, args.train_percent / 100, args.seed)
    plan = plan_training(args, len(chosen), dataset.patch_size, device, source, earlier.get("batch_size"))
    model, optimizer, begin = build(args, len(dataset.classes), device, earlier)
    best = earlier.get("best")
    del earlier
    announce(args, plan, model, len(val), len(dataset.classes), split, begin)
    parallel = wrap_ddp(model.train(), device)
    weights = class_weights(args.class_weights, dataset.labels[chosen], len(dataset.classes)).to(device)
    look = {"size": plan["image_size"], "mean": dataset.mean, "std": dataset.std, "device": device}
    samples = LabeledSubset(dataset, chosen, view, plan["image_size"])
    watch = PreemptionGuard(device, "--lr", args.exp_dir)
    batches = ResumableBatchSampler(
        len(samples), plan["batch_size"], args.seed, plan["steps"], begin, distributed.rank(), distributed.world_size()
    )
    if args.store == "device":
        dataset.to_device(device)
    loader = iter(build_loader(samples, batches, 0 if args.store == "device" else args.workers, device))
    keep = functools.partial(save_checkpoint, args, plan, model, optimizer, dataset, classes=list(dataset.classes))
    metric_logger = MetricLogger(args.exp_dir, begin, plan["steps"])

    for step in range(begin, plan["steps"]):
        interrupted = watch.check()  # what the step before showed
        if interrupted:
            keep(step, best=best)
            log(f"{interrupted.name}: saved at step {step}; the same command goes on from here")
            sys.exit(write_preempted_marker(args.exp_dir, interrupted, step))
        tick = time.perf_counter()
        images, labels = next(loader)
        waited = time.perf_counter() - tick
        images = augment_batch(
            images, samples.view, plan["image_size"], batch_size=plan["batch_size"], rank=distributed.rank(),
            seed=args.seed, step=step, device=device,
        )  # fmt: skip
        labels = labels.to(device, non_blocking=True)

        rate = rate_at(step, plan)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        seed_step(args.seed, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan["bf16"]):
            logits = parallel(batch.normalize(images, dataset.mean, dataset.std))[:, 0]
        loss = weighted_loss(logits, labels, weights, args.label_smoothing)
        loss.backward()
        seen = torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
        seen = distributed.all_reduce(seen) / distributed.world_size()  # of the whole batch
        watch.put(step, seen[0])
        optimizer.step()

        done, epoch = step + 1, step // plan["steps_per_epoch"]
        ends = done % plan["steps_per_epoch"] == 0 or done == plan["steps"]
        metric_logger.add({"loss": seen[0], "train_top1": seen[1]}, waited)
        if ends or metric_logger.seconds >= args.log_freq_time:
            line = {"epoch": epoch, "step": done, "lr": rate, **metric_logger.averages(plan["batch_size"], "images")}
            if ends:
                watch.check()  # a network that is no number has nothing to be judged
                last = {"epoch": epoch, "step": done, **evaluate_classifier(model, val, look)}
                best = last if best is None or last["top1"] > best["top1"] else best
                line |= {name: last[name] for name in ("top1", "top5", "balanced_accuracy")}
            metric_logger.write(line)
            metric_logger.restart_clock()
        if done == plan["steps"] or done % plan["checkpoint_every"] == 0:
            watch.check()  # never keep weights of a loss that is not finite
            if done == plan["steps"] and distributed.is_main():
                conclude(args, plan, last, best, dataset, val, split)
            keep(done, best=best)
    watch.close()
    metric_logger.close()
    if lock:
        lock.close()
    distributed.destroy()


def share_classes(dataset, val):
    """Give both parts the same classes: lists without names know of no class beyond their own largest label.

    Raises:
        ValueError: the names do not agree.
    """
    most = max(dataset.classes, val.classes, key=len)
    for part in (dataset, val):
        if list(part.classes) != list(most[: len(part.classes)]):
            raise ValueError("the training and the validation list name different classes; make both in one go")
        part.classes = list(most)


def earlier_run(args, classes, device):
    """The run that is to go on in the folder, see ``read_checkpoint``; it must know the same classes."""
    earlier = read_checkpoint(args, device, "supervised", "label_smoothing", WEIGHTS, PATH)
    if earlier and earlier["classes"] != list(classes):
        raise ValueError(f"{args.exp_dir} holds a run with other classes; choose another --exp-dir or its --csv-dir")
    return earlier


def build(args, classes, device, earlier):
    """Classifier and optimizer, fresh or as the run's checkpoint has them, and the step to begin with."""
    torch.manual_seed(args.seed)
    backbone = create_backbone(args.arch, args.in_chans)
    model = Classifier(backbone, LinearHeads(1, backbone.num_features, classes), frozen=False)
    return restore(
        model, args, device, earlier, lambda placed: build_optimizer(args.optimizer, placed, args.wd, args.momentum)
    )


def conclude(args, plan, last, best, dataset, val, split):
    """Write ``result.json`` and ``confusion.png``, and say what came out. For the main process."""
    result = {**{name: last[name] for name in ("top1", "top5", "balanced_accuracy")}}
    result |= {f"best_{name}": best[name] for name in ("top1", "top5", "balanced_accuracy", "epoch")}
    result |= {"arch": args.arch, "source": plan["source"], "protocol": "supervised", "split": split}
    result |= {"train_samples": plan["samples"], "val_samples": len(val), "image_size": plan["image_size"]}
    result |= {
        "overlap": overlap(dataset, val),
        "classes": list(dataset.classes),
        "last": last,
        "best": best,
        "args": to_serializable(vars(args)),
    }
    write_json(args.exp_dir / "result.json", result)
    plot_confusion_matrix(args.exp_dir / "confusion.png", last["confusion"], dataset.classes)
    log(format_overlap(result["overlap"]))
    log(
        f"top-1 {last['top1']:.4f}  top-5 {last['top5']:.4f}  balanced {last['balanced_accuracy']:.4f}  (best top-1 "
        f"{best['top1']:.4f} in epoch {best['epoch']}, split {split['rule'] if split else 'unknown'}); "
        f"{args.exp_dir / 'result.json'}"
    )


# As for pretraining: what a folder's run cannot change, and what only bends its path.
WEIGHTS = ("arch", "in_chans", "optimizer")
PATH = (
    ("batch_size", "epochs", "max_steps", "lr", "wd", "momentum", "seed", "precision", "init_from", "train_percent")
    + ("augment", "augment_set", "image_size", "label_smoothing", "class_weights")
    + ("schedule", "milestones", "gamma", "warmup_epochs")
)


def plan_training(args, samples, patch_size, device, source, earlier_batch=None):
    """Work out batch, steps and rate.

    Args:
        args: of ``supervised.train.get_parser``. samples: to train on. patch_size: side in pixels.
        device: of this process. source: what is trained on what, for the checkpoint.
        earlier_batch: effective batch of the run that is to go on, perhaps with other processes.

    Returns:
        dict: ``batch_size`` (effective), ``share`` (per process), ``steps_per_epoch, steps, warmup_steps, peak_lr,
        schedule, drops`` (steps at which the rate falls), ``gamma, image_size, bf16, checkpoint_every, source``, ….

    Raises:
        ValueError: numbers that cannot work, with the flag to change.
    """
    check_positive(args, "batch_size", "epochs", "lr", "max_steps", "checkpoint_every", "image_size", "gamma")
    if not 0 <= args.label_smoothing < 1:
        raise ValueError(f"--label-smoothing {args.label_smoothing}: 0 or more and below 1 is needed")
    if not 0 <= args.momentum < 1:
        raise ValueError(f"--momentum {args.momentum}: 0 or more and below 1 is needed")
    if args.wd < 0 or not 0 <= args.warmup_epochs < args.epochs:
        raise ValueError("--wd must be 0 or more, --warmup-epochs 0 or more and fewer than --epochs")
    if bool(args.milestones) != (args.schedule == "step"):
        raise ValueError(
            "--schedule step needs --milestones, such as --milestones 60 80, and no other schedule takes any"
        )
    processes = distributed.world_size()
    share = local_batch_size(args, processes, earlier_batch)
    per_epoch, steps = count_steps(samples, share * processes, args.epochs, args.max_steps)
    return {
        "source": source,
        "samples": samples,
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch_size": share * processes,
        "share": share,
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "warmup_steps": min(round(args.warmup_epochs * per_epoch), steps),
        "peak_lr": args.lr,
        "schedule": args.schedule,
        "drops": sorted(epoch * per_epoch for epoch in args.milestones),
        "gamma": args.gamma,
        "image_size": args.image_size or max(1, round(patch_size * 7 / 8)),
        "bf16": use_bf16(args.precision, device),
        "checkpoint_every": args.checkpoint_every or per_epoch,
    }


def announce(args, plan, model, validation, classes, split, begin):
    """Print the plan and keep it, with the arguments, in ``args.json``: the main process does.

    Args:
        validation, classes: how many. split: the rule's record in ``meta.json``, or None. begin: first step.
    """
    if not distributed.is_main():
        return
    write_json(args.exp_dir / "args.json", {"args": to_serializable(vars(args)), "plan": plan})
    rounded = "" if plan["batch_size"] == args.batch_size else f" (of {args.batch_size} asked for)"
    drops = f" x {plan['gamma']:g} at epochs {' '.join(map(str, args.milestones))}" if plan["drops"] else ""
    millions = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    said = f"{split['rule']}, {split['description']}" if split else "no meta.json says how it was made"
    log(
        f"{plan['source']} -> {args.exp_dir}\n"
        f"  data    {plan['samples']} samples ({args.train_percent} % of each class), {validation} to validate, "
        f"{classes} classes, view {args.augment} {plan['image_size']} px\n"
        f"  split   {said}\n"
        f"  model   {args.arch} {millions:.1f} M parameters\n"
        f"  loss    cross-entropy, label smoothing {args.label_smoothing:g}, class weights {args.class_weights}\n"
        f"  batch   {plan['batch_size']}{rounded} = {plan['share']} x {plan['processes']} process(es), "
        f"{plan['device']}, {'bf16 autocast' if plan['bf16'] else 'fp32'}\n"
        f"  steps   {plan['steps']} ({plan['steps_per_epoch']} an epoch), warm-up {plan['warmup_steps']}, "
        f"{args.optimizer}, {plan['schedule']} rate {plan['peak_lr']:.4g}{drops}"
    )
    log_progress(begin, plan["steps"])


def rate_at(step, plan):
    """Learning rate at a step, counted from 0: a linear warm-up, then the schedule.

    ``cosine`` falls to a thousandth of the peak, ``step`` is multiplied by ``gamma`` at every one of ``drops``,
    ``constant`` stays. plan: of ``plan_training``.
    """
    if plan["schedule"] == "cosine":
        return cosine_lr(step, plan["steps"], plan["warmup_steps"], plan["peak_lr"])
    rising = min(1.0, step / plan["warmup_steps"]) if plan["warmup_steps"] else 1.0
    return plan["peak_lr"] * rising * plan["gamma"] ** sum(step >= drop for drop in plan["drops"])


def one_view(name, changes=()):
    """The one view of supervised training: the first of a regime; see
    ``vicreg.augmentations.presets.get_augmentation``.

    Raises:
        ValueError: a change of a second view, which there is not.
    """
    if second := [change for change in changes if change.startswith("2.")]:
        raise ValueError(f"--augment-set {second[0]}: supervised training has one view; leave the '2.' out")
    return presets.get_augmentation(name, changes)[0]


def class_weights(kind, labels, classes):
    """Weight of each class in the loss, 1 on average over the samples.

    Args:
        kind: "none", "inverse" (each class counts as much as any other) or "sqrt" (between the two).
        labels: int64 (n,) of the training samples. classes: how many there are.

    Returns:
        float32 (classes,); 0 for a class without a sample.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes).double()
    power = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[kind]
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def weighted_loss(logits, labels, weights, smoothing=0.0):
    """Cross-entropy, each sample weighted by its class: the mean of w_y ((1 - s) (-log p_y) + s mean_c (-log p_c)).

    A plain mean of the weighted terms, so that processes with equal shares average to the whole batch's loss.

    Args:
        logits: (n, classes). labels: (n,). weights: (classes,). smoothing: s, in [0, 1).
    """
    losses = cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    return (weights[labels] * losses).mean()
