"""What a backbone is worth with labels: a linear head on frozen features, or finetuning; once, for every data set."""

import argparse
import copy
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from vicreg import distributed
from vicreg.augmentations import batch, presets
from vicreg.common.cli import to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import MetricLogger, log
from vicreg.data.leakage import format_overlap, overlap
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.data.subsets import LabeledSubset
from vicreg.eval import features, knn, metrics
from vicreg.eval.label_efficiency import FrozenFeatures, plan_runs, summarize
from vicreg.models.backbones import PARAMETER_FREE, check_channels, load_backbone
from vicreg.models.heads import Classifier, LinearHeads


def get_parser(description):
    """Arguments that every evaluation script has; scripts add those of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="results go to <exp-dir>/<freeze|finetune>_<percent>/")
    run.add_argument("--seed", type=int, default=0, help="settles the subset, the head, order and augmentation")
    run.add_argument("--seeds", type=int, default=1, help="repeat with so many seeds, from --seed on: mean and spread")
    run.add_argument("--workers", type=int, default=2, help="loading processes")
    model = parser.add_argument_group("backbone")
    model.add_argument(
        "--pretrained", required=True,
        help="trained_model.pth, model.pth, a torchvision state dict, or a baseline: random, imagenet, stats, pixels",
    )  # fmt: skip
    model.add_argument("--arch", help="backbone, where the file does not name it")
    model.add_argument("--in-chans", type=int, default=3, help="channels, for baselines")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train-percent", "--train-perc", type=int, nargs="+", default=[100], metavar="PERCENT",
        help="shares of the training labels, such as 1 10 100; stratified by class, at least one a class",
    )  # fmt: skip
    data.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    data.add_argument(
        "--views", type=int, default=0,
        help="frozen only: 0 augments anew every epoch; K extracts K views of each sample once, the first one plain",
    )  # fmt: skip
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--weights", choices=["freeze", "frozen", "finetune"], default="freeze", help="what is trained")
    optim.add_argument("--epochs", type=int, default=100, help="passes over the training samples")
    optim.add_argument("--batch-size", type=int, default=256, help="samples of all processes together")
    optim.add_argument(
        "--lr-head", type=float, nargs="+", default=[0.3],
        help="rate of the head; several are trained side by side and chosen on a tenth of the training places",
    )  # fmt: skip
    optim.add_argument("--lr-backbone", type=float, default=0.0, help="rate of the backbone, finetuning only")
    optim.add_argument("--weight-decay", type=float, default=1e-6, help="weight decay")
    optim.add_argument("--knn", type=int, nargs="*", default=[20], help="neighbors of the kNN figures, frozen only")
    distributed.add_arguments(parser)
    return parser


def probe(args, train, val, chosen=None):
    """Train and judge a classifier on a backbone.

    The reference protocol: heads drawn from N(0, 0.01) with zero bias, SGD with momentum 0.9, a cosine over the epochs,
    training on random resized crops and flips, judging on the plain center crop; a frozen backbone stays in eval mode.

    Args:
        args: of ``get_parser``. train, val: data sets with ``images(indices)``, ``labels``, ``classes``, ``mean``,
            ``std``, ``patch_size``. chosen: indices of the training samples, in place of --train-percent.

    Returns:
        dict, also written to ``<exp-dir>/<freeze|finetune>_<percent>/result.json``: ``top1`` and ``top5`` after the
        last epoch, the best ones, kNN, what was evaluated, and ``overlap``: what the two data sets share. Of several
        shares or seeds a list of dicts with means and spreads, see ``label_efficiency.summarize``.

    Raises:
        ValueError, FileNotFoundError: arguments or files that do not fit.
    """
    started, protocol = time.perf_counter(), "finetune" if args.weights == "finetune" else "freeze"
    _check(args, protocol == "freeze")
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    backbone, info = load_backbone(args.pretrained, args.arch, args.in_chans, args.seed)
    check_channels(info["in_chans"], train, f"--pretrained {args.pretrained}")
    log(info["report"])
    size = args.image_size or max(1, round(train.patch_size * 7 / 8))
    look = {"size": size, "mean": info["mean"] or train.mean, "std": info["std"] or train.std, "device": device}
    runs = plan_runs(args, train, chosen, protocol)
    shared, backbone = overlap(train, val), backbone.to(device)
    log(f"{len(val)} validation samples, {len(train.classes)} classes, {size} px\n{format_overlap(shared)}")
    about = {"pretrained": str(args.pretrained), "arch": info["arch"], "source": info["source"]}
    about |= {"val_samples": len(val), "classes": len(train.classes), "overlap": shared, "image_size": size}
    known, results = None, []
    if protocol == "freeze":
        known = FrozenFeatures(backbone, train, val, look, runs, args.views, args.seed, bool(args.knn))
    for run in runs:
        share = f"{run.percent} %" if chosen is None else "a list"
        held_out = f"{len(run.held_out)} held out to choose the rate"
        log(f"{len(run.fit)} training samples ({share}, seed {run.seed}), {held_out}")
        found = _evaluate(args, run, backbone, known, train, val, look, quiet=len(runs) > 1)
        found |= {**about, "protocol": f"{protocol}_{run.percent}", "train_samples": len(run.fit), "seed": run.seed}
        found["seconds"] = round(time.perf_counter() - started, 1)
        if distributed.is_main():
            write_json(run.folder / "result.json", {**found, "args": to_serializable(vars(args))})
        log(
            f"top-1 {found['top1']:.4f}  top-5 {found['top5']:.4f}  (best {found['best_top1']:.4f} in epoch "
            f"{found['best_epoch']}), head rate {found['lr_head']:g}; {run.folder / 'result.json'}"
        )
        results.append(found)
        started = time.perf_counter()
    result = results[0] if len(runs) == 1 else summarize(runs, results, args.exp_dir, protocol)
    distributed.destroy()
    return result


def _evaluate(args, run, backbone, known, train, val, look, quiet):
    """Train and judge one classifier; frozen features are known, a backbone to finetune stays as it is."""
    device = look["device"]
    if distributed.is_main():
        run.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    heads = LinearHeads(len(args.lr_head), backbone.num_features, len(train.classes)).to(device)
    model = Classifier(backbone if known else copy.deepcopy(backbone), heads, frozen=bool(known))
    source, neighbors = LabeledSubset(train, run.fit, presets.PROBE_VIEW, look["size"]), {}
    if known:
        if args.knn:
            neighbors = _knn(args.knn, *known.plain(run.fit), *known.judged(run)[0], len(train.classes))
        if args.views:
            model, source = heads, known.views(run)

    def scores():
        """Top-1 and top-5 of every head on the validation samples, and on those held out."""
        if known:
            return [_accuracies(heads, found, labels) for found, labels in known.judged(run)]
        distributed.broadcast_buffers(model.backbone)
        found = features.extract_features(model.backbone, val, **look)
        return [_accuracies(heads, found, val.labels.to(device))]

    return {**_train(args, run, model, heads, source, look, scores, quiet), **neighbors}


def _check(args, frozen):
    if args.epochs < 1 or args.batch_size < 1 or args.views < 0:
        raise ValueError("--epochs and --batch-size must be positive, --views 0 or more")
    if not frozen and (len(args.lr_head) > 1 or args.views):
        raise ValueError("--weights finetune takes one --lr-head and no --views: the features change as it goes")
    if not frozen and args.pretrained in PARAMETER_FREE:
        raise ValueError(f"--pretrained {args.pretrained} has no weights to finetune; use --weights freeze")


def _knn(neighbors, train, train_labels, val, val_labels, classes):
    found = {}
    for k in neighbors:
        scores = metrics.accuracy(knn.knn_predict(train, train_labels, val, classes, k), val_labels)
        found |= {f"knn{k}_{name}": round(value, 4) for name, value in scores.items()}
        log(f"kNN-{k}  top-1 {scores['top1']:.4f}  top-5 {scores['top5']:.4f}")
    return found


@torch.no_grad()
def _accuracies(heads, found, labels):
    """Accuracies of every head: list of dicts ``top1, top5``."""
    ranked = torch.cat([heads(part).topk(min(5, heads.classes), dim=2).indices for part in found.split(4096)])
    return [metrics.accuracy(ranked[:, head], labels) for head in range(ranked.shape[1])]


def _train(args, run, model, heads, source, look, scores, quiet):
    """Train the heads (and the backbone), judging after every epoch; returns what to report."""
    device = look["device"]
    batch_size = min(args.batch_size, len(source)) // distributed.world_size() * distributed.world_size()
    per_epoch = len(source) // max(1, batch_size)
    if not per_epoch:
        raise ValueError(f"{len(source)} samples for {distributed.world_size()} processes; start fewer")
    groups = [{"params": heads.of(head), "lr": rate} for head, rate in enumerate(args.lr_head)]
    if model is not heads and not model.frozen:
        groups.append({"params": list(model.backbone.parameters()), "lr": args.lr_backbone})
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    parallel = model
    if distributed.world_size() > 1:
        parallel = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    share = (distributed.rank(), distributed.world_size())
    batches = ResumableBatchSampler(len(source), batch_size, run.seed, args.epochs * per_epoch, 0, *share)
    loader = iter(build_loader(source, batches, 0 if model is heads else args.workers, device))
    metric_logger, best, done = MetricLogger(run.folder, total_steps=len(batches)), None, 0
    for epoch in range(args.epochs):
        model.train()
        for step in range(done, done + per_epoch):
            tick = time.perf_counter()
            inputs, labels = next(loader)
            waited = time.perf_counter() - tick
            inputs, labels = inputs.to(device), labels.to(device)
            if model is not heads:
                inputs = _training_view(inputs, source.view, run.seed, step, look)
            logits = parallel(inputs)
            loss = cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))
            optimizer.zero_grad()
            (loss * logits.shape[1]).backward()  # each head has its own loss; their mean is only shown
            optimizer.step()
            metric_logger.add({"loss": loss}, waited)
        done += per_epoch
        rates = schedule.get_last_lr()
        schedule.step()
        found = scores()
        head = max(range(len(args.lr_head)), key=lambda n: found[-1][n]["top1"])  # on held-out samples where there are
        line = {"epoch": epoch, "step": done, "lr": rates[head], **metric_logger.averages(batch_size), **found[0][head]}
        # epochs on cached features pass too fast to read all of them
        shown = epoch == args.epochs - 1 or epoch % max(1, args.epochs // 10) == 0
        metric_logger.write(line, show=not quiet and (model is not heads or shown))
        metric_logger.restart_clock()
        if best is None or found[0][head]["top1"] > best["best_top1"]:
            best = {"best_top1": found[0][head]["top1"], "best_top5": found[0][head]["top5"], "best_epoch": epoch}
    metric_logger.close()
    every = {f"{rate:g}": scored for rate, scored in zip(args.lr_head, found[0], strict=True)}
    return {**found[0][head], **best, "lr_head": args.lr_head[head], "rates": every}


def _training_view(images, view, seed, step, look):
    """Random resized crops (where they are not yet cut) and flips of one batch, counted from (seed, step, rank)."""
    random = batch.step_generator(seed, step, distributed.rank())
    numbers = batch.sample_params(view, len(images), *images.shape[-2:], random)
    return batch.normalize(batch.apply(images, numbers, look["size"]), look["mean"], look["std"])
