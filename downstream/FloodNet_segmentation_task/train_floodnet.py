#!/usr/bin/env python3
"""Train a U-Net whose encoder is our backbone, on FloodNet's ten classes or on buildings in two stages.

    python downstream/FloodNet_segmentation_task/train_floodnet.py --data-dir FloodNet --task floodnet \\
        --pretrained exp/sn7/trained_model.pth --image-size 1000 --exp-dir exp/floodnet
    python downstream/FloodNet_segmentation_task/train_floodnet.py --data-dir data/harvey_512 --task building \\
        --pretrained exp/sn7/trained_model.pth --exp-dir exp/harvey_building
    python downstream/FloodNet_segmentation_task/train_floodnet.py --data-dir data/harvey_512 --task flooded \\
        --init-from exp/harvey_building/best_model.pth --exp-dir exp/harvey_flooded

Writes args.json, stats.txt, tensorboard/, model.pth, best_model.pth, examples.png and result.json into --exp-dir.
Started again on the same folder a run goes on where it was cut off. It should end with a line such as

    mean IoU 0.3537  mean Dice 0.4468  accuracy 0.7772  (everywhere "grass": mean IoU 0.0612); exp/floodnet/result.json
"""

import argparse
import functools
import sys
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch

from downstream.FloodNet_segmentation_task import metrics
from downstream.FloodNet_segmentation_task.cached_dataset import Squares, WorkingCopies, default_side
from downstream.FloodNet_segmentation_task.floodnet import TASKS, find_parts
from downstream.FloodNet_segmentation_task.model import DECODERS, SegmentationLoss, Segmenter, fill_encoder, predictor
from downstream.FloodNet_segmentation_task.plots import save_examples
from vicreg.common import checkpoint_io, cli
from vicreg.common.cli import to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.data.leakage import format_overlap as overlap_in_words
from vicreg.data.leakage import overlap_of_images
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.engine import checkpoint, finetune
from vicreg.engine.checkpoint import strip_module_prefix
from vicreg.engine.finetune import to_device
from vicreg.engine.optim import cosine_lr
from vicreg.inference.sliding_window import label_image

NAME = "flood segmentation"
FLOODED_BUILDING = {"floodnet": "building flooded", "flooded": "flooded building"}
WEIGHTS = (*finetune.WEIGHTS, "task", "decoder", "init_from")  # what a folder's run cannot change
PATH = (
    *finetune.PATH,
    "image_size",
    "scale",
    "crop",
    "repeats",
    "schedule",
    "cross_entropy",
    "overlap",
)


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description="Train a segmentation network over a backbone.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    groups = finetune.add_arguments(parser, epochs=40, batch_size=8, lr=1e-4, wd=0.0, pretrained_required=False)
    groups["backbone"].add_argument(
        "--init-from", help="best_model.pth of another run of this script: all its weights, instead of --pretrained"
    )
    groups["backbone"].add_argument("--decoder", choices=list(DECODERS), help="default: unet, or --init-from's")
    optim = groups["optim"]
    optim.add_argument("--schedule", choices=["constant", "cosine"], default="constant", help="of the rate")
    optim.add_argument(
        "--cross-entropy", type=float, help="its weight beside Dice's (default: 1 for ten classes, 0 for two)"
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data-dir", type=Path, required=True, help="FloodNet, or a folder of make_harvey_patches.py")
    data.add_argument("--task", choices=list(TASKS), required=True, help="ten classes, buildings, or flooded buildings")
    data.add_argument("--val-percent", type=float, default=20.0, help="share held out where the data brings no val")
    size = data.add_mutually_exclusive_group()
    size.add_argument("--image-size", type=int, help="reduce images to this long side in pixels")
    size.add_argument("--scale", type=float, default=1.0, help="or by this factor, 1 or less")
    data.add_argument("--crop", type=int, help="side of squares, a multiple of 32 (default: what fits, 512 at most)")
    data.add_argument("--repeats", type=int, default=1, help="squares of each image in an epoch")
    data.add_argument("--overlap", type=float, default=0.5, help="of neighboring windows when judging, 0 to 0.9")
    data.add_argument("--cache-dir", type=Path, help="for the reduced images (default: <exp-dir>/working_copies)")
    data.add_argument("--examples", type=int, default=4, help="validation images in examples.png")
    return parser


def main(args):
    """Prepare data and network, train, judge."""
    check(args)
    device, lock, earlier = finetune.open_run(args, NAME, WEIGHTS, PATH)
    names = TASKS[args.task]
    copies, side, samples = prepare_data(args)
    checkpoint.check_samples(earlier, samples, args.exp_dir)
    model, backbone = build(args, names, earlier)
    make_optimizer = functools.partial(torch.optim.Adam, lr=args.lr, weight_decay=args.wd)
    model, optimizer, begin = to_device(model, device, earlier, lambda placed: make_optimizer(placed.parameters()))
    squares = Squares(copies["train"], side, args.repeats)
    plan = finetune.plan_steps(args, len(squares), device, f"{NAME}, {args.task}")
    batches = ResumableBatchSampler(len(squares), plan["batch_size"], args.seed, plan["steps"], begin)
    loss = SegmentationLoss(len(names), args.cross_entropy)

    def loss_of(batch, step):
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        return loss(model(images), labels)

    def rate_at(step):
        return cosine_lr(step, plan["steps"], 0, args.lr) if args.schedule == "cosine" else args.lr

    predict = predictor(model, device, plan["bf16"])
    judge = functools.partial(metrics.judge, predict, names=names, side=side, overlap=args.overlap)
    about = {"backbone": backbone, "task": describe(args, names, side, model, copies["train"])}
    about["task"]["samples"] = samples
    finetune.log_steps(plan, args.exp_dir, begin)
    last, best = finetune.fit(
        args, plan, model, optimizer, build_loader(squares, batches, args.workers, device), rate_at, loss_of,
        lambda: judge(copies["val"]), "mean_iou", about, earlier,
    )  # fmt: skip
    conclude(args, plan, model, copies, judge, predict, about, last, best)
    lock.close()


def check(args):
    """Refuse arguments that cannot work, and settle the defaults that depend on others."""
    if (args.pretrained is None) == (args.init_from is None):
        raise ValueError("one of --pretrained (a backbone) and --init-from (a whole earlier run) is needed")
    cli.positive(args, "image_size", "scale", "crop", "repeats")
    if args.scale > 1:
        raise ValueError(f"--scale {args.scale:g}: 1 or less; images are reduced, never enlarged")
    if args.crop and args.crop % 32:
        raise ValueError(f"--crop {args.crop}: a multiple of 32 is needed")
    if not 0 <= args.overlap <= 0.9:
        raise ValueError(f"--overlap {args.overlap:g}: 0 to 0.9 is needed")
    if args.cross_entropy is None:
        args.cross_entropy = float(args.task == "floodnet")
    if args.cross_entropy < 0 or args.examples < 0:
        raise ValueError("--cross-entropy and --examples must be 0 or more")
    if args.init_from:
        about = checkpoint.load_task(args.init_from, NAME)[1]
        kept, arch = about["task"], about["backbone"]["arch"]
        args.decoder = args.decoder or kept["decoder"]
        if args.arch not in (None, arch):
            raise ValueError(f"{args.init_from} is a network over {arch}, not {args.arch}; leave --arch out")
        if args.decoder != kept["decoder"] or len(kept["classes"]) != len(TASKS[args.task]):
            raise ValueError(
                f"{args.init_from} is a {kept['decoder']} of {len(kept['classes'])} classes ({kept['kind']}); it "
                f"cannot begin a {args.decoder} of {len(TASKS[args.task])} (--task {args.task})"
            )
    args.decoder = args.decoder or "unet"
    if args.decoder == "deeplabv3plus" and args.batch_size < 2:
        raise ValueError("--decoder deeplabv3plus normalizes over the batch; --batch-size 2 or more is needed")


def prepare_data(args):
    """Working copies of each part, the side of the squares, and the fingerprint of the split."""
    parts, words = find_parts(args.data_dir, args.task, args.val_percent, args.seed)
    log(words)
    folder = args.cache_dir or args.exp_dir / "working_copies"
    copies = {
        part: WorkingCopies(pairs, folder, args.task, args.image_size, args.scale, args.workers, part)
        for part, pairs in parts.items()
    }
    smallest = min(map(min, copies["train"].sizes))
    if (args.crop or 32) > smallest:
        raise ValueError(
            f"the smallest image is {smallest} pixels at its working size, squares of {args.crop or 32} do not fit; "
            "lower --crop, or raise --image-size or --scale"
        )
    names = [[f"{pair.group}/{pair.image.name}" for pair in parts[part]] for part in ("train", "val")]
    return copies, args.crop or default_side(copies["train"].sizes), checkpoint.samples_digest(*names)


def build(args, names, earlier):
    """The network with its first weights, or one of the earlier run's shape; and what its backbone was."""
    if args.init_from and not earlier:
        weights, kept = checkpoint.load_task(args.init_from, NAME)
        backbone = kept["backbone"]
        model = Segmenter(backbone["arch"], args.decoder, len(names), kept["task"]["mean"], kept["task"]["std"])
        model.load_state_dict(weights)
        log(f"{args.decoder} over {backbone['arch']} from {args.init_from}: all {len(weights)} tensors")
        return model, backbone
    backbone, about = finetune.build_backbone(args, earlier)
    if about["in_chans"] != 3:
        raise ValueError(f"the backbone takes {about['in_chans']} channels; these images have 3")
    torch.manual_seed(args.seed)
    model = Segmenter(about["arch"], args.decoder, len(names), about["mean"], about["std"])
    if not earlier:
        log(fill_encoder(model, backbone))
    return model, about


def describe(args, names, side, model, copies):
    """What prediction needs to know, as plain values."""
    told = {"name": NAME, "kind": args.task, "classes": list(names), "decoder": args.decoder, "side": side}
    told |= {"mean": model.mean, "std": model.std, "image_size": args.image_size}
    return {**told, "scale": copies.scale}


def conclude(args, plan, model, copies, judge, predict, about, last, best):
    """Write examples.png and result.json, both of the best epoch, and say what came out."""
    weights = checkpoint_io.load(args.exp_dir / checkpoint.BEST_FILE, next(model.parameters()).device)["model"]
    model.load_state_dict(strip_module_prefix(weights))
    names = TASKS[args.task]
    base = metrics.constant_guess(metrics.class_pixels(copies["train"], len(names)), np.array(best["confusion"]), names)
    result = {key: best[key] for key in ("mean_iou", "mean_dice", "accuracy", "iou", "dice")}
    result |= {"task": args.task, "arch": about["backbone"]["arch"], "decoder": args.decoder, "epoch": best["epoch"]}
    result |= {"source": about["backbone"]["source"], "init_from": args.init_from, "scale": about["task"]["scale"]}
    if args.task in FLOODED_BUILDING:
        result["flooded_building_iou"] = best["iou"][FLOODED_BUILDING[args.task]]
    result |= {"constant": base, "train_images": len(copies["train"]), "val_images": len(copies["val"])}
    if "test" in copies:
        result["test"] = judge(copies["test"])
    shared = overlap_of_images(*(map(copies[part].image, range(len(copies[part]))) for part in ("train", "val")))
    log(overlap_in_words(shared))
    result |= {
        "overlap": shared,
        "steps": plan["steps"],
        "last": last,
        "best": best,
        "args": to_serializable(vars(args)),
    }
    write_json(args.exp_dir / "result.json", result)
    chosen = range(0, len(copies["val"]), max(1, len(copies["val"]) // max(1, args.examples)))[: args.examples]
    rows = []
    for n in chosen:
        guess = label_image(copies["val"].image(n), predict, about["task"]["side"], args.overlap)
        rows.append((copies["val"].pairs[n].image.name, copies["val"].image(n), copies["val"].labels(n), guess))
    if rows:
        save_examples(args.exp_dir / "examples.png", rows, names, f"validation images, epoch {best['epoch']}")
    for name in names:
        log(f"  {name:22} IoU {_number(best['iou'][name])}  Dice {_number(best['dice'][name])}")
    what = "mean " if len(names) > 2 else ""
    log(
        f"{what}IoU {best['mean_iou']:.4f}  {what}Dice {best['mean_dice']:.4f}  accuracy {best['accuracy']:.4f}  "
        f'(everywhere "{base["class"]}": {what}IoU {base["mean_iou"]:.4f}); {args.exp_dir / "result.json"}'
    )


def _number(value):
    return "  -   " if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
