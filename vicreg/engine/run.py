"""What a training run is made of, new or as its folder has it, and how it is kept."""

import math
import os
import signal
import sys
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel

from vicreg import distributed
from vicreg.common import checkpoint_io
from vicreg.common.logger import lock_run_dir, log
from vicreg.distributed.process_group import all_reduce, is_main
from vicreg.engine import checkpoint
from vicreg.engine.checkpoint import save_state, strip_module_prefix
from vicreg.engine.config import set_deterministic
from vicreg.engine.optim import build_optimizer
from vicreg.models.backbones import create_backbone, init_backbone
from vicreg.models.vicreg import VICReg, parse_mlp

TODAYS = ("weight_decay", "momentum")  # what a run that goes on takes from its arguments, as it does the rate


def open_run(args):
    """Join the other processes and claim the run's folder, before anything there is read: reading tidies up.

    Returns:
        torch.device of this process, and the lock, to be closed at the end; None but on the main process.
    """
    set_deterministic(args.deterministic)
    device = distributed.init(args.device, args.local_rank, args.timeout_minutes)
    lock = lock_run_dir(args.exp_dir) if distributed.is_main() else None
    clear_preempted_marker(args.exp_dir)
    return device, lock


def build(args, plan, device, earlier):
    """Model and optimizer, fresh or as the run's checkpoint has them, and the step to begin with."""
    torch.manual_seed(args.seed)
    model = VICReg(create_backbone(args.arch, args.in_chans), parse_mlp(args.mlp))
    return restore(model, args, device, earlier, lambda placed: build_optimizer(args.optimizer, placed, args.wd))


def restore(model, args, device, earlier, make_optimizer):
    """Give a new model (with a ``backbone``) its first or its earlier weights and its place; see ``build``."""
    if args.init_from and not earlier:
        log(init_backbone(model.backbone, args.init_from, args.arch, args.in_chans))
    return to_device(model, device, earlier, make_optimizer, args.compile)


def to_device(model, device, earlier, make_optimizer, compiled=False):
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
    model.load_state_dict(strip_module_prefix(earlier["model"]))
    today = [{name: group[name] for name in TODAYS if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(earlier["optimizer"])
    for group, numbers in zip(optimizer.param_groups, today, strict=True):
        group.update(numbers)
    return model, optimizer, earlier["step"]


class _DDPBucketWarmup(torch.nn.Module):
    """A network that answers a call without input with a sum over its parameters, whose gradient is 0."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        if inputs:
            return self.network(*inputs)
        return 0.0 * sum(p.sum() for p in self.network.parameters() if p.requires_grad)


def wrap_ddp(model, device):
    """The model as all processes train it together: gradients are averaged over them.

    After its first backward pass DistributedDataParallel sorts the gradients into buckets anew, and from three
    processes on a number's place in its bucket decides in which order it is added up. A run that is started again would
    then take its first step with other sums than the undisturbed run; so that pass is made here, before any step.
    """
    if distributed.world_size() == 1:
        return model
    on_gpu = {"device_ids": [device]} if device.type == "cuda" else {}
    parallel = DistributedDataParallel(_DDPBucketWarmup(model), gradient_as_bucket_view=True, **on_gpu)
    parallel().backward()
    for parameter in model.parameters():
        parameter.grad = None
    return parallel


def save_checkpoint(args, plan, model, optimizer, dataset, step, **more):
    """Write the checkpoint (with ``more`` plain values), and the backbone file when the run is done."""
    if not distributed.is_main():
        return
    described = {"arch": args.arch, "in_chans": args.in_chans, "mean": dataset.mean, "std": dataset.std}
    described["source"] = f"{plan['source']}, {args.augment} views, step {step} of {plan['steps']}"
    more |= {"batch_size": plan["batch_size"], "steps": plan["steps"], "backbone": described}
    save_state(args, model, optimizer, step, **more)
    if step == plan["steps"]:
        checkpoint.save_backbone(args.exp_dir / checkpoint_io.BACKBONE_FILE, model.backbone, **described)


NOTE_FILE = "interrupted"  # in a run's folder, while a run that a signal ended waits to be started again


class PreemptionGuard:
    """Looks at each step's loss and at SIGTERM / SIGUSR1, and makes all processes see the same at the same step.

    What a step shows is read before the next one begins, from a copy made alongside the backward pass, so that
    watching does not stall a GPU.

    Args:
        device: of this process. rate_flag: what the user would lower if the loss were no number.
        folder: of the run, whose checkpoint is put aside if the very weights in it gave such a loss.
    """

    def __init__(self, device, rate_flag="--base-lr", folder=None):
        self._device, self._signal, self._rate_flag, self._folder = device, 0, rate_flag, folder
        self._pending = self._copied = None
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGUSR1)}

    def _note(self, number, frame):
        self._signal = number

    def put(self, step, loss):
        """Note a step's loss (scalar tensor, the same on all processes) and whether a signal has come in."""
        signals = torch.tensor(float(self._signal), device=self._device)
        values = torch.stack([loss.detach().float(), all_reduce(signals, "max")])
        if self._device.type == "cuda":
            values = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._pending = step, values

    def check(self):
        """Look at the last step put in.

        Returns:
            the ``signal.Signals`` that some process received, or None.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if self._pending is None:
            return None
        if self._copied is not None:
            distributed.synchronize(self._copied)
        step, values = self._pending
        loss, number = values.tolist()
        if not math.isfinite(loss):
            if self._folder is not None and is_main():
                checkpoint.quarantine_checkpoint(self._folder, step)
            raise FloatingPointError(
                f"the loss is {loss} at step {step}; the last good checkpoint is kept. A lower {self._rate_flag} or a "
                "longer warm-up (more --epochs) helps most"
            )
        return signal.Signals(int(number)) if number else None

    def close(self):
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)


def write_preempted_marker(folder, number, step):
    """Note in a run's folder that a signal ended it, for scripts that cannot see exit codes; then say the exit code.

    torchrun ends with 1 whatever its processes end with, so a job script asks for this file.

    Args:
        folder: of the run. number: ``signal.Signals``. step: where the checkpoint stands.

    Returns:
        the exit code, 128 + signal.
    """
    if is_main():
        (Path(folder) / NOTE_FILE).write_text(f"{number.name} at step {step}\n")
    return 128 + number


def clear_preempted_marker(folder):
    """Remove the note when a run goes on; but end again where only torchrun wants to go on.

    ``torchrun --max-restarts`` takes a run that a signal ended for one that failed, and starts it again at once.
    """
    path = Path(folder) / NOTE_FILE
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and path.is_file():
        sys.exit(128 + signal.Signals[path.read_text().split()[0]])
    if is_main():
        path.unlink(missing_ok=True)
