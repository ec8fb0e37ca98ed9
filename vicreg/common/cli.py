"""How every script ends when something is wrong: one clear line, exit code 1, no traceback."""

import errno
import os
import re
import sys
import threading
import traceback
from pathlib import Path

import torch

from vicreg import distributed, heartbeat

ADVICE = {
    errno.ENOSPC: "free some space there, or choose another --exp-dir",
    errno.EDQUOT: "free some space there, or choose another --exp-dir",
    errno.EFBIG: "raise the limit on the size of files, or choose another --exp-dir",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change its permissions, or choose another",
    errno.EPERM: "change its permissions, or choose another",
}
SAVERS = {  # what lowers the memory of a step, where a script has it and does not do it yet
    "batch_size": "a smaller --batch-size",
    "accumulate": "--accumulate K (the same batch in K parts)",
    "image_size": "a smaller --image-size",
    "store": "--store disk",
}


def run(main, args):
    """Call ``main(args)``; turn errors that name a wrong input into a message on stderr and exit code 1.

    ``ValueError`` and ``OSError`` are what modules raise for bad input; memory that does not suffice is told in the
    same way. Set ``TRACEBACK=1`` to see where one came from. Of several processes that find the same mistake only the
    first prints. Where one process fails by itself, or is lost, all others end with it.
    """
    threading.excepthook = _thread_failed
    try:
        return main(args)
    except SystemExit:
        distributed.destroy()  # in order, on a signal: all processes together
        raise
    except BaseException as error:
        expected = isinstance(error, (ValueError, OSError, FloatingPointError)) or out_of_memory(error)
        cut_off = distributed.is_collective_error(error)
        if os.environ.get("TRACEBACK") or not (expected or cut_off):
            if heartbeat.running() is None:
                raise
            traceback.print_exc()  # before the others know: when they end, launchers kill who is left
            heartbeat.running().fail(repr(error), print_it=False)
        elif cut_off:
            _end_cut_off(cut_off)
        else:
            _complain(explain(error, args))
        sys.exit(1)


def explain(error, args):
    """An error's message, with what to do where it does not say it.

    Args:
        error: the exception. args: of the script; ``exp_dir`` is where it writes, for errors that do not name a file.
    """
    if out_of_memory(error):
        given = getattr(args, "__dict__", {})
        savers = [words for name, words in SAVERS.items() if name in given and not words.endswith(f" {given[name]}")]
        return f"{out_of_memory(error)}; less is needed with {', '.join(savers) or 'smaller batches or images'}"
    advice = ADVICE.get(getattr(error, "errno", None))
    if advice is None:
        return str(error)
    return f"{error.strerror}: {error.filename or getattr(args, 'exp_dir', None)}; {advice}"


def out_of_memory(error):
    """Which memory an error says is used up, and what was asked for, in one line; None for another error."""
    words = str(error).partition("\n")[0]
    asked = re.search(r"Tried to allocate [\d.]+ \w+|tried to allocate \d+ bytes|Unable to allocate .*", words)
    on_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
    if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in words):
        return None
    memory = "the GPU's memory" if on_gpu else "this machine's memory"
    return f"{memory} does not suffice{f' ({asked[0]})' if asked else ''}"


def _thread_failed(failure):
    """Hold back the traceback of TensorBoard's writing thread: the main thread meets the full disk as well."""
    if getattr(failure.exc_value, "errno", None) not in ADVICE or os.environ.get("TRACEBACK"):
        threading.__excepthook__(failure)


def _complain(words):
    if heartbeat.running() is not None:
        heartbeat.running().fail(words)
    elif _is_first():
        heartbeat.complain(words)


def _end_cut_off(words):
    """Say which process is missing, and end without waiting for a process group that is broken."""
    if "imed out" in words:
        words += "; --timeout-minutes allows more"
    if heartbeat.running() is not None:
        heartbeat.running().cut_off(words)
    elif _is_first():
        heartbeat.complain(f"lost contact with another process ({words}); {heartbeat.GO_ON}")
    sys.stdout.flush()
    os._exit(1)


def _is_first():
    """True in the first process of each machine: what is wrong on the second machine, the first cannot know."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    return rank == "0" or os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID")) == "0"


def positive(args, *names):
    """Make sure that arguments are more than zero, where they are given.

    Args:
        args: of a parser. names: of numbers and of lists of numbers.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not all(number > 0 for number in (value if isinstance(value, list) else [value])):
            raise ValueError(f"--{name.replace('_', '-')} {value}: more than zero is needed")


def check_positive(args, names):
    """Raise ValueError, with the flag, for an argument of these names that is given and not positive."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be positive")


def to_serializable(values):
    """Arguments as values that JSON and weights_only loading take."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
