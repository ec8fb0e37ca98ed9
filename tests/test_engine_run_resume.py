"""A run that is cut off anywhere and started again gives the weights of an undisturbed run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from vicreg.common import checkpoint_io
from vicreg.common.logger import lock_run_dir
from vicreg.engine import checkpoint

TOY = (
    "--arch test_resnet --mlp 16-16 --batch-size 16 --image-size 16 --workers 0 --device cpu --seed 3 --epochs 5 "
    "--checkpoint-every 2 --log-freq-time 0 --probe-every 0"
).split()


@pytest.fixture(scope="module")
def pretrain(repo_root, sn7_prepared):
    """Function (exp_dir, *more, kill_at=None) -> CompletedProcess; kill_at sends a signal once that step is logged."""

    def run(exp_dir, *more, kill_at=None, number=signal.SIGKILL):
        command = [sys.executable, repo_root / "vicreg/main_vicreg_sn7.py", "--csv-dir", sn7_prepared]
        command += ["--exp-dir", exp_dir, *TOY, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        if kill_at is not None:
            while process.poll() is None and last_step(exp_dir) < kill_at:
                time.sleep(0.002)
            process.send_signal(number)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


def last_step(exp_dir):
    stats = exp_dir / "stats.txt"
    lines = stats.read_text().splitlines() if stats.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=-1)


def weights(exp_dir, name="model.pth"):
    return torch.load(exp_dir / name, weights_only=True)


def assert_same_run(first, second):
    a, b = weights(first), weights(second)
    assert a["step"] == b["step"]
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(value, b["model"][key]) for key, value in a["model"].items())
    for one, other in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


@pytest.fixture(scope="module")
def undisturbed(pretrain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ran = pretrain(folder, "--positives", "temporal")
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.slow
def test_killed_at_several_steps_the_finished_weights_are_those_of_an_undisturbed_run(pretrain, undisturbed, tmp_path):
    run = tmp_path / "run"
    total = weights(undisturbed)["step"]
    for kill_at in (1, total // 2, total - 2):
        ran = pretrain(run, "--positives", "temporal", kill_at=kill_at)
        assert ran.returncode == -signal.SIGKILL
        assert not (run / "trained_model.pth").exists()
    ran = pretrain(run, "--positives", "temporal")
    assert ran.returncode == 0, ran.stderr
    assert "resume  from step" in ran.stdout
    assert_same_run(undisturbed, run)
    steps = [json.loads(line)["step"] for line in (run / "stats.txt").read_text().splitlines()]
    assert steps == list(range(1, total + 1))  # no line twice, none lost
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_from_there(pretrain, undisturbed, tmp_path, number):
    run = tmp_path / "run"
    ran = pretrain(run, "--positives", "temporal", "--checkpoint-every", "1000", kill_at=3, number=number)
    assert ran.returncode == 128 + number
    assert f"{number.name}: saved at step {weights(run)['step']}" in ran.stdout
    assert 3 <= weights(run)["step"] < weights(undisturbed)["step"]
    assert pretrain(run, "--positives", "temporal").returncode == 0
    assert_same_run(undisturbed, run)


@pytest.mark.slow
def test_workers_change_nothing(pretrain, undisturbed, tmp_path):
    assert pretrain(tmp_path / "run", "--positives", "temporal", "--workers", "2").returncode == 0
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_another_seed_gives_other_weights(pretrain, undisturbed, tmp_path):
    assert pretrain(tmp_path / "run", "--positives", "temporal", "--seed", "4").returncode == 0
    with pytest.raises(AssertionError):
        assert_same_run(undisturbed, tmp_path / "run")


def test_a_finished_run_started_again_does_nothing(pretrain, undisturbed):
    before = (undisturbed / "model.pth").read_bytes()
    ran = pretrain(undisturbed, "--positives", "temporal")
    assert ran.returncode == 0
    assert "nothing left to do" in ran.stdout
    assert (undisturbed / "model.pth").read_bytes() == before


def test_a_folder_that_another_run_is_writing_to_is_refused(pretrain, tmp_path):
    with lock_run_dir(tmp_path / "run"):
        half_written = tmp_path / "run" / ".model.pth.1.partial"
        half_written.touch()
        ran = pretrain(tmp_path / "run")
    assert half_written.exists()
    assert ran.returncode == 1
    assert "another run" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(("flag", "value"), [("--arch", "resnet34"), ("--mlp", "16-8")])
def test_another_network_in_the_same_folder_is_refused(pretrain, undisturbed, flag, value):
    ran = pretrain(undisturbed, flag, value)
    assert ran.returncode == 1
    assert flag in ran.stderr and value in ran.stderr and "--exp-dir" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(pretrain, tmp_path):
    run = tmp_path / "run"
    ran = pretrain(run, "--base-lr", "1e20", "--checkpoint-every", "1")
    assert ran.returncode == 1
    assert "--lr" in ran.stderr and "Traceback" not in ran.stderr
    assert all(torch.isfinite(value).all() for value in weights(run, "model.diverged.pth")["model"].values())
    assert not (run / "trained_model.pth").exists()
    ran = pretrain(run)  # not from the weights whose loss is no number
    assert ran.returncode == 0 and "nothing left" not in ran.stdout, ran.stderr
    assert (run / "trained_model.pth").exists()


def test_of_several_checkpoints_the_one_whose_weights_gave_no_loss_is_put_aside(tmp_path):
    for step in (4, 6):
        checkpoint_io.save({"step": step}, tmp_path / "model.pth", checkpoint.PREVIOUS_FILE)
    checkpoint.quarantine_checkpoint(tmp_path, 7)  # weights that came later, in no file
    assert checkpoint.load_latest(tmp_path)[0]["step"] == 6
    checkpoint.quarantine_checkpoint(tmp_path, 6)
    assert checkpoint.load_latest(tmp_path)[0]["step"] == 4 and weights(tmp_path, "model.diverged.pth")["step"] == 6


def test_deterministic_algorithms_change_nothing_on_a_cpu(pretrain, undisturbed, tmp_path):
    ran = pretrain(tmp_path / "run", "--positives", "temporal", "--deterministic")
    assert ran.returncode == 0, ran.stderr
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_finished_run_is_not_taken_for_one_with_other_positives(pretrain, undisturbed):
    ran = pretrain(undisturbed, "--positives", "same")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "holds a finished run with --positives temporal, not same; choose another --exp-dir" in ran.stderr
