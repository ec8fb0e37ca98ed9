"""The provenance of a run folder: what ran, on what, and how it ended, also for scripts that fail or are killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vicreg.common import cli, provenance, results

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_open_sessions():
    yield
    provenance.finish()


def session(folder):
    return provenance.read(folder)["sessions"][-1]


def test_a_session_records_command_commit_versions_device_data_and_times(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vicreg/embed.py", "--out", "a b.parquet"])
    provenance.start(tmp_path, "evaluation", CPU, {"validation samples": "5f1d"})
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert (content["schema"], content["kind"]) == (provenance.SCHEMA, "evaluation")
    found = content["sessions"][0]
    assert found["command"] == "python vicreg/embed.py --out 'a b.parquet'" and found["directory"] == os.getcwd()
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["data"] == {"validation samples": "5f1d"} and found["device"] and found["processes"] == 1
    assert (found["status"], found["end"]) == ("running", None)
    provenance.finish()
    assert (session(tmp_path)["status"], session(tmp_path)["message"]) == ("finished", "")
    assert session(tmp_path)["end"] >= session(tmp_path)["start"]


def test_the_commit_is_that_of_this_repository_and_unknown_elsewhere(repo_root, monkeypatch):
    provenance._commit.cache_clear()
    words = ["git", "-C", str(repo_root), "rev-parse", "HEAD"]
    ran = subprocess.run(words, capture_output=True, text=True)
    expected = ran.stdout.strip() or None
    assert provenance._commit()["commit"] == expected and isinstance(provenance._commit()["dirty"], bool | None)
    provenance._commit.cache_clear()
    monkeypatch.setattr(provenance, "_git", lambda *_: "/another/repository\n1a2b")
    assert provenance._commit() == {"commit": None, "dirty": None}
    provenance._commit.cache_clear()


def test_torchrun_and_srun_are_part_of_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(provenance, "world_size", lambda: 8)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert provenance._command() == "srun --ntasks=8 python train.py"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert provenance._command() == "torchrun --nnodes=2 --nproc-per-node=4 train.py"


def test_a_resumed_run_appends_and_a_damaged_file_is_replaced(tmp_path):
    (tmp_path / "provenance.json").write_text('{"sessions": [')
    for status in ("stopped", "finished"):
        provenance.start(tmp_path, "pretraining", CPU)
        provenance.finish(status)
    assert [found["status"] for found in provenance.read(tmp_path)["sessions"]] == ["stopped", "finished"]


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("ends", "status", "message"),
    [
        (lambda: None, "finished", ""),
        (lambda: fail(ValueError("--lr 0: must be positive")), "failed", "--lr 0: must be positive"),
        (lambda: fail(KeyError("x")), "failed", "KeyError: 'x'"),
        (lambda: fail(KeyboardInterrupt()), "stopped", "SIGINT"),
        (lambda: sys.exit(128 + signal.SIGTERM), "stopped", "SIGTERM"),
        (lambda: sys.exit(255), "failed", "exit status 255"),
    ],
)
def test_cli_run_records_how_a_script_ends(tmp_path, ends, status, message):
    def main(_):
        provenance.start(tmp_path, "evaluation", CPU)
        ends()

    try:
        cli.run(main, None)
    except (SystemExit, KeyError):
        pass
    assert (session(tmp_path)["status"], session(tmp_path)["message"]) == (status, message)


def test_a_signal_ends_a_process_that_does_not_handle_it_at_once(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    provenance.start(tmp_path, "evaluation", CPU)
    assert signal.getsignal(signal.SIGTERM) == before  # a handler would wait for the end of a call into C
    provenance.finish()


def test_a_tree_whose_state_is_unknown_is_not_called_clean(tmp_path, monkeypatch):
    root = str(Path(provenance.__file__).resolve().parents[2])
    monkeypatch.setattr(provenance, "_git", lambda path, *words: f"{root}\nabc" if "rev-parse" in words else None)
    provenance._commit.cache_clear()
    try:
        assert provenance._commit() == {"commit": "abc", "dirty": None}
    finally:
        provenance._commit.cache_clear()


def test_a_result_without_its_facts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a result needs .*intervals_of"):
        results.write_result(tmp_path / "result.json", {"top1": 0.5})
    results.write_result(tmp_path / "result.json", dict.fromkeys(results.REQUIRED) | {"top1": 0.5})
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == results.SCHEMA
