"""Supervised training: cross-entropy on the labels, with the data path, record and files of pretraining."""

import argparse
import functools
import sys
import time

import torch

from preprocessing.overlap import describe, overlap
from supervised.recipe import PATH, WEIGHTS, announce, class_weights, one_view, plan_training, rate_at, weighted_loss
from vicreg import augmentations, distributed
from vicreg.backbone import create_backbone
from vicreg.classifier import Classifier, Heads, Labelled, check_percent, stratified_subset
from vicreg.interruption import Watch, leave_note
from vicreg.judge import draw_confusion, judge
from vicreg.loader import CountedBatches, loader_for
from vicreg.plan import add_run_arguments, plain
from vicreg.resume import open_run, optimizer_for, read_earlier, save, settle, spread
from vicreg.run_log import RunLog, say, write_json
from vicreg.views import count_randomness, counted_view


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
    data.add_argument("--augment", default="crop", choices=list(augmentations.REGIMES), help="its first view is taken")
    data.add_argument(
        "--augment-set", nargs="+", default=[], metavar="NUMBER=VALUE",
        help="change numbers of the view: scale=0.3,1 vertical_flip=0.5",
    )  # fmt: skip
    data.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    data.add_argument("--workers", type=int, default=2, help="loading processes for each training process")
    data.add_argument("--store", choices=["disk", "device"], default="disk", help="device: all patches in its memory")
    optim = parser.add_argument_group("optimisation")
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
    parallel = spread(model.train(), device)
    weights = class_weights(args.class_weights, dataset.labels[chosen], len(dataset.classes)).to(device)
    look = {"size": plan["image_size"], "mean": dataset.mean, "std": dataset.std, "device": device}
    samples = Labelled(dataset, chosen, view, plan["image_size"])
    watch = Watch(device, "--lr", args.exp_dir)
    batches = CountedBatches(
        len(samples), plan["batch_size"], args.seed, plan["steps"], begin, distributed.rank(), distributed.world_size()
    )
    if args.store == "device":
        dataset.to_device(device)
    loader = iter(loader_for(samples, batches, 0 if args.store == "device" else args.workers, device))
    keep = functools.partial(save, args, plan, model, optimizer, dataset, classes=list(dataset.classes))
    log = RunLog(args.exp_dir, begin, plan["steps"])

    for step in range(begin, plan["steps"]):
        interrupted = watch.check()  # what the step before showed
        if interrupted:
            keep(step, best=best)
            say(f"{interrupted.name}: saved at step {step}; the same command goes on from here")
            sys.exit(leave_note(args.exp_dir, interrupted, step))
        tick = time.perf_counter()
        images, labels = next(loader)
        waited = time.perf_counter() - tick
        images = counted_view(images, samples.view, 0, plan, args.seed, step, device)
        labels = labels.to(device, non_blocking=True)

        rate = rate_at(step, plan)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        count_randomness(args.seed, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan["bf16"]):
            logits = parallel(augmentations.normalise(images, dataset.mean, dataset.std))[:, 0]
        loss = weighted_loss(logits, labels, weights, args.label_smoothing)
        loss.backward()
        seen = torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
        seen = distributed.all_reduce(seen) / distributed.world_size()  # of the whole batch
        watch.put(step, seen[0])
        optimizer.step()

        done, epoch = step + 1, step // plan["steps_per_epoch"]
        ends = done % plan["steps_per_epoch"] == 0 or done == plan["steps"]
        log.add({"loss": seen[0], "train_top1": seen[1]}, waited)
        if ends or log.seconds >= args.log_freq_time:
            line = {"epoch": epoch, "step": done, "lr": rate, **log.averages(plan["batch_size"], "images")}
            if ends:
                watch.check()  # a network that is no number has nothing to be judged
                last = {"epoch": epoch, "step": done, **judge(model, val, look)}
                best = last if best is None or last["top1"] > best["top1"] else best
                line |= {name: last[name] for name in ("top1", "top5", "balanced_accuracy")}
            log.write(line)
            log.restart_clock()
        if done == plan["steps"] or done % plan["checkpoint_every"] == 0:
            watch.check()  # never keep weights of a loss that is not finite
            if done == plan["steps"] and distributed.is_main():
                conclude(args, plan, last, best, dataset, val, split)
            keep(done, best=best)
    watch.close()
    log.close()
    if lock:
        lock.close()
    distributed.stop()


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
    """The run that is to go on in the folder, see ``read_earlier``; it must know the same classes."""
    earlier = read_earlier(args, device, "supervised", "label_smoothing", WEIGHTS, PATH)
    if earlier and earlier["classes"] != list(classes):
        raise ValueError(f"{args.exp_dir} holds a run with other classes; choose another --exp-dir or its --csv-dir")
    return earlier


def build(args, classes, device, earlier):
    """Classifier and optimizer, fresh or as the run's checkpoint has them, and the step to begin with."""
    torch.manual_seed(args.seed)
    backbone = create_backbone(args.arch, args.in_chans)
    model = Classifier(backbone, Heads(1, backbone.num_features, classes), frozen=False)
    return settle(
        model, args, device, earlier, lambda placed: optimizer_for(args.optimizer, placed, args.wd, args.momentum)
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
        "args": plain(vars(args)),
    }
    write_json(args.exp_dir / "result.json", result)
    draw_confusion(args.exp_dir / "confusion.png", last["confusion"], dataset.classes)
    say(describe(result["overlap"]))
    say(
        f"top-1 {last['top1']:.4f}  top-5 {last['top5']:.4f}  balanced {last['balanced_accuracy']:.4f}  (best top-1 "
        f"{best['top1']:.4f} in epoch {best['epoch']}, split {split['rule'] if split else 'unknown'}); "
        f"{args.exp_dir / 'result.json'}"
    )
