"""Signals and non-finite losses are noticed at the next step."""

import os
import signal
from contextlib import closing

import pytest
import torch

from vicreg.engine.preemption import PreemptionGuard

CPU = torch.device("cpu")
SIGNALS = [signal.SIGUSR1, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_reported_at_the_check_of_the_next_step(number):
    with closing(PreemptionGuard(CPU)) as guard:
        assert guard.check() is None
        guard.put(0, torch.tensor(1.0))
        os.kill(os.getpid(), number)
        assert guard.check() is None  # came in after step 0 was noted
        guard.put(1, torch.tensor(1.0))
        assert guard.check() is number


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_loss_names_the_step_and_the_flag(loss):
    with closing(PreemptionGuard(CPU)) as guard:
        guard.put(6, torch.tensor(1.0))
        guard.check()
        guard.put(7, torch.tensor(loss, requires_grad=True))
        with pytest.raises(FloatingPointError, match=f"the loss is {loss} at step 7;.* --lr .*--epochs"):
            guard.check()


def test_close_restores_the_signal_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]
    PreemptionGuard(CPU).close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_loss_of_another_process_that_is_not_finite_ends_this_one(monkeypatch):
    from vicreg.engine import preemption

    def all_reduce(flags, op):
        flags[0] = 1.0  # as the maximum over the processes
        return flags

    monkeypatch.setattr(preemption, "all_reduce", all_reduce)
    with closing(PreemptionGuard(CPU)) as guard:
        guard.put(3, torch.tensor(1.0))
        with pytest.raises(FloatingPointError, match="the loss is not finite at step 3"):
            guard.check()
