"""What a training run is made of, new or as its folder has it, and how it is kept."""

import torch
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel

from vicreg import checkpoint, distributed
from vicreg.backbone import create_backbone, initialise
from vicreg.interruption import heed_note
from vicreg.lars import LARS
from vicreg.model import VICReg, parse_mlp
from vicreg.plan import PATH, WEIGHTS, check_same_run, plain, settle_algorithms
from vicreg.run_log import claim, say

TODAYS = ("weight_decay", "momentum")  # what a run that goes on takes from its arguments, as it does the rate


def open_run(args):
    """Join the other processes and claim the run's folder, before anything there is read: reading tidies up.

    Returns:
        torch.device of this process, and the lock, to be closed at the end; None but on the main process.
    """
    settle_algorithms(args.deterministic)
    device = distributed.start(args.device, args.local_rank, args.timeout_minutes, args.lost_after)
    lock = claim(args.exp_dir) if distributed.is_main() else None
    heed_note(args.exp_dir)
    return device, lock


def read_earlier(args, device, kind="pretraining", mark="mlp", weights=WEIGHTS, path_names=PATH):
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


def build(args, plan, device, earlier):
    """Model and optimizer, fresh or as the run's checkpoint has them, and the step to begin with."""
    torch.manual_seed(args.seed)
    model = VICReg(create_backbone(args.arch, args.in_chans), parse_mlp(args.mlp))
    return settle(model, args, device, earlier, lambda placed: optimizer_for(args.optimizer, placed, args.wd))


def settle(model, args, device, earlier, make_optimizer):
    """Give a new model (with a ``backbone``) its first or its earlier weights and its place; see ``build``."""
    if args.init_from and not earlier:
        say(initialise(model.backbone, args.init_from, args.arch, args.in_chans))
    return place(model, device, earlier, make_optimizer, args.compile)


def place(model, device, earlier, make_optimizer, compiled=False):
    """Bring a model to its device, with the earlier run's weights and optimizer if there was one; see ``build``."""
    model = model.to(device, memory_format=torch.channels_last)  # faster for convolutions, on CPUs too
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        if distributed.world_size() > 1:
            model = convert_sync_batchnorm(model)  # timm's: torch's drops the activations of timm's fused norm layers
    if compiled:
        model.compile()
    optimizer = make_optimizer(model)
    if not earlier:
        return model, optimizer, 0
    model.load_state_dict(without_prefix(earlier["model"]))
    today = [{name: group[name] for name in TODAYS if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(earlier["optimizer"])
    for group, numbers in zip(optimizer.param_groups, today, strict=True):
        group.update(numbers)
    return model, optimizer, earlier["step"]


class _Asked(torch.nn.Module):
    """A network that answers a call without input with a sum over its parameters, whose gradient is 0."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        if inputs:
            return self.network(*inputs)
        return 0.0 * sum(p.sum() for p in self.network.parameters() if p.requires_grad)


def spread(model, device):
    """The model as all processes train it together: gradients are averaged over them.

    After its first backward pass DistributedDataParallel sorts the gradients into buckets anew, and from three
    processes on a number's place in its bucket decides in which order it is added up. A run that is started again would
    then take its first step with other sums than the undisturbed run; so that pass is made here, before any step.
    """
    if distributed.world_size() == 1:
        return model
    on_gpu = {"device_ids": [device]} if device.type == "cuda" else {}
    parallel = DistributedDataParallel(_Asked(model), gradient_as_bucket_view=True, **on_gpu)
    parallel().backward()
    for parameter in model.parameters():
        parameter.grad = None
    return parallel


def optimizer_for(name, model, weight_decay, momentum=0.9):
    """LARS as in the paper, AdamW, or SGD with a momentum; none decays vectors (biases, norms)."""
    if name == "lars":
        return LARS(model.parameters(), weight_decay=weight_decay)
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2]}, {"params": vectors, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay)


def save(args, plan, model, optimizer, dataset, step, **more):
    """Write the checkpoint (with ``more`` plain values), and the backbone file when the run is done."""
    if not distributed.is_main():
        return
    described = {"arch": args.arch, "in_chans": args.in_chans, "mean": dataset.mean, "std": dataset.std}
    described["source"] = f"{plan['source']}, {args.augment} views, step {step} of {plan['steps']}"
    more |= {"batch_size": plan["batch_size"], "steps": plan["steps"], "backbone": described}
    save_state(args, model, optimizer, step, **more)
    if step == plan["steps"]:
        checkpoint.save_backbone(args.exp_dir / checkpoint.BACKBONE_FILE, model.backbone, **described)


def save_state(args, model, optimizer, step, **more):
    """Write ``model.pth``: all that is needed to go on from a step, with ``more`` plain values."""
    state = {"model": with_prefix(model), "optimizer": optimizer.state_dict(), "step": step, "args": plain(vars(args))}
    checkpoint.save({**state, **more}, args.exp_dir / checkpoint.MODEL_FILE, previous=checkpoint.PREVIOUS_FILE)


def with_prefix(model):
    """A model's state dict as a model that many processes train names it."""
    return {f"module.{key}": value for key, value in model.state_dict().items()}


def without_prefix(state):
    """The same the other way round: names as the model itself has them."""
    return {key.removeprefix("module."): value for key, value in state.items()}
