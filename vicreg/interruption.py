"""Ending a run in order: on a signal (preemption, a job's time limit) or when the loss is no longer a number."""

import math
import os
import signal
import sys
from pathlib import Path

import torch

from vicreg import checkpoint
from vicreg.distributed import all_reduce, is_main

NOTE_FILE = "interrupted"  # in a run's folder, while a run that a signal ended waits to be started again


class Watch:
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
            self._copied.synchronize()
        step, values = self._pending
        loss, number = values.tolist()
        if not math.isfinite(loss):
            if self._folder is not None and is_main():
                checkpoint.put_aside(self._folder, step)
            raise FloatingPointError(
                f"the loss is {loss} at step {step}; the last good checkpoint is kept. A lower {self._rate_flag} or a "
                "longer warm-up (more --epochs) helps most"
            )
        return signal.Signals(int(number)) if number else None

    def close(self):
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)


def leave_note(folder, number, step):
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


def heed_note(folder):
    """Remove the note when a run goes on; but end again where only torchrun wants to go on.

    ``torchrun --max-restarts`` takes a run that a signal ended for one that failed, and starts it again at once.
    """
    path = Path(folder) / NOTE_FILE
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and path.is_file():
        sys.exit(128 + signal.Signals[path.read_text().split()[0]])
    if is_main():
        path.unlink(missing_ok=True)
