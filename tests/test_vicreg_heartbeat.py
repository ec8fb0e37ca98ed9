"""A process that is killed, frozen or fails ends all others soon, with one line that names it; a busy one does not."""

import signal
import socket
import time

import pytest

# A run that reduces a number for ever, or until {steps}; {first} and {second} are what either process does on its way.
WORKER = """
import sys, time, torch
from vicreg import distributed
from vicreg.common import cli as command_line

def main(args):
    distributed.init("cpu", 0, {timeout}, {lost_after})
    print("started", flush=True)
    for step in range({steps}):
        if distributed.rank() == 1:
            {second}
        else:
            {first}
        distributed.all_reduce(torch.ones(1))
        time.sleep(0.01)
    print("finished", flush=True)
    distributed.destroy()

sys.argv = ["worker.py"]
cli.run(main, None)
"""
FOREVER = 10**9


@pytest.fixture
def start(fork, tmp_path):
    """Function (steps, first="pass", second="pass", …) -> Forked, past its start."""

    def run(steps=FOREVER, first="pass", second="pass", processes=2, lost_after=4, timeout=1):
        code = WORKER.format(steps=steps, first=first, second=second, lost_after=lost_after, timeout=timeout)
        forked = fork(code, tmp_path / "out", processes)
        while not all("started" in forked.text(rank) for rank in range(processes)):
            assert forked.running(0), forked.text(0)
            time.sleep(0.01)
        return forked

    return run


def said(run, processes=2):
    """All lines but the worker's own, of all processes."""
    lines = [line for rank in range(processes) for line in run.text(rank).splitlines()]
    return [line for line in lines if line not in ("started", "finished")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_other_with_one_line_that_names_it(start, victim, number):
    run = start()
    time.sleep(0.5)
    run.kill(victim, number)
    begin = time.monotonic()
    assert run.wait(1 - victim) == 1
    assert time.monotonic() - begin < 15  # of a time-out of a minute; 4 s without a sign of life are a loss here
    (line,) = said(run)
    assert line.startswith(f"worker: lost process {victim} on {socket.gethostname()}")
    assert "start the same command again" in line
    if number == signal.SIGSTOP:  # waking up to an abandoned run ends it too
        run.kill(victim, signal.SIGCONT)
        assert run.wait(victim) == 1


def test_of_three_survivors_one_speaks(start):
    run = start(processes=4)
    run.kill(2)
    assert [run.wait(rank) for rank in (0, 1, 3)] == [1, 1, 1]
    (line,) = said(run, 4)
    assert line.startswith("worker: lost process 2 ")


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["time.sleep(6)", "end = time.time() + 6\n            while time.time() < end: pass"])
def test_a_process_busy_for_longer_than_that_is_not_lost(start, busy):
    run = start(2, second=busy, lost_after=2)
    assert [run.wait(0), run.wait(1)] == [0, 0], said(run)
    assert said(run) == []


def test_a_process_that_finishes_first_is_waited_for_and_not_reported(start):
    for slow in (0, 1):
        run = start(1, lost_after=2, **{("first", "second")[slow]: "import atexit"})
        assert [run.wait(0), run.wait(1)] == [0, 0]
        assert said(run) == []


def test_a_mistake_that_only_another_process_meets_is_told_once_and_ends_all(start):
    run = start(second="if step == 3: raise FileNotFoundError('no patches on this machine')")
    assert [run.wait(0), run.wait(1)] == [1, 1]
    assert said(run) == [f"worker: process 1 on {socket.gethostname()}: no patches on this machine"]


def test_a_mistake_that_all_meet_is_told_once(start):
    mistake = "if step == 3: raise ValueError('--batch-size 1: too small')"
    run = start(first=mistake, second=mistake)
    assert [run.wait(0), run.wait(1)] == [1, 1]
    assert said(run) == ["worker: --batch-size 1: too small"]


def test_a_bug_in_one_process_shows_its_traceback_and_ends_all(start):
    run = start(second="if step == 3: raise TypeError('a bug')")
    assert [run.wait(0), run.wait(1)] == [1, 1]
    assert "TypeError: a bug" in run.text(1) and "Traceback" in run.text(1)
    assert run.text(0) == "started\n"


def test_processes_that_wait_for_each_other_too_long_name_the_flag(start):
    run = start(first="time.sleep(60) if step == 1 else None", timeout=0.05)
    assert run.wait(1) == 1
    run.kill(0)
    assert "lost contact" in said(run)[0] and "--timeout-minutes" in said(run)[0]


def test_without_signs_of_life_a_broken_collective_is_still_one_line(start):
    run = start(lost_after=0)
    run.kill(1)
    assert run.wait(0) == 1
    (line,) = said(run)
    assert "worker: lost contact with another process" in line and "Traceback" not in line


def test_a_process_whose_partner_never_comes_says_where_it_waited(fork, tmp_path):
    code = WORKER.format(steps=1, first="pass", second="pass", lost_after=4, timeout=0.05)
    run = fork(code, tmp_path / "out", 1, RANK=0, WORLD_SIZE=2)
    assert run.wait(0) == 1
    line = run.text(0).splitlines()[-1]
    assert line.startswith("worker: process 0 of 2 (counted from 0) did not meet the others at 127.0.0.1:")
    assert "Traceback" not in run.text(0)
