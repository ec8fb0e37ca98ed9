"""Preemption signals and diverged losses: noticed by all processes at the same step, without stalling a GPU."""

import math
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import torch

from vicreg.common.devices import send
from vicreg.common.files import write_text
from vicreg.distributed.process_group import all_reduce, is_main, synchronize
from vicreg.engine import checkpoint

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
_REPEAT_SECONDS = 2.0  # within this time a second signal is the launcher's, which passes on the terminal's Ctrl-C
MARKER_FILE = "interrupted"  # in the run folder while a preempted run waits for its restart


class PreemptionGuard:
    """Watch the loss of each step and the signals to save and exit, in agreement of all processes.

    The signals are SIGTERM, SIGUSR1, SIGINT (Ctrl-C) and SIGHUP. The latter two stay ignored where they are (``nohup``,
    jobs in the background); SIGUSR1 does not, since job scripts ignore it for torchrun. The end of the torchrun that
    started this process counts as SIGTERM. A second signal (not SIGUSR1) ends the process at once.

    Values of a step are read before the next step begins, from a copy made during the backward pass, so that reading
    them does not stall a GPU.

    Args:
        device: Device of this process.
        folder: Run folder, whose checkpoint is set aside if its own weights gave a non-finite loss.

    Attributes:
        log_due: Whether a process asked for a log line at the last recorded step.
    """

    def __init__(self, device: torch.device, folder: str | Path | None = None) -> None:
        self._device, self._folder = device, folder
        self._signal, self._received, self.log_due = 0, 0.0, False
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._pending: tuple[int, torch.Tensor] | None = None
        self._copied: torch.cuda.Event | None = None
        may_stay_ignored = (signal.SIGINT, signal.SIGHUP)
        caught = [n for n in _SIGNALS if n not in may_stay_ignored or signal.getsignal(n) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._receive) for number in caught}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._received = number, time.monotonic()
        elif number != signal.SIGUSR1 and time.monotonic() - self._received > _REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def put(self, step: int, loss: torch.Tensor, log_due: bool = False) -> None:
        """Record a step's loss (a scalar), whether a signal was received, and ``log_due``. A collective call."""
        if self._launcher not in (None, os.getppid()):
            self._signal = self._signal or signal.SIGTERM
        loss = loss.detach().float()
        flags = send(torch.tensor([float(self._signal), float(log_due)]), self._device)
        flags = torch.cat([(~loss.isfinite()).float()[None], flags])
        values = torch.cat([all_reduce(flags, "max"), loss[None]])
        if self._device.type == "cuda":
            values = torch.empty(4, pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._pending = step, values

    def check(self) -> signal.Signals | None:
        """Read the values of the last recorded step.

        Returns:
            The signal that a process received, or None.

        Raises:
            FloatingPointError: The loss of a process is not finite.
        """
        if self._pending is None:
            return None
        if self._copied is not None:
            synchronize(self._copied)
        step, values = self._pending
        diverged, number, due, loss = values.tolist()
        self.log_due = bool(due)
        if diverged:
            if self._folder is not None and is_main():
                checkpoint.quarantine_checkpoint(self._folder, step)
            raise FloatingPointError(
                f"the loss is {'not finite' if math.isfinite(loss) else loss} at step {step}; the last good checkpoint "
                f"is kept. A lower --lr or a longer warm-up (more --epochs) helps most"
            )
        return signal.Signals(int(number)) if number else None

    def close(self) -> None:
        """Restore the signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def write_preempted_marker(folder: str | Path, number: signal.Signals, step: int) -> int:
    """Write the marker file of a preempted run, for job scripts: torchrun exits with 1 whatever its processes return.

    Args:
        folder: Run folder.
        number: Signal that ended the run.
        step: Step of the checkpoint.

    Returns:
        The exit code, 128 + signal.
    """
    if is_main():
        write_text(Path(folder) / MARKER_FILE, f"{number.name} at step {step}\n")
    return 128 + number


def clear_preempted_marker(folder: str | Path) -> None:
    """Remove the marker when a run resumes.

    ``torchrun --max-restarts`` restarts a preempted run at once, as if it had failed; such a restart exits here again.
    """
    path = Path(folder) / MARKER_FILE
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and path.is_file():
        name = path.read_text(errors="replace").partition(" ")[0]
        if name in signal.Signals.__members__:  # else the file is damaged
            sys.exit(128 + signal.Signals[name])
    if is_main():
        path.unlink(missing_ok=True)
