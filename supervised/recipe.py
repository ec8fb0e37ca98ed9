"""A supervised run's numbers: its plan, its learning rate, and the loss with weighted classes."""

import torch
from torch.nn.functional import cross_entropy

from vicreg import augmentations, distributed
from vicreg.plan import check_positive, count_steps, plain, say_progress, share_of, wants_bf16
from vicreg.run_log import say, write_json
from vicreg.schedule import learning_rate

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
        args: of ``supervised.classify.get_parser``. samples: to train on. patch_size: side in pixels.
        device: of this process. source: what is trained on what, for the checkpoint.
        earlier_batch: effective batch of the run that is to go on, perhaps with other processes.

    Returns:
        dict: ``batch_size`` (effective), ``share`` (per process), ``steps_per_epoch, steps, warmup_steps, peak_lr,
        schedule, drops`` (steps at which the rate falls), ``gamma, image_size, bf16, checkpoint_every, source``, ….

    Raises:
        ValueError: numbers that cannot work, with the flag to change.
    """
    check_positive(args, ("batch_size", "epochs", "lr", "max_steps", "checkpoint_every", "image_size", "gamma"))
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
    share = share_of(args, processes, earlier_batch)
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
        "bf16": wants_bf16(args.precision, device),
        "checkpoint_every": args.checkpoint_every or per_epoch,
    }


def announce(args, plan, model, validation, classes, split, begin):
    """Print the plan and keep it, with the arguments, in ``args.json``: the main process does.

    Args:
        validation, classes: how many. split: the rule's record in ``meta.json``, or None. begin: first step.
    """
    if not distributed.is_main():
        return
    write_json(args.exp_dir / "args.json", {"args": plain(vars(args)), "plan": plan})
    rounded = "" if plan["batch_size"] == args.batch_size else f" (of {args.batch_size} asked for)"
    drops = f" x {plan['gamma']:g} at epochs {' '.join(map(str, args.milestones))}" if plan["drops"] else ""
    millions = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    said = f"{split['rule']}, {split['description']}" if split else "no meta.json says how it was made"
    say(
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
    say_progress(begin, plan["steps"])


def rate_at(step, plan):
    """Learning rate at a step, counted from 0: a linear warm-up, then the schedule.

    ``cosine`` falls to a thousandth of the peak, ``step`` is multiplied by ``gamma`` at every one of ``drops``,
    ``constant`` stays. plan: of ``plan_training``.
    """
    if plan["schedule"] == "cosine":
        return learning_rate(step, plan["steps"], plan["warmup_steps"], plan["peak_lr"])
    rising = min(1.0, step / plan["warmup_steps"]) if plan["warmup_steps"] else 1.0
    return plan["peak_lr"] * rising * plan["gamma"] ** sum(step >= drop for drop in plan["drops"])


def one_view(name, changes=()):
    """The one view of supervised training: the first of a regime; see ``vicreg.augmentations.regime``.

    Raises:
        ValueError: a change of a second view, which there is not.
    """
    if second := [change for change in changes if change.startswith("2.")]:
        raise ValueError(f"--augment-set {second[0]}: supervised training has one view; leave the '2.' out")
    return augmentations.regime(name, changes)[0]


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
