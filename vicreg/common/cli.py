"""Run a script's ``main`` and end it with one line, not a traceback, on a mistake of the user."""

import argparse
import errno
import io
import math
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from vicreg import distributed
from vicreg.common import provenance
from vicreg.common.config import flag_of
from vicreg.common.files import printable

Namespace = TypeVar("Namespace")

_ADVICE = {
    errno.ENOSPC: "free some space there or choose another --exp-dir",
    errno.EDQUOT: "free some space there or choose another --exp-dir",
    errno.EFBIG: "raise the limit on the size of files or choose another --exp-dir",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change its permissions or choose another",
    errno.EPERM: "change its permissions or choose another",
}
_MEMORY_ADVICE = {  # options that lower the memory of a step, by the argument that shows whether a script has them
    "batch_size": "a smaller --batch-size",
    "accumulate": "--accumulate K (the same batch in K micro-batches)",
    "image_size": "a smaller --image-size",
    "cache_on_device": "no --cache-on-device",
}
_MAX_INT = 2**31 - 1
_MAX_WORKERS = 1024


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Append the default to each help text that does not name it, unless it is None or empty and needs no mention."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if "default" in text or (action.default in (None, []) and "None" not in text):
            return action.help
        return super()._get_help_string(action)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; refuse numbers with which no option works: NaN, infinite, negative or huge ones.

    Options of ``type=int`` take 0 to 2**31 - 1, those of ``type=float`` any finite number. ``--workers`` is limited to
    1024, since every worker is a process or a thread.

    Args:
        parser: Parser of the script.
        arguments: Words of the command line, by default those of the process.
    """
    parser.register("type", int, _whole_number)
    parser.register("type", float, _finite_number)
    namespace = parser.parse_args(arguments)
    if getattr(namespace, "workers", 0) > _MAX_WORKERS:
        parser.error(f"argument --workers: {namespace.workers}: must be {_MAX_WORKERS} or less")
    return namespace


def _whole_number(text: str) -> int:
    if not 0 <= int(text) <= _MAX_INT:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more and at most {_MAX_INT}")
    return int(text)


def _finite_number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text}: must be finite")
    return float(text)


def run(main: Callable[[Namespace], Any], namespace: Namespace) -> Any:
    """Call ``main(namespace)``; report an error of the user in one line on stderr and exit with code 1.

    How the script ends is written to the provenance of its run folder.

    ``ValueError`` and ``OSError`` are what modules raise for wrong input. Out-of-memory errors, failed collectives and
    failed loader processes are reported in the same way. Any other exception keeps its traceback, and so do all if
    ``TRACEBACK`` is set. The exit code is 130 after Ctrl-C and 141 if the reader of stdout has gone, as in ``| head``.

    Args:
        main: Function of the script.
        namespace: Its parsed arguments.

    Returns:
        What ``main`` returns.
    """
    threading.excepthook = _handle_thread_exception
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows other characters as escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        result = main(namespace)
        provenance.finish()
        sys.stdout.flush()
        return result
    except SystemExit as error:
        provenance.finish(*provenance.exit_status(error.code))
        distributed.destroy(wait=True)
        raise
    except KeyboardInterrupt:
        provenance.finish("stopped", "SIGINT")
        if _local_rank() == 0:
            _print_error("interrupted")
        _exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_stdout_closed():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python reports it again at exit
            provenance.finish("stopped", "SIGPIPE")
            _exit(128 + signal.SIGPIPE)
        collective = distributed.collective_error(error)
        expected = isinstance(error, (ValueError, OSError, FloatingPointError))
        expected = expected or bool(out_of_memory(error) or loader_error(error))
        message = _explain_collective(collective) if collective else explain(error, namespace)
        provenance.finish("failed", message if collective or expected else f"{type(error).__name__}: {message}")
        if os.environ.get("TRACEBACK") or not (collective or expected):
            if distributed.world_size() == 1:
                raise
            traceback.print_exc()
        else:
            _wait_for_launcher(bool(collective))
            _print_error(message)
        _exit(1)


def explain(error: BaseException, namespace: Any) -> str:
    """Return an error's message with what to do about it.

    Args:
        error: A user's mistake, an error of the operating system or an out-of-memory error.
        namespace: Arguments of the script; ``exp_dir`` names the folder for errors that do not name a file.
    """
    memory = out_of_memory(error)
    if memory:
        given = getattr(namespace, "__dict__", {})
        advice = [text for name, text in _MEMORY_ADVICE.items() if given.get(name, False) is not False]
        return f"{memory}; reduce it with {', '.join(advice) or 'smaller batches or images'}"
    if lost := loader_error(error):
        return lost
    if "in DataLoader worker process" in str(error):  # the message is a traceback, its last line the reason
        return str(error).strip().rpartition("\n")[2].partition(": ")[2]
    action = _ADVICE.get(getattr(error, "errno", None) or 0)
    if action is None or not isinstance(error, OSError):
        return str(error)
    return f"{error.strerror}: {error.filename or getattr(namespace, 'exp_dir', None)}; {action}"


def out_of_memory(error: BaseException) -> str | None:
    """Describe an out-of-memory error of a GPU or of the host in one line; None for any other error."""
    message = str(error).partition("\n")[0]
    request = re.search(r"Tried to allocate [\d.]+ \w+|tried to allocate \d+ bytes|Unable to allocate .*", message)
    on_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
    if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in message):
        return None
    return f"out of {'GPU' if on_gpu else 'host'} memory{f' ({request[0]})' if request else ''}"


def loader_error(error: BaseException) -> str | None:
    """Describe a loader process that died or does not answer in one line; None for any other error."""
    message = str(error).strip().partition("\n")[0].rstrip(". ")
    if not (isinstance(error, RuntimeError) and message.startswith(("DataLoader ", "unable to allocate shared"))):
        return None
    return f"{message}: out of memory, or a disk that does not answer; --workers 0 loads without further processes"


def _explain_collective(message: str) -> str:
    if "timed out" in message.lower():
        message += "; if it was only slow, raise --timeout-minutes"
    return f"lost contact with another process ({message}); started again, training resumes from its last checkpoint"


def _handle_thread_exception(failure: threading.ExceptHookArgs) -> None:
    """Hide the traceback of TensorBoard's writing thread on a full disk: the main thread gets that error too."""
    if getattr(failure.exc_value, "errno", None) not in _ADVICE or os.environ.get("TRACEBACK"):
        threading.__excepthook__(failure)


def _is_stdout_closed() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def _wait_for_launcher(collective: bool) -> None:
    """Wait before reporting an error, in all processes of a machine but the first.

    If they all fail for the same reason, the first one reports it and the launcher ends the others while they wait. A
    process that fails alone reports the error itself. A failed collective follows from another process's error, so that
    local rank 0 waits as well.
    """
    if _local_rank() or collective:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        # before the first collective, slow imports may separate the processes by seconds
        time.sleep(2 + 0.5 * _local_rank() if collective else 10 + _local_rank())


def _print_error(message: str) -> None:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f"rank {rank} on {socket.gethostname()}: "
    print(f"{Path(sys.argv[0]).stem}: {where}{printable(message)}", file=sys.stderr, flush=True)


def _exit(code: int) -> NoReturn:
    if distributed.world_size() > 1:  # do not wait for a process group whose other members may have failed
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def check_positive(namespace: Any, *names: str) -> None:
    """Check that numbers and lists of numbers are positive, where they are given.

    Args:
        namespace: Parsed arguments or a configuration.
        *names: Attributes of it.

    Raises:
        ValueError: A number is zero, negative, infinite or NaN.
    """
    _check(namespace, names, lambda number: 0 < number < math.inf, "must be positive")


def check_not_negative(namespace: Any, *names: str) -> None:
    """Check that numbers are 0 or more and finite, as ``check_positive`` does."""
    _check(namespace, names, lambda number: 0 <= number < math.inf, "must be 0 or more")


def _check(namespace: Any, names: Sequence[str], is_valid: Callable[[float], bool], rule: str) -> None:
    for name in names:
        value = getattr(namespace, name)
        if value is not None and not all(map(is_valid, value if isinstance(value, (list, tuple)) else [value])):
            raise ValueError(f"{flag_of(name)} {value}: {rule}")


def to_serializable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as values that JSON and ``torch.load(weights_only=True)`` accept."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
