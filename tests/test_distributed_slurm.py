"""Processes started by srun find each other without torchrun, and a batch script's own process waits for nobody."""

import json

import pytest
import torch

from vicreg.distributed import process_group
from vicreg.distributed.slurm import SRUN_TASK, launch_environment

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_NODELIST": "gpu[01-08]",
}  # fmt: skip
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def test_a_task_of_srun_learns_what_torchrun_would_have_told_it():
    told = launch_environment(STEP)
    port = told.pop("MASTER_PORT")
    where = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu07"}
    assert told == where | {SRUN_TASK: "1"}
    assert 1024 < int(port) < 32768
    assert launch_environment(STEP | {"SLURM_PROCID": "0"})["MASTER_PORT"] == port  # all tasks find the same
    assert launch_environment(STEP | {"SLURM_STEP_ID": "1"})["MASTER_PORT"] != port  # another step of the job does not
    assert launch_environment(STEP | {"SLURM_JOB_ID": "4712"})["MASTER_PORT"] != port


def test_a_task_that_sees_its_own_gpu_only_finds_it_each_time_it_asks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    with pytest.raises(ValueError, match="local rank 3 has no GPU: 1 visible"):
        process_group._select_device("cuda", 3)
    monkeypatch.setenv(SRUN_TASK, "1")
    assert {process_group._select_device("auto", 3) for _ in range(2)} == {torch.device("cuda", 0)}


LAUNCHED = """
import os, torch.distributed as dist
from vicreg import distributed
os.environ["LOCAL_RANK"] = "3"
dist.init_process_group("gloo", rank=0, world_size=1, init_method="tcp://127.0.0.1:29713")
distributed.init("cpu")
print(os.environ["LOCAL_RANK"], "RANK" in os.environ)
distributed.destroy()
"""


def test_where_another_launcher_has_made_the_group_slurm_says_nothing(fork, tmp_path):
    run = fork(LAUNCHED, tmp_path / "out", 1, None, **STEP)
    assert run.wait(0) == 0 and run.text(0).split() == ["3", "False"]


def test_the_users_address_and_port_win():
    told = launch_environment(STEP | {"MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "5"})
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("10.1.1.1", "5")


def test_older_variables_and_a_single_machine_are_understood():
    old = {"SLURM_JOBID": "9", "SLURM_STEPID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_NODELIST": "big"}
    told = launch_environment(old)
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == ("1", "0", "2")
    assert told["MASTER_ADDR"] == "127.0.0.1"  # its name need not resolve


ALONE = {
    "no slurm": {},
    "batch script of a job of eight tasks": BATCH,
    "batch script, numbered as such": BATCH | {"SLURM_STEP_ID": str(0xFFFFFFFB)},
    "interactive shell": STEP | {"SLURM_STEP_ID": str(0xFFFFFFFA)},
    "one task": STEP | {"SLURM_STEP_NUM_TASKS": "1"},
    "torchrun within srun": STEP | {"RANK": "0", "WORLD_SIZE": "2"},
}


@pytest.mark.parametrize("case", ALONE)
def test_elsewhere_slurm_says_nothing(case):
    assert launch_environment(ALONE[case]) == {}


WORKER = """
import json, os, sys, torch
from vicreg import distributed
place = distributed.init("cpu", timeout_minutes=0.5)
total = distributed.all_reduce(torch.tensor(distributed.rank() + 1.0)).item()
print(json.dumps([distributed.rank(), distributed.world_size(), os.environ.get("LOCAL_RANK"), total, str(place)]))
distributed.destroy()
"""


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_two_processes_meet(fork, tmp_path, launcher):
    run = fork(WORKER, tmp_path / "out", 2, launcher)
    assert [run.wait(rank) for rank in (0, 1)] == [0, 0], run.text(0) + run.text(1)
    assert [json.loads(run.text(rank)) for rank in (0, 1)] == [[rank, 2, str(rank), 3.0, "cpu"] for rank in (0, 1)]


def test_a_plain_process_in_a_batch_script_runs_alone(fork, tmp_path):
    run = fork(WORKER, tmp_path / "out", 1, None, **BATCH)
    assert run.wait(0) == 0, run.text(0)
    assert json.loads(run.text(0)) == [0, 1, None, 1.0, "cpu"]
