"""The benchmarks run, at toy size."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_the_gpu_suite_runs_all_of_its_parts_on_a_cpu(repo_root, tmp_path):
    environment = {**os.environ, "TOY": "1", "PYTHON": sys.executable, "WORKERS": "1", "OMP_NUM_THREADS": "1"}
    command = ["bash", repo_root / "benchmarks" / "gpu_suite.sh", tmp_path / "table.txt"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=590)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = (tmp_path / "table.txt").read_text()
    assert table.count("\n== ") == 7 and table.count("\nours ") == 4 and table.count("\nnetwork ") == 4
    for variant in ("cached", "torchrun"):
        assert f"\n{variant} " in table and "100 epochs in" in table


def test_a_part_of_the_gpu_suite_that_fails_does_not_stop_the_others_but_shows_in_the_exit_code(repo_root, tmp_path):
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho ran; exit 3\n")
    stand_in.chmod(0o755)
    command = ["bash", repo_root / "benchmarks" / "gpu_suite.sh", tmp_path / "table.txt"]
    ran = subprocess.run(command, env={**os.environ, "PYTHON": str(stand_in)}, capture_output=True, text=True)
    assert ran.returncode == 1 and (tmp_path / "table.txt").read_text().count("ran") == 7
