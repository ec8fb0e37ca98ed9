"""What downstream training scripts share: arguments, a run's folder, its loop, and checkpoints that prediction reads.

A task brings its data, its model and three functions (a batch's loss, a evaluation, the rate); the rest is here, once.
"""

import sys
import time

import torch

from vicreg import distributed
from vicreg.augmentations.batch import seed_step
from vicreg.common import checkpoint_io
from vicreg.common.cli import check_positive, to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import MetricLogger, lock_run_dir, log
from vicreg.engine import checkpoint, parallel
from vicreg.engine.arguments import add_run_arguments
from vicreg.engine.checkpoint import strip_module_prefix
from vicreg.engine.config import use_bf16
from vicreg.engine.preemption import PreemptionGuard, clear_preempted_marker, write_preempted_marker
from vicreg.models.backbones import PARAMETER_FREE, create_backbone, load_backbone

WEIGHTS = ("pretrained", "arch")  # what a folder's run cannot change; tasks add theirs
PATH = ("batch_size", "epochs", "max_steps", "lr", "wd", "grad_clip", "seed", "precision")  # what only bends its path


def add_arguments(parser, epochs, batch_size, lr, wd=1e-4, grad_clip=0.0, pretrained_required=True):
    """Arguments of every downstream training script, with the task's own defaults.

    Args:
        pretrained_required: False where a task may begin with weights that it names otherwise.

    Returns:
        dict of the argument groups ``run, backbone, optim``, to add to.
    """
    run = add_run_arguments(parser, "random weights, split, order and augmentation")
    run.add_argument("--workers", type=int, default=2, help="loading processes; 0 loads in the training process")
    run.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: a GPU if there is one")
    run.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: bf16 on GPUs")
    backbone = parser.add_argument_group("backbone")
    backbone.add_argument(
        "--pretrained", required=pretrained_required,
        help="trained_model.pth, model.pth, a torchvision state dict, or a baseline: random, imagenet",
    )  # fmt: skip
    backbone.add_argument("--arch", help="backbone by timm name, where the file does not name it: resnet18, resnet50")
    parser.set_defaults(in_chans=3)
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--epochs", type=int, default=epochs, help="passes over the training samples")
    optim.add_argument("--batch-size", type=int, default=batch_size, help="samples of a step")
    optim.add_argument("--lr", type=float, default=lr, help="highest learning rate")
    optim.add_argument("--wd", type=float, default=wd, help="weight decay")
    optim.add_argument("--grad-clip", type=float, default=grad_clip, help="largest part of a gradient; 0: any")
    return {"run": run, "backbone": backbone, "optim": optim}


def open_run(args, task, weights=WEIGHTS, path_names=PATH):
    """Claim the run's folder, and read the run that is to go on there.

    Args:
        args: with those of ``add_arguments``. task: name of the task, in checkpoints and messages.
        weights, path_names: names of arguments; see ``vicreg.engine.checkpoint.check_same_run``.

    Returns:
        torch.device, the lock (to be closed at the end), and the earlier run's state; empty for a new run.

    Raises:
        ValueError: arguments that cannot work; the folder holds something else, or another process writes there now.
    """
    check_positive(args, ("epochs", "batch_size", "lr", "max_steps", "checkpoint_every"))
    if args.wd < 0 or args.grad_clip < 0 or args.workers < 0:
        raise ValueError("--wd, --grad-clip and --workers must be 0 or more")
    torch.use_deterministic_algorithms(args.deterministic, warn_only=True)
    device = distributed.init(args.device)
    if distributed.world_size() > 1:
        raise ValueError(f"{task} is trained by one process; start it without torchrun, or with --nproc-per-node 1")
    lock = lock_run_dir(args.exp_dir)
    clear_preempted_marker(args.exp_dir)
    earlier = read_checkpoint(args, device, task, "pretrained", weights, path_names)
    if earlier and earlier.get("task", {}).get("name") != task:
        raise ValueError(f"{args.exp_dir} holds a run of another task; choose another --exp-dir")
    return device, lock, earlier


def build_backbone(args, earlier):
    """The backbone to begin with, or one of the earlier run's shape: its weights come with the checkpoint.

    Returns:
        (backbone, about): a dict of ``arch, in_chans, mean, std, source`` for checkpoints; mean and std are None where
        the weights want no particular normalization.

    Raises:
        FileNotFoundError, ValueError: as ``vicreg.models.backbones.load_backbone``.
    """
    if earlier:
        about = earlier["backbone"]
        return create_backbone(about["arch"], about["in_chans"]), about
    if args.pretrained in PARAMETER_FREE:
        raise ValueError(f"--pretrained {args.pretrained} has no weights; a file, 'random' or 'imagenet' is needed")
    backbone, info = load_backbone(args.pretrained, args.arch, args.in_chans, args.seed)
    log(info["report"])
    return backbone, {key: info[key] for key in ("arch", "in_chans", "mean", "std", "source")}


def plan_steps(args, samples, device, task):
    """Work out the steps of a run, and keep them with the arguments in ``args.json``.

    Returns:
        dict: ``task, samples, device, batch_size, share`` (the same: there is one process), ``steps_per_epoch, steps,
        bf16, checkpoint_every``.

    Raises:
        ValueError: the samples do not fill a batch.
    """
    per_epoch, steps = count_steps(samples, args.batch_size, args.epochs, args.max_steps)
    plan = {"task": task, "samples": samples, "batch_size": args.batch_size, "share": args.batch_size}
    plan["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    plan |= {"steps_per_epoch": per_epoch, "steps": steps, "bf16": use_bf16(args.precision, device)}
    plan["checkpoint_every"] = args.checkpoint_every or per_epoch
    write_json(args.exp_dir / "args.json", {"args": to_serializable(vars(args)), "plan": plan})
    return plan


def log_steps(plan, exp_dir, begin):
    """Say how long a run is, and where it goes on."""
    log(
        f"{plan['task']} -> {exp_dir}\n"
        f"  batch   {plan['batch_size']}, {plan['device']}, {'bf16 autocast' if plan['bf16'] else 'fp32'}\n"
        f"  steps   {plan['steps']} ({plan['steps_per_epoch']} an epoch, {plan['samples']} samples)"
    )
    log_progress(begin, plan["steps"])


def fit(args, plan, model, optimizer, loader, rate_at, loss_of, judge, figure, about, earlier):
    """Train from where the run stands to its end: the loop of all downstream tasks.

    A run that is killed at any step and started again gives the same weights: ``loader`` has to begin at the earlier
    run's step (``CountedBatches``), and what is random has to be counted from (seed, step).

    Args:
        args: with those of ``add_arguments``. plan: of ``plan_steps``.
        model, optimizer: of ``vicreg.engine.run.to_device``.
        loader: iterable of batches. rate_at: function (step) -> learning rate, for all groups (times their ``scale``).
        loss_of: function (batch, step) -> (loss, dict of scalar tensors to log); called within autocast.
        judge: function () -> dict of plain figures, scalars are logged; called after each epoch and at the end.
        figure: which of them says what is best, more is better.
        about: dict of plain values that go into each checkpoint: ``backbone`` (see ``build_backbone``) and ``task``
            (``name`` and all that prediction needs).
        earlier: of ``open_run``.

    Returns:
        (last, best): figures of the last and the best epoch, each with its ``epoch`` and ``step``.

    Raises:
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    device = next(model.parameters()).device
    begin, last, best = (earlier.get(key) for key in ("step", "last", "best"))
    watch, metric_logger = (
        PreemptionGuard(device, "--lr", args.exp_dir),
        MetricLogger(args.exp_dir, begin or 0, plan["steps"]),
    )
    batches = iter(loader)
    model.train()
    for step in range(begin or 0, plan["steps"]):
        if interrupted := watch.check():  # what the step before showed
            save_state(args, model, optimizer, step, steps=plan["steps"], last=last, best=best, **about)
            log(f"{interrupted.name}: saved at step {step}; the same command goes on from here")
            sys.exit(write_preempted_marker(args.exp_dir, interrupted, step))
        tick = time.perf_counter()
        batch = next(batches)
        waited, rate = time.perf_counter() - tick, rate_at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.zero_grad()
        seed_step(args.seed, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan["bf16"]):
            loss, seen = loss_of(batch, step)
        loss.backward()
        if args.grad_clip:
            torch.nn.utils.clip_grad_value_(model.parameters(), args.grad_clip)
        watch.put(step, loss)
        optimizer.step()

        done, epoch = step + 1, step // plan["steps_per_epoch"]
        ends = done % plan["steps_per_epoch"] == 0 or done == plan["steps"]
        metric_logger.add({"loss": loss, **seen}, waited)
        if ends or metric_logger.seconds >= args.log_freq_time:
            line = {"epoch": epoch, "step": done, "lr": rate, **metric_logger.averages(plan["batch_size"], "images")}
            if ends:
                watch.check()  # a network that is no number has nothing to be judged
                last = {"epoch": epoch, "step": done, **judge()}
                model.train()
                line |= {key: value for key, value in last.items() if isinstance(value, (int, float))}
                if best is None or last[figure] > best[figure]:
                    best = last
                    save_best(args, model, best, **about)
            metric_logger.write(line)
            metric_logger.restart_clock()
        if done == plan["steps"] or done % plan["checkpoint_every"] == 0:
            watch.check()  # never keep weights of a loss that is not finite
            save_state(args, model, optimizer, done, steps=plan["steps"], last=last, best=best, **about)
    watch.close()
    metric_logger.close()
    return last, best


LENGTH = ("epochs", "max_steps")  # what makes a finished run longer


def check_same_run(earlier, now, exp_dir, weights, path, finished=False):
    """Compare the arguments of a folder's run with today's.

    Args:
        earlier, now: dicts. weights, path: names of arguments that must agree, and of those whose change is noted.
        finished: whether the run came to its end. Then those of ``path`` have to agree too, but for its length: there
            is nothing left that a change could act on, and the figures would be put down to what did not make them.

    Raises:
        ValueError: the weights would not fit, or the run is finished and was another one.
    """
    for name in weights:
        if name in earlier and earlier[name] != now[name]:
            raise ValueError(
                f"{exp_dir} holds a run with --{name.replace('_', '-')} {earlier[name]}, not {now[name]}; "
                "choose another --exp-dir or the same value"
            )
    for name in path:
        if name in earlier and earlier[name] != to_serializable(now).get(name):
            flag = f"--{name.replace('_', '-')}"
            if finished and name not in LENGTH:
                raise ValueError(
                    f"{exp_dir} holds a finished run with {flag} {earlier[name]}, not {now.get(name)}; choose another "
                    "--exp-dir or the same value"
                )
            log(f"note: {flag} was {earlier[name]} when this run began and is {now.get(name)} now")


def read_checkpoint(args, device, kind, mark, weights, path_names):
    """The run that is to go on in ``args.exp_dir``: its checkpoint, with its ``batch_size``; empty for a new run.

    Args:
        kind: of run, in words. mark: an argument that only such runs have. weights, path_names: see ``check_same_run``.

    Raises:
        ValueError: the folder holds something else.
    """
    state, path = checkpoint.load_latest(args.exp_dir, device)
    if state is None:
        return {}
    if not {"model", "optimizer", "step", "args"} <= state.keys() or mark not in state["args"]:
        raise ValueError(f"{path} is no checkpoint of a {kind} run; choose another --exp-dir")
    finished = state["step"] >= state.get("steps", state["step"] + 1)
    check_same_run(state["args"], vars(args), args.exp_dir, weights, path_names, finished)
    if state["args"]["batch_size"] != args.batch_size:
        state.pop("batch_size", None)  # another one is wanted now
    return state


def save_state(args, model, optimizer, step, **more):
    """Write ``model.pth``: all that is needed to go on from a step, with ``more`` plain values."""
    state = {
        "model": checkpoint.add_module_prefix(model),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "args": to_serializable(vars(args)),
    }
    checkpoint_io.save({**state, **more}, args.exp_dir / checkpoint_io.MODEL_FILE, previous=checkpoint.PREVIOUS_FILE)


def save_best(args, model, figures, **about):
    """Write ``best_model.pth``: weights, the figures that they reached, and what prediction needs."""
    payload = {
        "model": checkpoint.add_module_prefix(model),
        "args": to_serializable(vars(args)),
        "figures": figures,
        **about,
    }
    checkpoint_io.save(payload, args.exp_dir / checkpoint.BEST_FILE)


def count_steps(samples, batch_size, epochs, max_steps=None):
    """Steps of an epoch and of the run, both whole.

    Raises:
        ValueError: the samples do not fill one batch.
    """
    if samples < batch_size:
        raise ValueError(f"{samples} samples do not fill a batch of {batch_size}; lower --batch-size")
    per_epoch = samples // batch_size
    return per_epoch, min(epochs * per_epoch, max_steps or epochs * per_epoch)


def log_progress(begin, steps):
    """Say where a run goes on, unless it begins."""
    if begin >= steps:
        log(f"  done    {begin} of {steps} steps; nothing left to do")
    elif begin:
        log(f"  resume  from step {begin}")


def to_device(model, device, earlier, make_optimizer):
    """Bring a model to its device, with the earlier run's weights and optimizer if there was one."""
    model = parallel.to_device(model, device)
    optimizer = make_optimizer(model)
    if not earlier:
        return model, optimizer, 0
    model.load_state_dict(strip_module_prefix(earlier["model"]))
    today = [
        {name: group[name] for name in ("weight_decay", "momentum") if name in group}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(earlier["optimizer"])
    for group, numbers in zip(optimizer.param_groups, today, strict=True):
        group.update(numbers)
    return model, optimizer, earlier["step"]
