"""A checkpoint outlives power cuts, full disks and folders that cannot be written; what is not ours is refused."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from vicreg import distributed
from vicreg.common import checkpoint_io
from vicreg.common.checkpoint_io import MODEL_FILE, save
from vicreg.common.logger import LOCK_FILE, lock_run_dir
from vicreg.engine.checkpoint import PREVIOUS_FILE, load_latest

NAMES = {MODEL_FILE, PREVIOUS_FILE}


def state(step):
    return {"step": step, "model": torch.arange(1000.0) + step}


def save_steps(folder, *steps):
    for step in steps:
        save(state(step), folder / MODEL_FILE, previous=PREVIOUS_FILE)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_checkpoint_before_is_kept(tmp_path):
    assert load_latest(tmp_path) == (None, None)
    save_steps(tmp_path, 1)
    assert names(tmp_path) == {MODEL_FILE}
    save_steps(tmp_path, 2, 3)
    assert names(tmp_path) == NAMES
    assert checkpoint_io.load(tmp_path / PREVIOUS_FILE)["step"] == 2
    assert load_latest(tmp_path)[0]["step"] == 3 and load_latest(tmp_path)[1] == tmp_path / MODEL_FILE


def test_tensors_are_on_the_cpu_whatever_device_processes_communicate_on(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    sent = []  # "meta" stands for a GPU
    monkeypatch.setattr(distributed, "all_reduce", lambda number, op: sent.append(number.device.type) or 1)
    found, _ = load_latest(tmp_path, torch.device("meta"))
    assert found["model"].device.type == "cpu" and sent == ["meta"]


def spoil_a_block(path):
    content = bytearray(path.read_bytes())
    content[2000] ^= 1  # within the tensor's numbers
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["step"] == 3  # PyTorch does not notice


def object_in_pickle(path):
    path.write_bytes(pickle.dumps({"step": 9, "model": Path("x")}))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut at the end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "spoilt block": spoil_a_block,
    "not ours": object_in_pickle,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_used_and_said(tmp_path, capsys, damage):
    save_steps(tmp_path, 2, 3)
    DAMAGES[damage](tmp_path / MODEL_FILE)
    found, path = load_latest(tmp_path)
    assert found["step"] == 2 and torch.equal(found["model"], state(2)["model"])
    assert path == tmp_path / PREVIOUS_FILE
    said = capsys.readouterr().out
    assert str(tmp_path / MODEL_FILE) in said and "model.pth.broken" in said and "previous checkpoint" in said
    save_steps(tmp_path, 3)  # must not push the good one out by the broken one
    assert checkpoint_io.load(tmp_path / PREVIOUS_FILE)["step"] == 2 and load_latest(tmp_path)[0]["step"] == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_with_no_other_to_go_on_from_it_is_an_error_and_the_file_stays(tmp_path, damage):
    save_steps(tmp_path, 3)
    DAMAGES[damage](tmp_path / MODEL_FILE)
    with pytest.raises(ValueError, match="there is no other checkpoint") as error:
        load_latest(tmp_path)
    assert str(tmp_path / MODEL_FILE) in str(error.value) and "--exp-dir" in str(error.value)
    assert names(tmp_path) == {MODEL_FILE}


def test_a_power_cut_between_the_two_renames_of_a_file_system_without_links_leaves_one(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    save_steps(tmp_path, 1, 2, 3)
    assert checkpoint_io.load(tmp_path / PREVIOUS_FILE)["step"] == 2 and load_latest(tmp_path)[0]["step"] == 3
    (tmp_path / MODEL_FILE).unlink()
    assert load_latest(tmp_path)[0]["step"] == 2


@pytest.mark.parametrize("call", ["os.link", "os.replace", "os.fsync"])
def test_at_every_moment_of_saving_there_is_a_good_file(tmp_path, monkeypatch, call):
    save_steps(tmp_path, 1, 2)
    real, seen = getattr(os, call.partition(".")[2]), []

    def look(*arguments):
        for after in (False, True):
            seen.append(load_step(tmp_path))
            if not after:
                real(*arguments)

    monkeypatch.setattr(os, call.partition(".")[2], look)
    save_steps(tmp_path, 3)
    assert seen and set(seen) <= {2, 3}


def load_step(folder):
    return next(
        checkpoint_io.load(folder / name)["step"] for name in (MODEL_FILE, PREVIOUS_FILE) if (folder / name).exists()
    )


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / f".{MODEL_FILE}.123.partial").write_bytes(b"half")
    lock_run_dir(tmp_path).close()
    assert names(tmp_path) == {MODEL_FILE, LOCK_FILE}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_named_and_leaves_the_old_file_and_no_half_one(small_disk):
    save_steps(small_disk, 1, 2)
    with pytest.raises(OSError, match="No space left on device; check free space") as error:
        save({"model": torch.zeros(100_000)}, small_disk / MODEL_FILE, previous=PREVIOUS_FILE)
    assert str(small_disk / MODEL_FILE) in str(error.value) and "The old file is unchanged" in str(error.value)
    assert names(small_disk) == NAMES and load_latest(small_disk)[0]["step"] == 2


def test_a_full_disk_ends_a_run_in_one_line_with_its_last_checkpoint(train, small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run = small_disk / "run"  # checkpoints of 3 MB: the third finds no room beside two others
    ran = train(run, launcher=None)
    assert ran.wait(0) == 1
    last = ran.text(0).splitlines()[-1]
    assert last.startswith(f"main_vicreg_sn7: cannot write {run / MODEL_FILE}: No space left on device")
    assert "Traceback" not in ran.text(0)
    assert load_latest(run)[0]["step"] == 4 and not [name for name in names(run) if "partial" in name]


FILE_SIZE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
"""


def test_a_file_that_may_not_grow_ends_a_run_in_one_line(train, fork, tmp_path, sn7_prepared):
    ran = train(tmp_path / "run", launcher=None, before=FILE_SIZE)
    assert ran.wait(0) == 1
    assert f"cannot write {tmp_path / 'run' / MODEL_FILE}: File too large" in ran.text(0).splitlines()[-1]
    assert "Nothing was written" in ran.text(0) and "Traceback" not in ran.text(0)
    assert not [name for name in names(tmp_path / "run") if "model" in name]


def test_a_folder_that_cannot_be_written_ends_a_run_in_one_line(train, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for folder in (small_disk, small_disk / "run"):
        ran = train(folder, launcher=None, out=small_disk.parent / "out")
        assert ran.wait(0) == 1
        (line,) = ran.text(0).splitlines()
        assert line.startswith(f"main_vicreg_sn7: Read-only file system: {folder}") and "choose" in line


def test_two_processes_agree_on_the_checkpoint_before(train, tmp_path):
    run = tmp_path / "run"
    train(run, "--max-steps", 8, processes=2).wait(0)
    os.truncate(run / MODEL_FILE, 1000)
    ran = train(run, processes=2)
    assert [ran.wait(0), ran.wait(1)] == [0, 0], ran.text(0) + ran.text(1)
    assert "model.pth.broken" in ran.text(0) and "resume  from step 6" in ran.text(0)
    assert load_latest(run)[0]["step"] == 55 and ran.text(1) == ""


def test_a_disk_that_fills_up_between_checkpoints_is_one_line_too(train, small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    ran = train(small_disk / "run", "--checkpoint-every", 1000, launcher=None, out=tmp_path / "out")
    ran.reach(3)
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'filler'}", "bs=1k"], capture_output=True)
    assert ran.wait(0) == 1
    last = ran.text(0).splitlines()[-1]
    assert "No space left on device" in last and str(small_disk / "run") in last and "--exp-dir" in last
    assert "Traceback" not in ran.text(0)
