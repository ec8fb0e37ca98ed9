"""The job scripts start, save, queue again and finish, with commands of the same names in SLURM's place."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from vicreg.common.logger import read_stats

SCRIPTS = ["pretrain_sn7", "pretrain_torchrun", "evaluate_sn7"]
TOY = "--batch-size 16 --epochs 5 --image-size 16 --workers 0 --device cpu --arch test_resnet"
TOY_TRAIN = f"{TOY} --mlp 16-16 --checkpoint-every 1000 --log-freq-time 0 --probe-every 0"
SRUN = """#!{python}
# Starts FAKE_TASKS processes of a step, waits, and ends with the highest exit code, as srun does.
import os, subprocess, sys
if "FAKE_EXIT" in os.environ:
    sys.exit(int(os.environ["FAKE_EXIT"]))
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
tasks = int(os.environ["FAKE_TASKS"])
step = dict(os.environ, SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS=str(tasks), SLURM_STEP_NODELIST="node01")
told = [dict(step, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in range(tasks)]
started = [subprocess.Popen(command, env=variables) for variables in told]
with open(os.environ["FAKE_LOG"], "a") as log:
    print("srun", *[process.pid for process in started], file=log)
codes = [process.wait() for process in started]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$FAKE_LOG"
"""


@pytest.fixture
def submit(repo_root, sn7_prepared, tmp_path):
    """Function (script, arguments, tasks, **variables) -> Popen of a job whose log is tmp_path/log."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "log").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def run(script, arguments="", tasks=2, **variables):
        # as in the batch step: a process number, but no step of srun
        job = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        job |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_SUBMIT_DIR": str(repo_root)}
        job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "FAKE_TASKS": str(tasks), "OMP_NUM_THREADS": "1"}
        job |= {"PYTHON": sys.executable, "EXP_DIR": str(tmp_path / "run"), "CSV_DIR": str(sn7_prepared)}
        job |= {"FAKE_LOG": str(tmp_path / "log"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(repo_root / f"exp/slurm/{script}.sbatch"), *arguments.split()]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env={**os.environ, **job, **variables}, **pipes)

    return run


def queued_again(folder):
    return [line for line in (folder / "log").read_text().splitlines() if line.startswith("scontrol")]


def descendants(pid):
    """A process and all below it, as far as SLURM's signals reach."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [pid] + [one for child in listed.split() for one in descendants(int(child))]


def signal_step(job, folder, number, step=4):
    """Send a signal to all processes of srun's step, once a step of training is logged."""
    while job.poll() is None and max((line["step"] for line in read_stats(folder / "run/stats.txt")), default=0) < step:
        time.sleep(0.01)
    (started,) = [line for line in (folder / "log").read_text().splitlines() if line.startswith("srun")]
    for pid in {one for task in started.split()[1:] for one in descendants(int(task))}:
        os.kill(pid, number)


@pytest.mark.parametrize("script", SCRIPTS)
def test_job_scripts_are_bash_and_ask_slurm_for_what_they_need(repo_root, script):
    path = repo_root / f"exp/slurm/{script}.sbatch"
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text and "# Edit" in text
    assert ("#SBATCH --signal=USR1@" in text) == (script != "evaluate_sn7")  # an evaluation has nothing to save


@pytest.mark.parametrize("code", [0, 1, 137, 138, 143])
def test_a_job_is_queued_again_for_exit_code_138_alone(submit, tmp_path, code):
    job = submit("pretrain_sn7", FAKE_EXIT=str(code))
    job.communicate(timeout=60)
    assert job.returncode == code
    assert queued_again(tmp_path) == (["scontrol requeue 77"] if code == 138 else [])


@pytest.mark.parametrize("code", [0, 1, 137])
def test_under_torchrun_an_old_note_queues_nothing_again(submit, tmp_path, code):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "interrupted").write_text("SIGUSR1 at step 4\n")
    job = submit("pretrain_torchrun", FAKE_EXIT=str(code))
    job.communicate(timeout=60)
    assert job.returncode == code and queued_again(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("script", "tasks"), [("pretrain_sn7", 2), ("pretrain_torchrun", 1)])
def test_a_job_whose_time_is_up_saves_and_is_queued_again_and_then_finishes(submit, tmp_path, script, tasks):
    job = submit(script, TOY_TRAIN, tasks)
    signal_step(job, tmp_path, signal.SIGUSR1)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == (138 if tasks == 2 else 1), out
    assert "2 process(es)" in out and "SIGUSR1: saved at step" in out
    assert queued_again(tmp_path) == ["scontrol requeue 77"]
    assert not (tmp_path / "run" / "trained_model.pth").exists()
    job = submit(script, TOY_TRAIN, tasks)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == 0 and "resume  from step" in out, out
    assert queued_again(tmp_path) == ["scontrol requeue 77"]
    assert (tmp_path / "run" / "trained_model.pth").exists()
    assert read_stats(tmp_path / "run/stats.txt")[-1]["step"] == 55


@pytest.mark.slow
def test_a_canceled_job_saves_and_is_not_queued_again(submit, tmp_path):
    job = submit("pretrain_sn7", TOY_TRAIN)
    signal_step(job, tmp_path, signal.SIGTERM)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == 128 + signal.SIGTERM and "SIGTERM: saved at step" in out, out
    assert queued_again(tmp_path) == []


@pytest.mark.slow
def test_the_evaluation_job_judges_a_backbone_and_its_baselines_and_prints_the_table(submit, train, tmp_path):
    assert train(tmp_path / "run", "--max-steps", 2, launcher=None).wait(0) == 0
    job = submit("evaluate_sn7", f"{TOY} --lr-head 0.1 --views 1 --knn 5", 1)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == 0, out
    assert out.count("/freeze_100") >= 6 and "Evaluation" in out and (tmp_path / "run" / "report.html").exists()
    assert {path.parent.parent.name for path in tmp_path.glob("run/*/*/result.json")} == {
        "random", "stats", "trained_model",
    }  # fmt: skip
