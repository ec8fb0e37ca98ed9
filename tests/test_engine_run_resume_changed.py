"""Runs that go on in other circumstances: another optimizer's state, micro-batches, another number of processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

TOY = (
    "--arch test_resnet --mlp 16-16 --batch-size 16 --image-size 16 --workers 0 --device cpu --seed 3 --epochs 4 "
    "--checkpoint-every 3 --log-freq-time 0 --probe-every 0"
).split()
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def pretrain(repo_root, sn7_prepared):
    """Function (exp_dir, *more, launch=ONE, end_at=None, number) -> exit code and output."""

    def run(exp_dir, *more, launch=ONE, end_at=None, number=signal.SIGKILL):
        command = [*launch, repo_root / "vicreg/main_vicreg_sn7.py", "--csv-dir", sn7_prepared, "--exp-dir", exp_dir]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, *TOY, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        while end_at is not None and process.poll() is None and len(rates(exp_dir)) < end_at:
            time.sleep(0.002)
        if end_at is not None:
            process.send_signal(number)
        return process.communicate(timeout=300)[0], process.returncode

    return run


def rates(exp_dir):
    """Rate of every logged step, by step."""
    stats = exp_dir / "stats.txt"
    lines = stats.read_text().splitlines() if stats.is_file() else []
    return {line["step"]: line["lr"] for line in (json.loads(text) for text in lines if text.endswith("}"))}


def weights(exp_dir):
    return torch.load(exp_dir / "model.pth", weights_only=True)


@pytest.mark.slow
def test_adamw_in_micro_batches_killed_and_started_again_gives_the_same_weights(pretrain, tmp_path):
    more = ["--optimizer", "adamw", "--base-lr", "0.01", "--accumulate", "3", "--positives", "neighbor"]
    out, code = pretrain(tmp_path / "whole", *more)
    assert code == 0, out
    assert "in 3 micro-batches" in out
    assert pretrain(tmp_path / "cut", *more, end_at=5)[1] == -signal.SIGKILL
    out, code = pretrain(tmp_path / "cut", *more)
    assert code == 0, out
    assert "resume  from step 3" in out
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, cut["model"][key]) for key, value in whole["model"].items())
    for one, other in zip(whole["optimizer"]["state"].values(), cut["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("exp_avg", "exp_avg_sq", "step"))
    assert rates(tmp_path / "whole") == rates(tmp_path / "cut")


@pytest.mark.slow
def test_begun_by_two_processes_and_ended_by_one_a_run_keeps_its_batch_its_step_and_its_schedule(pretrain, tmp_path):
    # 17 over 2 processes is 8 each: the single process goes on with 16, not with 17
    batch = ["--batch-size", "17"]
    out, code = pretrain(tmp_path / "run", *batch, launch=TWO, end_at=4, number=signal.SIGTERM)
    assert code != 0 and "saved at step" in out, out
    saved = weights(tmp_path / "run")["step"]
    out, code = pretrain(tmp_path / "run", *batch)
    assert code == 0, out
    assert f"resume  from step {saved}" in out and "16 (of 17 asked for) = 16 x 1" in out
    found = rates(tmp_path / "run")
    assert list(found) == list(range(1, max(found) + 1))
    assert pretrain(tmp_path / "alone", "--batch-size", "16")[1] == 0
    assert found == rates(tmp_path / "alone")


def test_another_optimizer_in_the_same_folder_is_refused(pretrain, tmp_path):
    out, code = pretrain(tmp_path, "--max-steps", "1")
    assert code == 0, out
    out, code = pretrain(tmp_path, "--optimizer", "adamw")
    assert code == 1 and "--optimizer lars, not adamw" in out and "Traceback" not in out


def test_a_run_may_begin_with_another_ones_backbone_and_more_channels_are_made_of_its_three(pretrain, tmp_path):
    assert pretrain(tmp_path / "first", "--max-steps", "1")[1] == 0
    backbone = tmp_path / "first" / "trained_model.pth"
    out, code = pretrain(tmp_path / "second", "--max-steps", "1", "--init-from", str(backbone))
    assert code == 0, out
    assert f"test_resnet from {backbone}" in out
    out, code = pretrain(tmp_path / "third", "--init-from", str(tmp_path / "nowhere.pth"))
    assert code == 1 and "nowhere.pth" in out and "Traceback" not in out
