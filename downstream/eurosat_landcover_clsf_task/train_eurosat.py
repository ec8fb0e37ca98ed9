#!/usr/bin/env python3
"""Train EuroSAT, or another folder of class folders, on a backbone: the whole network, or a head on frozen features.

    python train_eurosat.py --data-dir EuroSAT/2750 --pretrained exp/sn7/trained_model.pth --weights finetune \
        --epochs 10 --exp-dir exp/eurosat_vicreg

prints top-1 and top-5 after each epoch, then precision, recall and F1 of each class, and writes ``result.json``,
``confusion.png``, ``examples.png``, ``best_model.pth``, ``model.pth`` (last) and ``trained_model.pth`` to the folder.
Started again on it, the run goes on where it was.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from downstream.eurosat_landcover_clsf_task import (
    dataset,
    inference,
    linear_probe,
    results,
    transforms,
)
from vicreg import distributed
from vicreg.augmentations.batch import normalize
from vicreg.common import cli
from vicreg.common.logger import (
    MetricLogger,
    log,
)
from vicreg.data.sampler import (
    ResumableBatchSampler,
    build_loader,
)
from vicreg.data.subsets import (
    LabeledSubset,
    check_percent,
    stratified_subset,
)
from vicreg.engine import (
    checkpoint,
    finetune,
    optim,
)
from vicreg.engine.finetune import save_state, to_device
from vicreg.engine.optim import one_cycle_lr
from vicreg.eval import classification
from vicreg.eval.knn import knn_predict
from vicreg.eval.lr_sweep import RATES
from vicreg.eval.metrics import accuracy
from vicreg.models.heads import (
    Classifier,
    LinearHeads,
)

TASK = "EuroSAT"
WEIGHTS = (*finetune.WEIGHTS, "weights", "optimizer")
VIEWS = ("image_size", "augment", "augment_set", "views")
PATH = (*finetune.PATH, *VIEWS, "label_smoothing", "lr_head", "wd_head")
CHANNELS = 3


def get_parser():
    """Arguments of downstream training, and those of this task."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    groups = finetune.add_arguments(parser, epochs=None, batch_size=128, lr=0.002, grad_clip=0.1)
    groups["backbone"].add_argument(
        "--weights", choices=["finetune", "freeze", "frozen"], default="finetune",
        help="finetune: train all weights (10 epochs); freeze: a linear head on frozen features (100 epochs)",
    )  # fmt: skip
    optim = groups["optim"]
    optim.add_argument(
        "--optimizer", choices=["adam", "adamw", "sgd"], default="adam",
        help="finetune: adam decays all weights by way of their gradients; adamw (--lr 0.001 --wd 0.05) and sgd "
        "(momentum 0.9) leave biases and norms alone",
    )  # fmt: skip
    optim.add_argument("--label-smoothing", type=float, default=0.0, help="share of the target spread over all classes")
    optim.add_argument("--lr-head", type=float, nargs="+", default=list(RATES), help="frozen: rates to choose from")
    optim.add_argument("--wd-head", type=float, default=1e-6, help="frozen: weight decay")
    scenes = parser.add_argument_group("data")
    scenes.add_argument("--data-dir", type=Path, required=True, help="folder of class folders, such as EuroSAT/2750")
    scenes.add_argument("--val-share", type=float, default=0.2, help="share of each class to validate on")
    scenes.add_argument("--split-seed", type=int, default=0, help="settles which; not --seed, so that seeds compare")
    scenes.add_argument("--train-list", type=Path, help="text file, one image a line, in place of a random split")
    scenes.add_argument("--val-list", type=Path, help="the same for validation; suffixes need not agree")
    scenes.add_argument("--train-percent", type=int, default=100, help="share of the labels of each class, 1 to 100")
    scenes.add_argument("--image-size", type=int, help="side of the views in pixels (default: the images')")
    scenes.add_argument("--augment", choices=transforms.VIEWS, default="turns", help="turns: flips and quarter turns")
    scenes.add_argument(
        "--augment-set", nargs="+", default=[], metavar="NUMBER=VALUE", help="change numbers of the view: scale=0.3,1"
    )
    scenes.add_argument(
        "--tta", action="store_true",
        help="judge the last weights also by probabilities averaged over the eight flips and quarter turns (tta_top1)",
    )  # fmt: skip
    scenes.add_argument("--views", type=int, default=2, help="frozen: views of each sample, the first one plain")
    return parser


def main(args):
    """Train on the training images, judge on the others, leave what the docstring names."""
    args.weights = "freeze" if args.weights == "frozen" else args.weights
    started, frozen = time.perf_counter(), args.weights == "freeze"
    args.epochs = (100 if frozen else 10) if args.epochs is None else args.epochs
    check(args)
    train, val, how = read_scenes(args)
    split = how["split"]
    device, lock, earlier = finetune.open_run(args, TASK, WEIGHTS, PATH)
    checkpoint.check_samples(earlier, how["samples"], args.exp_dir)
    if earlier and earlier["task"]["classes"] != train.classes:
        raise ValueError(f"{args.exp_dir} holds a run with other classes; choose another --exp-dir or its --data-dir")
    backbone, about = finetune.build_backbone(args, earlier)
    if about["in_chans"] != CHANNELS:
        raise ValueError(f"{args.pretrained} takes {about['in_chans']} channels; these images have {CHANNELS}")
    if about["mean"] is None:
        about["mean"], about["std"] = train.statistics()
    size = args.image_size or train.patch_size
    look = {"size": size, "mean": about["mean"], "std": about["std"], "device": device}
    kept = {"name": TASK, "classes": train.classes, "image_size": size, "patch_size": train.patch_size}
    kept |= {"window": how["side"], "samples": how["samples"]}
    about = {"backbone": about, "task": kept | {"mean": about["mean"], "std": about["std"]}}

    torch.manual_seed(args.seed)
    model = Classifier(backbone, LinearHeads(1, backbone.num_features, len(train.classes)), frozen)
    make_optimizer = functools.partial(optimizer_for, args.optimizer, weight_decay=args.wd)
    model, optimizer, begin = to_device(model, device, earlier, make_optimizer)
    plan = finetune.plan_steps(args, len(train), device, TASK) | {"image_size": size}
    log(f"{len(train)} training and {len(val)} validation images, {len(train.classes)} classes, {size} px; {split}")
    finetune.log_steps(plan, args.exp_dir, begin)
    work = freeze if frozen else train_all_weights
    last, best, more = work(args, plan, model, optimizer, train, val, look, about, earlier)
    more |= {"arch": about["backbone"]["arch"], "source": about["backbone"]["source"], "split": split}
    more |= {"protocol": f"{TASK} {'linear' if frozen else 'finetune'}", "train_samples": len(train)}
    more |= {"image_size": size, "seconds": round(time.perf_counter() - started, 1)}
    results.conclude(args, model, train, val, look, plan["bf16"], last, best, about, more)
    lock.close()
    distributed.destroy()


def check(args):
    """Raise ValueError for arguments that cannot work, before images are read."""
    check_percent(args.train_percent)
    cli.positive(args, "image_size", "lr_head", "views")
    if not 0 <= args.label_smoothing < 1 or args.wd_head < 0:
        raise ValueError("--label-smoothing must be 0 or more and below 1, --wd-head 0 or more")
    transforms.view_named(args.augment, args.augment_set)
    if args.weights == "freeze" and args.max_steps:
        raise ValueError("--max-steps cuts a finetuning short; a head on frozen features takes --epochs")


def read_scenes(args):
    """Training and validation ``Scenes``, decoded.

    Returns:
        train, val, and a dict of ``split`` (how they were divided, in words), ``samples`` (its fingerprint) and
        ``side`` (of the files' images in pixels; those in memory may be reduced).
    """
    listings = dataset.find_scenes(args.data_dir, args.val_share, args.split_seed, args.train_list, args.val_list)
    train, val, split = listings
    train = train.take(stratified_subset(train.labels, args.train_percent / 100, args.seed))
    names = [[f"{path.parent.name}/{path.name}" for path in map(Path, part.paths)] for part in (train, val)]
    how = {"split": split, "samples": checkpoint.samples_digest(*names), "side": dataset.side_of(train.paths[0])}
    side = min(how["side"], args.image_size or how["side"])
    bar = functools.partial(tqdm, desc="decoding", leave=False, disable=None)
    return *(dataset.decode(part, side, args.workers, bar) for part in (train, val)), how


def optimizer_for(name, model, weight_decay):
    """Adam on all weights, fused, or one of ``vicreg.engine.optim.build_optimizer``; the rate is set at each step."""
    if name != "adam":
        return optim.build_optimizer(name, model, weight_decay)
    return torch.optim.Adam(model.parameters(), lr=0.0, weight_decay=weight_decay, fused=True)


def train_all_weights(args, plan, model, optimizer, train, val, look, about, earlier):
    """Train all weights on a one-cycle rate; returns the last and the best epoch's figures."""
    view = transforms.view_named(args.augment, args.augment_set)
    device, begin = look["device"], earlier.get("step", 0)
    batches = ResumableBatchSampler(len(train), args.batch_size, args.seed, plan["steps"], begin)
    loader = build_loader(LabeledSubset(train, torch.arange(len(train)), view, plan["image_size"]), batches, 0, device)

    def loss_of(batch, step):
        images = transforms.training_view(batch[0], view, plan, args.seed, step, device)
        labels = batch[1].to(device)
        logits = model(normalize(images, look["mean"], look["std"]))[:, 0].float()
        hits = (logits.argmax(1) == labels).float().mean()
        return cross_entropy(logits, labels, label_smoothing=args.label_smoothing), {"train_top1": hits}

    def judge():
        return classification.per_class_metrics(
            inference.logits_of(model, val, look, plan["bf16"]), val.labels, val.classes
        )

    def rate_at(step):
        return one_cycle_lr(step, plan["steps"], args.lr)

    return *finetune.fit(args, plan, model, optimizer, loader, rate_at, loss_of, judge, "top1", about, earlier), {}


def freeze(args, plan, model, optimizer, train, val, look, about, earlier):
    """Fit a linear head on features that are extracted once; returns its figures twice, and kNN's.

    It takes minutes, so a run that is cut off begins anew, and ends with the same head.
    """
    if earlier:
        return earlier["last"], earlier["best"], earlier["more"]
    rate, found = linear_probe.fit_head(args, model, train, look, plan["bf16"])
    logits = inference.logits_of(model, val, look, plan["bf16"])
    last = {
        "epoch": args.epochs - 1,
        "step": plan["steps"],
        **classification.per_class_metrics(logits, val.labels, val.classes),
    }
    queries = inference.extract(model.backbone, val, look, plan["bf16"])
    ranked = knn_predict(found, train.labels.to(look["device"]), queries, len(train.classes), 20).cpu()
    more = {"lr_head": rate} | {f"knn20_{name}": round(v, 6) for name, v in accuracy(ranked, val.labels).items()}
    metric_logger = MetricLogger(args.exp_dir)
    metric_logger.write({key: value for key, value in (last | more).items() if isinstance(value, (int, float))})
    metric_logger.close()
    finetune.save_best(args, model, last, **about)
    save_state(args, model, optimizer, plan["steps"], last=last, best=last, more=more, **about)
    return last, last, more


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
