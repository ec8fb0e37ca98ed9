"""A process that is killed, freezes or fails ends all others under torchrun, with one line on stderr."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

# Sum ones until {steps}; {action} runs before each step.
WORKER = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import torch
from vicreg import distributed
from vicreg.common import cli

def main(namespace):
    {before}
    distributed.init("cpu", 0, {timeout})
    sys.stdout.write(f"pid {{distributed.rank()}} {{os.getpid()}}\\n")  # one write, which another process cannot split
    sys.stdout.flush()
    for step in range({steps}):
        rank = distributed.rank()
        {action}
        distributed.all_reduce(torch.ones(1))
        time.sleep(0.01)
    {after}
    distributed.destroy()

sys.argv = ["worker.py"]
cli.run(main, None)
"""


@pytest.fixture
def launch(repo_root, tmp_path):
    """Function (processes=2, steps=10**9, action, before, after, timeout, *torchrun options) -> Popen of torchrun."""
    started = []

    def run(*options, processes=2, steps=10**9, action="pass", before="pass", after="pass", timeout=1.0):
        script = tmp_path / "worker.py"
        script.write_text(
            WORKER.format(root=str(repo_root), steps=steps, action=action, before=before, after=after, timeout=timeout)
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        log = (tmp_path / "log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([*command, *options, script], stdout=log, stderr=log, env=environment))
        return started[-1]

    yield run
    for agent in started:
        agent.terminate()  # torchrun ends its processes, with SIGKILL where they do not answer
        agent.wait(60)


def pids(tmp_path, processes=2):
    """Wait until all processes have joined; return their process ids by rank."""
    end = time.monotonic() + 120
    while True:
        lines = [line.split() for line in (tmp_path / "log").read_text().splitlines() if line.startswith("pid ")]
        if len(lines) == processes:
            return {int(rank): int(pid) for _, rank, pid in lines}
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.02)


def reported(tmp_path):
    """Lines that cli.run printed."""
    return [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("worker: ")]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_others_within_a_minute(launch, tmp_path, victim):
    agent = launch()
    running = pids(tmp_path)
    begin = time.monotonic()
    os.kill(running[victim], signal.SIGKILL)
    assert agent.wait(60) != 0
    assert time.monotonic() - begin < 60
    assert not any(is_alive(pid) for pid in running.values())
    assert "Signal 9 (SIGKILL)" in (tmp_path / "log").read_text()  # torchrun's report
    assert reported(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_frozen_process_ends_the_others_within_the_timeout_with_one_line(launch, tmp_path, victim):
    agent = launch(timeout=0.2)
    running = pids(tmp_path)
    begin = time.monotonic()
    os.kill(running[victim], signal.SIGSTOP)
    while not reported(tmp_path):
        assert time.monotonic() - begin < 12 + 10 and agent.poll() is None
        time.sleep(0.1)
    (line,) = reported(tmp_path)
    assert ": lost contact with another process (" in line and "--timeout-minutes" in line
    assert agent.wait(60) != 0  # torchrun gives the frozen process 30 seconds
    assert not any(is_alive(pid) for pid in running.values()) and len(reported(tmp_path)) == 1


@pytest.mark.slow
def test_mistake_of_all_processes_is_reported_once(launch, tmp_path):
    for where in ("before", "action"):
        agent = launch(processes=3, **{where: "raise ValueError('--batch-size 1: too small')"})
        assert agent.wait(60) != 0
        assert reported(tmp_path) == ["worker: --batch-size 1: too small"]


@pytest.mark.slow
def test_mistake_of_one_process_is_reported_by_that_process(launch, tmp_path):
    agent = launch(action="if rank == 1 and step == 3: raise FileNotFoundError('no patches on this machine')")
    assert agent.wait(60) != 0
    assert reported(tmp_path) == [f"worker: rank 1 on {socket.gethostname()}: no patches on this machine"]


@pytest.mark.slow
def test_bug_in_one_process_shows_its_traceback_and_ends_the_others(launch, tmp_path):
    agent = launch(action="if rank == 1 and step == 3: raise TypeError('a bug')")
    assert agent.wait(60) != 0
    text = (tmp_path / "log").read_text()
    assert text.count("TypeError: a bug") == 1 and reported(tmp_path) == []


@pytest.mark.slow
def test_exit_with_a_code_waits_for_rank_0(launch, tmp_path):
    after = f"if rank == 0: time.sleep(3); open({str(tmp_path / 'saved')!r}, 'w').close()\n    sys.exit(138)"
    assert launch(steps=2, after=after).wait(60) != 0
    assert (tmp_path / "saved").exists() and reported(tmp_path) == []


@pytest.mark.slow
def test_restarted_attempt_does_not_read_addresses_of_the_attempt_before(launch, tmp_path):
    attempt, first = "os.environ['TORCHELASTIC_RESTART_COUNT']", str(tmp_path / "first")
    agent = launch(
        "--max-restarts=1", steps=5,
        before=f"""if {attempt} == '1':  # rank 0 is about to connect 10 seconds before rank 1
        if os.environ["RANK"] == "0":
            open({first!r}, "w").close()
        while not os.path.exists({first!r}):
            time.sleep(0.01)
        time.sleep(10 * int(os.environ["RANK"]))""",
        action=f"if {attempt} == '0' and rank == 1 and step == 3: os.kill(os.getpid(), signal.SIGKILL)",
    )  # fmt: skip
    assert agent.wait(120) == 0, (tmp_path / "log").read_text()
    assert reported(tmp_path) == []


def test_process_whose_partner_does_not_start_names_address_and_rank(fork, tmp_path, repo_root):
    code = WORKER.format(root=str(repo_root), steps=1, action="pass", before="pass", after="pass", timeout=0.05)
    run = fork(code, tmp_path / "out", 1, RANK=0, WORLD_SIZE=2)
    assert run.wait(0) == 1
    (line,) = run.text(0).splitlines()
    assert line.startswith("worker: rank 0 of 2 could not connect to the other processes at 127.0.0.1:")
    assert "no sign of rank 1" in line and "--timeout-minutes 0.05" in line


def test_rank_1_without_a_local_rank_says_why_it_fails(fork, tmp_path, repo_root):
    code = WORKER.format(root=str(repo_root), steps=1, action="pass", before="pass", after="pass", timeout=0.05)
    run = fork(code, tmp_path / "out", 1, None, RANK=1, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=29719)
    assert run.wait(0) == 1
    lines = [line for line in run.text(0).splitlines() if line.startswith("worker: ")]
    assert len(lines) == 1 and "rank 1 of 2 could not connect to the other processes at 127.0.0.1:29719" in lines[0]
