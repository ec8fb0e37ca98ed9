"""Signals and non-finite losses are noticed at the next step."""

import os
import signal
from contextlib import closing

import pytest
import torch

from vicreg.engine.preemption import PreemptionGuard

CPU = torch.device("cpu")
SIGNALS = [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.fixture(autouse=True)
def default_handlers():
    """Handlers as in a terminal: a test run in the background ignores SIGINT."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_signal_that_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with closing(PreemptionGuard(CPU)) as guard:
        os.kill(os.getpid(), signal.SIGHUP)
        guard.put(0, torch.tensor(1.0))
        assert guard.check() is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


HANGS = """
import os, signal, sys, time
import torch
from vicreg.engine import preemption
preemption._REPEAT_SECONDS = {repeat}
signal.signal(signal.SIGINT, signal.default_int_handler)
guard = preemption.PreemptionGuard(torch.device("cpu"))
print("on", flush=True)
for number in {signals!r}:
    os.kill(os.getpid(), number)
    time.sleep({pause})
print("still on", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_process_that_hangs(fork, tmp_path, number):
    run = fork(HANGS.format(signals=[int(number)] * 2, pause=0.2, repeat=0.05), tmp_path / "out", 1, None)
    assert run.wait(0) == -number and run.text(0) == "on\n"


@pytest.mark.parametrize(("signals", "pause"), [([15, 15], 0), ([2, 15], 0), ([10, 10], 0.2)])
def test_repetitions_of_a_launcher_and_of_sigusr1_are_no_second_signal(fork, tmp_path, signals, pause):
    run = fork(HANGS.format(signals=signals, pause=pause, repeat=0.05 if pause else 30), tmp_path / "out", 1, None)
    assert run.wait(0) == 0 and run.text(0) == "on\nstill on\n"


def test_end_of_torchrun_counts_as_sigterm(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with closing(PreemptionGuard(CPU)) as guard:
        guard.put(0, torch.tensor(1.0))
        assert guard.check() is None
        monkeypatch.setattr(os, "getppid", lambda: 1)
        guard.put(1, torch.tensor(1.0))
        assert guard.check() is signal.SIGTERM


def test_request_for_a_log_line_reaches_all_processes(monkeypatch):
    from vicreg.engine import preemption

    with closing(PreemptionGuard(CPU)) as guard:
        guard.put(0, torch.tensor(1.0), log_due=True)
        guard.check()
        assert guard.log_due
        guard.put(1, torch.tensor(1.0))
        guard.check()
        assert not guard.log_due
        monkeypatch.setattr(preemption, "all_reduce", lambda flags, op: torch.tensor([0.0, 0.0, 1.0]))
        guard.put(2, torch.tensor(1.0))
        guard.check()
        assert guard.log_due
