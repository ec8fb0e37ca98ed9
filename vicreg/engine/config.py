"""What a run is going to do, worked out and said before its first step."""

import argparse
import os
from pathlib import Path

import torch

from vicreg import distributed
from vicreg.augmentations import presets
from vicreg.common.cli import check_positive, to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.engine.optim import warmup_epochs
from vicreg.losses.vicreg import loss_lower_bound
from vicreg.models.backbones import check_channels
from vicreg.models.vicreg import parse_mlp

_BF16_SINCE = (8, 0)  # compute capability (Ampere); older ones compute in float32 and round


def add_run_arguments(parser, settled):
    """Arguments of every run that can be cut off and go on; ``settled`` says what the seed settles.

    Returns:
        their argument group, to add to.
    """
    run = parser.add_argument_group("run")
    run.add_argument("--exp-dir", type=Path, required=True, help="folder of the run; started again on it, it resumes")
    run.add_argument("--seed", type=int, default=0, help=f"settles {settled}")
    run.add_argument("--max-steps", type=int, help="shorten the run to this many steps")
    run.add_argument("--checkpoint-every", type=int, help="steps between checkpoints (default: an epoch)")
    run.add_argument(
        "--deterministic", action="store_true",
        help="on GPUs: algorithms that give the same bits each time, somewhat slower (on CPUs they do anyhow)",
    )  # fmt: skip
    run.add_argument("--log-freq-time", type=float, default=60, help="seconds between log lines within an epoch")
    return run


def set_deterministic(deterministic):
    """Choose GPU algorithms that give the same bits each time, if that is wanted; to be called before the first one.

    An operation that has none warns and goes on.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def plan_run(args, dataset, device, source, earlier_batch=None):
    """Work out batch, steps and learning rate.

    Args:
        args: of ``vicreg.engine.pretrain.get_parser``. dataset: has ``len``, ``patch_size``, ``mean``, ``std``.
        device: of this process. source: what is trained on what, for the checkpoint.
        earlier_batch: effective batch of the run that is to go on, perhaps with other processes.

    Returns:
        dict: ``batch_size`` (effective), ``share`` (per process), ``steps_per_epoch, steps, warmup_steps, peak_lr,
        image_size, bf16, checkpoint_every, loss_lower_bound, source, device, processes``.

    Raises:
        ValueError: numbers that cannot work, with the flag to change.
    """
    positive = ("batch_size", "epochs", "base_lr", "max_steps", "checkpoint_every", "image_size", "accumulate")
    check_positive(args, *positive)
    processes = distributed.world_size()
    share = local_batch_size(args, processes, earlier_batch)
    if share < 2 * args.accumulate and args.accumulate > 1:
        raise ValueError(f"--accumulate {args.accumulate} cuts {share} samples a process too small; 2 each are needed")
    batch_size = share * processes
    per_epoch, steps = count_steps(len(dataset), batch_size, args.epochs, args.max_steps)
    if dataset.mean is None:
        raise ValueError("the data set names no channel mean and std (meta.json); write it with make_sn7_csv.py")
    presets.get_augmentation(args.augment, args.augment_set)
    check_channels(args.in_chans, dataset, "--in-chans")
    widths = parse_mlp(args.mlp)
    floor = loss_lower_bound(batch_size, widths[-1], args.std_coeff, args.cov_coeff)
    on_gpu = device.type == "cuda"
    bf16 = use_bf16(args.precision, device)
    size = args.image_size or max(1, round(dataset.patch_size * 7 / 8))
    return {
        "source": source,
        "samples": len(dataset),
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "batch_size": batch_size,
        "share": share,
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "warmup_steps": round(warmup_epochs(steps / per_epoch) * per_epoch),
        "peak_lr": args.base_lr * batch_size / 256,
        "image_size": size,
        "bf16": bf16,
        "checkpoint_every": args.checkpoint_every or per_epoch,
        "loss_lower_bound": round(floor["loss"], 4),
        "accumulate": args.accumulate,
    }


def count_steps(samples, batch_size, epochs, max_steps=None):
    """Steps of an epoch and of the run, both whole.

    Raises:
        ValueError: the samples do not fill one batch.
    """
    if samples < batch_size:
        raise ValueError(f"{samples} samples do not fill a batch of {batch_size}; lower --batch-size")
    per_epoch = samples // batch_size
    return per_epoch, min(epochs * per_epoch, max_steps or epochs * per_epoch)


def use_bf16(precision, device):
    """Whether ``--precision`` means autocast to bfloat16 on this device; ``auto`` does not where it is emulated."""
    if precision != "auto" or device.type != "cuda":
        return precision == "bf16"
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _BF16_SINCE


def local_batch_size(args, processes, earlier_batch):
    """Samples of each process: of the batch asked for, or of the one that the run began with."""
    share = args.batch_size // processes
    if earlier_batch and share * processes != earlier_batch:
        if earlier_batch % processes:
            raise ValueError(
                f"{args.exp_dir} holds a run with a batch of {earlier_batch}, which {processes} processes cannot share "
                "equally; start a number of processes that divides it"
            )
        share = earlier_batch // processes
    if share * processes < 2:
        raise ValueError(f"--batch-size {args.batch_size} over {processes} processes leaves nothing to compare")
    return share


def log_config(args, plan, model, begin):
    """Print the plan and keep it, with the arguments, in ``args.json``. For the main process."""
    write_json(args.exp_dir / "args.json", {"args": to_serializable(vars(args)), "plan": plan})
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model.expander)]
    precision = "bf16 autocast" if plan["bf16"] else "fp32"
    rounded = "" if plan["batch_size"] == args.batch_size else f" (of {args.batch_size} asked for)"
    micro = f" in {plan['accumulate']} micro-batches" if plan["accumulate"] > 1 else ""
    log(
        f"{plan['source']} -> {args.exp_dir}\n"
        f"  data    {plan['samples']} samples, views {args.augment} {plan['image_size']} px\n"
        f"  model   {args.arch} {millions[0]:.1f} M parameters, expander {args.mlp} {millions[1]:.1f} M\n"
        f"  batch   {plan['batch_size']}{rounded} = {plan['share']} x {plan['processes']} process(es){micro}, "
        f"{plan['device']}, {precision}\n"
        f"  steps   {plan['steps']} ({plan['steps_per_epoch']} an epoch), warm-up {plan['warmup_steps']}, "
        f"peak rate {plan['peak_lr']:.4g}\n"
        f"  floor   no loss below {plan['loss_lower_bound']:.2f} with this batch and expander"
    )
    log_progress(begin, plan["steps"])


def log_progress(begin, steps):
    """Say where a run goes on, unless it begins."""
    if begin >= steps:
        log(f"  done    {begin} of {steps} steps; nothing left to do")
    elif begin:
        log(f"  resume  from step {begin}")


def get_parser(description, augment="vicreg"):
    """Arguments that every pretraining script has; scripts add those of their data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run = add_run_arguments(parser, "weights, order and augmentation")
    run.add_argument("--probe-every", type=int, default=10, help="epochs between kNN probes; 0: none")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="resnet50", help="backbone, any timm name")
    model.add_argument("--in-chans", type=int, default=3, help="channels of the images")
    model.add_argument("--init-from", help="weights to begin with: a file that --pretrained takes, or imagenet")
    model.add_argument("--mlp", default="8192-8192-8192", help="widths of the expander; see the README on the floor")
    loss = parser.add_argument_group("loss")
    loss.add_argument("--sim-coeff", type=float, default=25.0, help="weight of the invariance term")
    loss.add_argument("--std-coeff", type=float, default=25.0, help="weight of the variance term")
    loss.add_argument("--cov-coeff", type=float, default=1.0, help="weight of the covariance term")
    data = parser.add_argument_group("views")
    data.add_argument("--augment", default=augment, choices=list(presets.PRESETS), help="augmentation regime")
    data.add_argument(
        "--augment-set", nargs="+", default=[], metavar="NUMBER=VALUE",
        help="change numbers of the regime: scale=0.3,1 for both views, 2.blur_p=0 for the second",
    )  # fmt: skip
    data.add_argument("--image-size", type=int, help="side of the views in pixels (default: 7/8 of the image's)")
    data.add_argument("--workers", type=int, default=2, help="loading processes for each training process")
    data.add_argument("--store", choices=["disk", "device"], default="disk", help="device: all patches in its memory")
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--epochs", type=int, default=100, help="passes over the data")
    optim.add_argument("--batch-size", type=int, default=256, help="samples of all processes together")
    optim.add_argument(
        "--accumulate", type=int, default=1, metavar="K",
        help="micro-batches of a process's share: the same gradient (BatchNorm's statistics are a micro-batch's), "
        "less memory, twice the forward passes",
    )  # fmt: skip
    optim.add_argument(
        "--optimizer", choices=["lars", "adamw"], default="lars",
        help="lars as in the paper; adamw learns faster in short runs with small batches (--base-lr 0.002 --wd 0.01)",
    )  # fmt: skip
    optim.add_argument("--base-lr", type=float, default=0.3, help="peak rate for 256 samples; scales with the batch")
    optim.add_argument("--wd", type=float, default=1e-6, help="weight decay")
    optim.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    optim.add_argument("--compile", action="store_true", help="torch.compile the network")
    distributed.add_arguments(parser)
    return parser
