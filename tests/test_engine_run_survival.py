"""A run that is killed or interrupted and started again ends with the weights of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from vicreg.common.logger import read_stats

KILLS = 10
STANDALONE = ("--standalone", "--nproc_per_node=2")


def assert_same_weights(first, second):
    one, other = (torch.load(folder / "model.pth", weights_only=True) for folder in (first, second))
    assert one["step"] == other["step"] == 55
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
    pairs = zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"]) for mine, theirs in pairs)


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    """Function (processes) -> folder of an uninterrupted run."""
    folders = {}

    def folder(processes):
        if processes not in folders:
            folders[processes] = tmp_path_factory.mktemp("uninterrupted") / str(processes)
            run = train(folders[processes], processes=processes)
            assert all(run.wait(rank) == 0 for rank in range(processes)), run.text(0)
        return folders[processes]

    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_run_killed_ten_times_at_random_moments_ends_with_the_same_weights(train, uninterrupted, tmp_path, processes):
    seeded, folder = random.Random(processes), tmp_path / "run"
    steps = sorted(seeded.sample(range(1, 54), KILLS))
    for step in steps:
        run = train(folder, processes=processes)
        run.reach(step)
        time.sleep(seeded.uniform(0, 0.03))  # within a step, or a checkpoint
        for rank in range(processes):
            run.kill(rank)
        assert [run.wait(rank) for rank in range(processes)] == [-signal.SIGKILL] * processes, run.text(0)
        assert not (folder / "trained_model.pth").exists()
    run = train(folder, processes=processes)
    assert [run.wait(rank) for rank in range(processes)] == [0] * processes, run.text(0)
    assert_same_weights(uninterrupted(processes), folder)
    assert [line["step"] for line in read_stats(folder / "stats.txt")] == list(range(1, 56))
    assert [path.name for path in folder.iterdir() if "partial" in path.name or "broken" in path.name] == []


def torchrun(folder, csv_dir, *more, launcher=STANDALONE):
    """Start the toy run of ``train`` under torchrun with two processes."""
    options = "--arch test_resnet --mlp 16-16 --batch-size 16 --image-size 16 --device cpu --epochs 5 --seed 3 "
    options += "--checkpoint-every 2 --log-freq-time 0 --probe-every 0"
    command = [sys.executable, "-m", "torch.distributed.run", *launcher]
    command += ["vicreg/main_vicreg_sn7.py", "--csv-dir", csv_dir, "--exp-dir", folder, *options.split(), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(list(map(str, command)), env=environment, **pipes)


def workers(agent):
    """Return the process ids of torchrun's processes, in rank order."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent.pid)], capture_output=True, text=True).stdout
    by_rank = {}
    for pid in listed.split():
        with open(f"/proc/{pid}/environ") as file:
            variables = dict(part.partition("=")[::2] for part in file.read().split("\0"))
        if "RANK" in variables:
            by_rank[int(variables["RANK"])] = int(pid)
    return [by_rank[rank] for rank in sorted(by_rank)]


def reach(folder, agent, step):
    """Wait until a step is logged."""
    end = time.monotonic() + 200
    while agent.poll() is None and max((line["step"] for line in read_stats(folder / "stats.txt")), default=0) < step:
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.01)
    assert agent.poll() is None, agent.communicate()[0]


@pytest.mark.slow
def test_max_restarts_resumes_after_a_killed_process_with_the_same_weights(
    repo_root, sn7_prepared, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.chdir(repo_root)
    agent = torchrun(tmp_path / "run", sn7_prepared, "--workers", 1, launcher=[*STANDALONE, "--max-restarts=3"])
    reach(tmp_path / "run", agent, 9)
    os.kill(workers(agent)[0], signal.SIGKILL)  # it holds the lock of the folder; its loader process lives on
    reach(tmp_path / "run", agent, 30)
    os.kill(workers(agent)[1], signal.SIGKILL)
    out = agent.communicate(timeout=300)[0]
    assert agent.returncode == 0, out
    assert out.count("resume  from step") == 2, out
    assert_same_weights(uninterrupted(2), tmp_path / "run")


@pytest.mark.slow
def test_signal_under_torchrun_writes_a_marker_at_which_a_restart_by_torchrun_ends(
    repo_root, sn7_prepared, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.chdir(repo_root)
    agent = torchrun(tmp_path / "run", sn7_prepared, "--workers", 0, launcher=[*STANDALONE, "--max-restarts=1"])
    reach(tmp_path / "run", agent, 5)
    for worker in workers(agent):
        os.kill(worker, signal.SIGUSR1)
    out = agent.communicate(timeout=300)[0]
    assert agent.returncode != 0 and "SIGUSR1: saved at step" in out
    assert out.count("VICReg, test_resnet") == 1  # the restart trains nothing
    step = torch.load(tmp_path / "run" / "model.pth", weights_only=True)["step"]
    assert (tmp_path / "run" / "interrupted").read_text() == f"SIGUSR1 at step {step}\n"
    agent = torchrun(tmp_path / "run", sn7_prepared, "--workers", 0)
    out = agent.communicate(timeout=300)[0]
    assert agent.returncode == 0 and f"resume  from step {step}" in out
    assert not (tmp_path / "run" / "interrupted").exists()
    assert_same_weights(uninterrupted(2), tmp_path / "run")


@pytest.mark.slow
def test_lost_machine_ends_the_run_on_the_other_machine_with_one_line(repo_root, sn7_prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(repo_root)
    launcher = ["--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", "--rdzv-id=test"]
    launcher += [f"--rdzv-endpoint=localhost:{20000 + os.getpid() % 10000}"]
    machines = [torchrun(tmp_path / "run", sn7_prepared, "--epochs", 500, launcher=launcher) for _ in range(2)]
    reach(tmp_path / "run", machines[0], 5)
    lost = next(index for index, agent in enumerate(machines) if b"GROUP_RANK=1" in environ(agent))
    for pid in (workers(machines[lost])[0], machines[lost].pid):
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    out = machines[1 - lost].communicate(timeout=120)[0]
    assert time.monotonic() - begin < 60
    assert machines[1 - lost].returncode != 0
    (line,) = [line for line in out.splitlines() if line.startswith("main_vicreg_sn7: ")]
    assert "lost contact with another process" in line


def environ(agent):
    with open(f"/proc/{workers(agent)[0]}/environ", "rb") as file:
        return file.read()


def test_run_resumes_with_another_world_size_at_the_same_step_with_the_same_schedule(train, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run = train(folder)
    run.reach(20)
    run.kill(0, signal.SIGTERM)
    assert run.wait(0) == 128 + signal.SIGTERM
    stopped = run.last_step()
    run = train(folder, processes=2)
    assert [run.wait(0), run.wait(1)] == [0, 0]
    assert f"resume  from step {stopped}" in run.text(0) and "note:" not in run.text(0)
    mine, theirs = (read_stats(path / "stats.txt") for path in (folder, uninterrupted(1)))
    assert [(line["step"], line["epoch"], line["lr"]) for line in mine] == [
        (line["step"], line["epoch"], line["lr"]) for line in theirs
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_one_of_two_processes_saves_and_ends_both(train, uninterrupted, tmp_path, number):
    folder = tmp_path / "run"
    run = train(folder, "--checkpoint-every", 1000, processes=2, launcher="srun")
    run.reach(7)
    run.kill(1, number)
    assert [run.wait(0), run.wait(1)] == [128 + number] * 2
    step = torch.load(folder / "model.pth", weights_only=True)["step"]
    assert 7 <= step < 55 and (folder / "interrupted").read_text() == f"{number.name} at step {step}\n"
    assert run.text(1) == "" and run.text(0).splitlines()[-1].startswith(f"{number.name}: saved at step {step}")
    run = train(folder, processes=2, launcher="srun")
    assert [run.wait(0), run.wait(1)] == [0, 0] and not (folder / "interrupted").exists()
    assert_same_weights(uninterrupted(2), folder)
