"""Errors of the user end in one line on stderr and exit code 1."""

import sys

import numpy as np
import pytest
import torch

from vicreg.common import cli
from vicreg.engine.config import get_parser


def arguments(tmp_path, *words):
    return get_parser("a test").parse_args(["--exp-dir", str(tmp_path / "run"), *map(str, words)])


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, FloatingPointError])
def test_an_error_of_the_user_is_one_line_and_exit_code_1(monkeypatch, capsys, kind):
    def main(args):
        raise kind("a reason")

    monkeypatch.setattr(sys, "argv", ["vicreg/main_vicreg_sn7.py"])
    monkeypatch.delenv("TRACEBACK", raising=False)
    for rank, said in (("", "main_vicreg_sn7: a reason\n"), ("0", "main_vicreg_sn7: a reason\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK", raising=False)
        with pytest.raises(SystemExit) as end:
            cli.run(main, None)
        assert end.value.code == 1 and capsys.readouterr().err == said
    monkeypatch.setenv("TRACEBACK", "1")
    with pytest.raises(kind):
        cli.run(main, None)


GPU_FULL = torch.cuda.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3 GiB is free."
)


@pytest.mark.parametrize(
    "more, fail, told",
    [
        ((), lambda: raises(GPU_FULL), "the GPU's memory does not suffice (Tried to allocate 20.00 GiB); less is "
         "needed with a smaller --batch-size, --accumulate K (the same batch in K parts), a smaller --image-size"),
        (("--store", "device"), lambda: raises(GPU_FULL), "a smaller --image-size, --store disk"),
        ((), lambda: torch.empty(2**60, dtype=torch.uint8), f"this machine's memory does not suffice (tried to "
         f"allocate {2**60} bytes); less is needed with a smaller --batch-size"),
        ((), lambda: np.empty(2**60, np.uint8), "this machine's memory does not suffice (Unable to allocate 1.00 EiB"),
    ],
)  # fmt: skip
def test_memory_that_does_not_suffice_is_told_with_what_needs_less(tmp_path, capsys, more, fail, told):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda args: fail(), arguments(tmp_path, *more))
    said = capsys.readouterr().err
    assert end.value.code == 1 and told in said and len(said.splitlines()) == 1


def raises(error):
    raise error


def test_an_error_of_ours_keeps_its_traceback_and_a_result_is_returned():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda args: 1 / args, 0)
    assert cli.run(lambda args: 1 / args, 2) == 0.5
