"""Files that hold weights: written whole or not at all, read as plain tensors and values, never unpickled."""

import hashlib
import os
from pathlib import Path

import torch

from vicreg import distributed
from vicreg.common import checkpoint_io
from vicreg.common.checkpoint_io import MODEL_FILE, check_sums, load, save
from vicreg.common.cli import to_serializable
from vicreg.common.files import remove_partial_files
from vicreg.common.logger import log

PREVIOUS_FILE = "model.previous.pth"  # the one before, should a power cut spoil the last one
DIVERGED_FILE = "model.diverged.pth"  # the last one, where its weights gave a loss that is no number


def quarantine_checkpoint(folder, step):
    """Rename a run's last checkpoint if it is of this step, so that the one before counts. For the main process.

    The loss at a step is that of the weights which the checkpoint of this step holds.

    Args:
        folder: of the run. step: at which the loss was not finite.
    """
    path = Path(folder) / MODEL_FILE
    if path.is_file() and load(path)["step"] == step:
        os.replace(path, path.with_name(DIVERGED_FILE))


def load_latest(folder, map_location="cpu"):
    """Read a run's last checkpoint, or, if that one is damaged, the one before. To be called by all processes.

    The first process chooses, so that all go on from the same step. It moves a damaged file aside, and removes what a
    killed run left half written.

    Args:
        folder: of the run. map_location: where tensors go; also where the processes tell each other the choice.

    Returns:
        (state, path), or (None, None) where there is no checkpoint.

    Raises:
        ValueError: no file is readable, with the reason for the last one.
        FileNotFoundError: the first process found a checkpoint that this one cannot see.
    """
    paths = [Path(folder) / MODEL_FILE, Path(folder) / PREVIOUS_FILE]
    number, state = _choose(paths, map_location) if distributed.is_main() else (0, None)
    number = int(distributed.all_reduce(torch.tensor(number, device=map_location), "max"))
    if not number:
        return None, None
    path = paths[number - 1]
    if state is None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is on the first machine only; --exp-dir must be a folder that all share")
        state = load(path, map_location)
    return state, path


def _choose(paths, map_location):
    """(1 or 2, state) of the first of two paths that is whole, or (0, None) where neither is there."""
    remove_partial_files(paths[0].parent)
    problem = None
    for number, path in enumerate(paths, 1):
        if not path.exists():
            continue
        try:
            check_sums(path)
            state = load(path, map_location)
        except ValueError as error:
            problem = problem or error
            continue
        if number == 2:
            if problem:
                broken = paths[0].with_name(f"{paths[0].name}.broken")
                os.replace(paths[0], broken)
                log(f"note: {problem}; moved to {broken.name}")
            log(f"note: going on from the checkpoint before, {path}")
        return number, state
    if problem:
        raise ValueError(f"{problem}; there is no other to go on from: move it away or choose another --exp-dir")
    return 0, None


def save_backbone(path, backbone, arch, in_chans, mean, std, source):
    """Write a backbone for other scripts and libraries.

    Args:
        path: usually ``<exp-dir>/trained_model.pth``.
        backbone: module whose keys are timm's and torchvision's names.
        arch: timm name. in_chans: input channels. mean, std: lists per channel, of pixels in [0, 1].
        source: a line that says how these weights came about.
    """
    state = {key: value.detach().cpu().clone() for key, value in backbone.state_dict().items()}
    payload = {"arch": arch, "in_chans": in_chans, "mean": list(mean), "std": list(std), "source": source}
    save({**payload, "state_dict": state}, path)


# A run cannot go on with other weights than it began with; other numbers only bend its path.
WEIGHTS = ("arch", "mlp", "in_chans", "optimizer")
PATH = (
    ("batch_size", "epochs", "max_steps", "base_lr", "wd", "seed", "precision")
    + ("augment", "augment_set", "image_size", "positives", "max_months_apart")
    + ("sim_coeff", "std_coeff", "cov_coeff", "accumulate", "init_from")
)
LENGTH = ("epochs", "max_steps")  # what makes a finished run longer


def check_same_run(earlier, now, exp_dir, weights=WEIGHTS, path=PATH, finished=False):
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


def read_checkpoint(args, device, kind="pretraining", mark="mlp", weights=WEIGHTS, path_names=PATH):
    """The run that is to go on in ``args.exp_dir``: its checkpoint, with its ``batch_size``; empty for a new run.

    Args:
        kind: of run, in words. mark: an argument that only such runs have. weights, path_names: see ``check_same_run``.

    Raises:
        ValueError: the folder holds something else.
    """
    state, path = load_latest(args.exp_dir, device)
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
        "model": add_module_prefix(model),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "args": to_serializable(vars(args)),
    }
    checkpoint_io.save({**state, **more}, args.exp_dir / checkpoint_io.MODEL_FILE, previous=PREVIOUS_FILE)


def add_module_prefix(model):
    """A model's state dict as a model that many processes train names it."""
    return {f"module.{key}": value for key, value in model.state_dict().items()}


def strip_module_prefix(state):
    """The same the other way round: names as the model itself has them."""
    return {key.removeprefix("module."): value for key, value in state.items()}


BEST_FILE = "best_model.pth"  # the epoch that was judged best, without what is needed to go on


def samples_digest(train, val):
    """Fingerprint of a division: lists of names (without the folder of the data, which may move) -> hexadecimal str."""
    return hashlib.sha256("\n".join([*train, "", *val]).encode()).hexdigest()[:16]


def check_samples(earlier, digest, exp_dir):
    """Refuse to go on with other samples: figures would be told of images that the weights were trained on.

    Args:
        earlier: of ``open_run``. digest: of ``samples_digest``, which a checkpoint's ``task`` keeps as ``samples``.

    Raises:
        ValueError: the folder's run had other samples, or divided them otherwise.
    """
    if earlier and earlier["task"].get("samples", digest) != digest:
        raise ValueError(
            f"{exp_dir} holds a run with other training or validation samples; choose another --exp-dir, or the same "
            "data and split"
        )


def save_best(args, model, figures, **about):
    """Write ``best_model.pth``: weights, the figures that they reached, and what prediction needs."""
    payload = {"model": add_module_prefix(model), "args": to_serializable(vars(args)), "figures": figures, **about}
    checkpoint_io.save(payload, args.exp_dir / BEST_FILE)


def load_task(path, task, device="cpu"):
    """Read a checkpoint of a downstream run, ``best_model.pth`` or ``model.pth``.

    Args:
        path: the file. task: name that the run was opened with. device: where tensors go.

    Returns:
        (weights, about): state dict of the model, and a dict with ``task``, ``backbone`` and ``args``.

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another kind; says what is needed.
    """
    payload = checkpoint_io.load(path, device)
    found = payload.get("task") if isinstance(payload, dict) else None
    if not isinstance(found, dict) or "model" not in payload:
        raise ValueError(
            f"{path} is no checkpoint of {task}: a backbone or a pretraining run perhaps; give the {BEST_FILE} or "
            f"{checkpoint_io.MODEL_FILE} that training on {task} wrote"
        )
    if found.get("name") != task:
        raise ValueError(f"{path} is a checkpoint of {found.get('name')}, not of {task}")
    return strip_module_prefix(payload["model"]), {key: payload[key] for key in ("task", "backbone", "args")}
