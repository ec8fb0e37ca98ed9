"""A script ends with one line and an exit code, not with a traceback, when the user made a mistake."""

import argparse
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from vicreg.common import cli
from vicreg.engine.pretrain_config import get_parser

GPU_FULL = torch.cuda.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3 GiB is free."
)


def raises(error):
    raise error


def arguments(tmp_path, *words):
    return get_parser("a test").parse_args(["--exp-dir", str(tmp_path / "run"), *map(str, words)])


def run_program(repo_root, body, shell="{program}"):
    """Run ``def main(namespace): <body>`` through ``cli.run`` in a new process, within a shell command."""
    code = f"import sys; sys.path.insert(0, {str(repo_root)!r}); sys.argv = ['script.py']\n"
    code += f"from vicreg.common import cli\ndef main(namespace):\n    {body}\ncli.run(main, None)\n"
    command = shell.format(program=f'{sys.executable} -c "$CODE"')
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], env={"CODE": code, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vicreg/main_vicreg_sn7.py"])
    for name in ("TRACEBACK", "RANK", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError])
def test_run_reports_a_mistake_of_the_user_in_one_line_with_exit_code_1(one_process, monkeypatch, capsys, kind):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda namespace: raises(kind("a reason")), None)
    assert end.value.code == 1 and capsys.readouterr().err == "main_vicreg_sn7: a reason\n"
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(kind):
        cli.run(lambda namespace: raises(kind("a reason")), None)


def test_run_reports_on_any_rank_if_no_local_rank_is_set(one_process, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        cli.run(lambda namespace: raises(ValueError("a reason")), None)
    assert capsys.readouterr().err == f"main_vicreg_sn7: rank 1 on {socket.gethostname()}: a reason\n"


@pytest.mark.parametrize(("local_rank", "seconds"), [(0, None), (1, 11), (3, 13)])
def test_run_waits_before_reporting_except_on_local_rank_0(one_process, monkeypatch, capsys, local_rank, seconds):
    slept = []
    monkeypatch.setattr(cli.time, "sleep", slept.append)
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    with pytest.raises(SystemExit):
        cli.run(lambda namespace: raises(ValueError("a reason")), None)
    assert slept == ([seconds] if seconds else [])
    assert capsys.readouterr().err == "main_vicreg_sn7: a reason\n"


@pytest.mark.parametrize(
    ("more", "fail", "expected"),
    [
        ((), lambda: raises(GPU_FULL), "out of GPU memory (Tried to allocate 20.00 GiB); reduce it with a smaller "
         "--batch-size, --accumulate K (the same batch in K micro-batches), a smaller --image-size"),
        (("--cache-on-device",), lambda: raises(GPU_FULL), "a smaller --image-size, no --cache-on-device"),
        ((), lambda: torch.empty(2**60, dtype=torch.uint8), f"out of host memory (tried to allocate {2**60} bytes); "
         "reduce it with a smaller --batch-size"),
        ((), lambda: np.empty(2**60, np.uint8), "out of host memory (Unable to allocate 1.00 EiB"),
        ((), lambda: raises(MemoryError()), "out of host memory; reduce it with a smaller --batch-size"),
    ],
)  # fmt: skip
def test_run_reports_out_of_memory_with_the_options_that_reduce_it(tmp_path, capsys, more, fail, expected):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda namespace: fail(), arguments(tmp_path, *more))
    message = capsys.readouterr().err
    assert end.value.code == 1 and expected in message and len(message.splitlines()) == 1


def test_run_names_the_run_folder_where_an_error_names_no_file(tmp_path):
    full = OSError(28, "No space left on device")
    assert cli.explain(full, arguments(tmp_path)) == (
        f"No space left on device: {tmp_path / 'run'}; free some space there or choose another --exp-dir"
    )
    denied = PermissionError(13, "Permission denied", "/data/a.csv")
    assert cli.explain(denied, None) == "Permission denied: /data/a.csv; change its permissions or choose another"


def test_run_keeps_the_traceback_of_a_bug_and_returns_the_result():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda namespace: 1 / namespace, 0)
    assert cli.run(lambda namespace: 1 / namespace, 2) == 0.5


def test_run_ends_with_one_line_and_130_on_ctrl_c(repo_root):
    # pytest may have been started in the background, where the shell lets its processes ignore the signal
    body = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); print('on', flush=True); "
    ended = run_program(repo_root, body + "os.kill(os.getpid(), signal.SIGINT)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "on\n", "script: interrupted\n")


@pytest.mark.parametrize("flush", [True, False])
def test_run_ends_quietly_with_141_when_the_reader_of_stdout_has_gone(repo_root, flush):
    body = f"import time; print('first', flush=True); time.sleep(1); print('x' * 100, flush={flush})"
    ended = run_program(repo_root, body, "{program} | head -n 1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, "first\n", "")


def test_run_prints_escapes_where_stdout_is_ascii(repo_root):
    ended = run_program(repo_root, "print('0.5 ± 0.1'); raise ValueError('Å')", "PYTHONIOENCODING=ascii {program}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "0.5 \\xb1 0.1\n", "script: \\xc5\n")


def test_run_reports_a_broken_pipe_that_is_not_stdout(repo_root):
    ended = run_program(repo_root, "raise BrokenPipeError(32, 'Broken pipe', 'socket')", "{program} | cat")
    assert ended.returncode == 1 and ended.stderr == "script: [Errno 32] Broken pipe: 'socket'\n"


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), [1, 0], (1, 0)])
def test_check_positive_names_the_flag_and_the_value(value):
    namespace = argparse.Namespace(base_lr=value, epochs=None, scale=2, lrs=(0.1, 0.3))
    cli.check_positive(namespace, "epochs", "scale", "lrs")
    with pytest.raises(ValueError, match="--base-lr .*: must be positive") as error:
        cli.check_positive(namespace, "epochs", "base_lr")
    assert str(value) in str(error.value)
