"""The SLURM job scripts start, save, requeue and finish; srun and scontrol are replaced by small scripts."""

import os
import shutil
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
# Start FAKE_TASKS processes of a step; if one fails, kill the others, as srun --kill-on-bad-exit=1 does. Exit with the
# highest code.
import os, subprocess, sys, time
if "FAKE_EXIT" in os.environ:
    sys.exit(int(os.environ["FAKE_EXIT"]))
command = sys.argv[1:]
assert command[0] == "--kill-on-bad-exit=1"
while command[0].startswith("--"):
    command.pop(0)
tasks = int(os.environ["FAKE_TASKS"])
step = dict(os.environ, SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS=str(tasks), SLURM_STEP_NODELIST="node01")
environments = [dict(step, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in range(tasks)]
started = [subprocess.Popen(command, env=variables) for variables in environments]
with open(os.environ["FAKE_LOG"], "a") as log:
    print("srun", *[process.pid for process in started], file=log)
while None in (codes := [process.poll() for process in started]):
    if any(codes):
        [process.kill() for process in started]
    time.sleep(0.01)
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
        # as in the batch step: a process id, but no step of srun
        job = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        job |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_SUBMIT_DIR": str(repo_root)}
        job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "FAKE_TASKS": str(tasks), "OMP_NUM_THREADS": "1"}
        job |= {"PYTHON": sys.executable, "EXP_DIR": str(tmp_path / "run"), "CSV_DIR": str(sn7_prepared)}
        job |= {"FAKE_LOG": str(tmp_path / "log"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        command = ["bash", str(repo_root / f"exp/slurm/{script}.sbatch"), *arguments.split()]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env={**os.environ, **job, **variables}, **pipes)

    return run


def requeued(folder):
    return [line for line in (folder / "log").read_text().splitlines() if line.startswith("scontrol")]


def descendants(pid):
    """Return the ids of a process and its descendants, which SLURM's signals reach."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [pid] + [below for child in listed.split() for below in descendants(int(child))]


def signal_step(job, folder, number, step=4):
    """Send a signal to all processes of srun's step and to the job script, once a training step is logged."""
    while job.poll() is None and max((line["step"] for line in read_stats(folder / "run/stats.txt")), default=0) < step:
        time.sleep(0.01)
    (started,) = [line for line in (folder / "log").read_text().splitlines() if line.startswith("srun")]
    for pid in {job.pid, *(pid for task in started.split()[1:] for pid in descendants(int(task)))}:
        os.kill(pid, number)


@pytest.mark.parametrize("script", SCRIPTS)
def test_job_script_is_valid_bash_and_requests_requeueing(repo_root, script):
    path = repo_root / f"exp/slurm/{script}.sbatch"
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --open-mode=append" in text and "# Edit" in text
    assert ("#SBATCH --signal=USR1@" in text) == (script != "evaluate_sn7")  # an evaluation saves no checkpoint


@pytest.mark.parametrize("script", SCRIPTS)
def test_job_script_passes_shellcheck(repo_root, script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    path = repo_root / f"exp/slurm/{script}.sbatch"
    ended = subprocess.run(["shellcheck", "--shell=bash", path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("script", ["pretrain_sn7", "pretrain_torchrun"])
@pytest.mark.parametrize("code", [0, 1, 137, 138, 143])
def test_job_is_not_requeued_without_a_new_marker(submit, tmp_path, script, code):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "interrupted").write_text("SIGUSR1 at step 4\n")  # of an earlier job
    job = submit(script, FAKE_EXIT=str(code))
    job.communicate(timeout=60)
    assert job.returncode == code and requeued(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("script", "tasks"), [("pretrain_sn7", 2), ("pretrain_torchrun", 1)])
def test_job_at_its_time_limit_saves_is_requeued_and_then_finishes(submit, tmp_path, script, tasks):
    job = submit(script, TOY_TRAIN, tasks)
    signal_step(job, tmp_path, signal.SIGUSR1)
    out = job.communicate(timeout=300)[0]
    assert job.returncode != 0, out
    assert "2 process(es)" in out and "SIGUSR1: saved at step" in out
    assert requeued(tmp_path) == ["scontrol requeue 77"]
    assert not (tmp_path / "run" / "trained_model.pth").exists()
    job = submit(script, TOY_TRAIN, tasks)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == 0 and "resume  from step" in out, out
    assert requeued(tmp_path) == ["scontrol requeue 77"]
    assert (tmp_path / "run" / "trained_model.pth").exists()
    assert read_stats(tmp_path / "run/stats.txt")[-1]["step"] == 55


@pytest.mark.slow
def test_canceled_job_saves_and_is_not_requeued(submit, tmp_path):
    job = submit("pretrain_sn7", TOY_TRAIN)
    signal_step(job, tmp_path, signal.SIGTERM)
    out = job.communicate(timeout=300)[0]
    assert job.returncode != 0 and "SIGTERM: saved at step" in out, out
    assert requeued(tmp_path) == []


@pytest.mark.slow
def test_evaluation_job_evaluates_a_backbone_and_two_baselines_and_prints_the_table(submit, train, tmp_path):
    assert train(tmp_path / "run", "--max-steps", 2, launcher=None).wait(0) == 0
    job = submit("evaluate_sn7", f"{TOY} --lr-head 0.1 --views 1 --knn 5", 1)
    out = job.communicate(timeout=300)[0]
    assert job.returncode == 0, out
    assert out.count("/freeze_100") >= 6 and "Table 1" in out and (tmp_path / "run" / "report.html").exists()
    assert {path.parent.parent.name for path in tmp_path.glob("run/*/*/result.json")} == {
        "random", "stats", "trained_model",
    }  # fmt: skip
