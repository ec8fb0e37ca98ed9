"""Files are written completely or not at all."""

import errno
import os
import re
import stat
import subprocess
import sys

import pytest
import torch

from vicreg.common import checkpoint_io, files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_renames_a_complete_file_of_the_same_suffix(tmp_path):
    path, seen = tmp_path / "a.b.tif", []

    def write(temporary):
        seen.append(temporary)
        temporary.write_bytes(b"new")
        assert not path.exists()
        return 7

    assert files.atomic_write(path, write) == 7
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.b.tif"]
    assert seen[0].parent == tmp_path and seen[0].suffix == ".tif" and seen[0].name.startswith(".")


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), FileNotFoundError(2, "no", "input.tif")])
def test_atomic_write_leaves_the_old_file_and_raises_the_error_of_the_writer(tmp_path, error):
    path = tmp_path / "table.csv"
    files.write_text(path, "old ü")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        files.atomic_write(path, write)
    assert caught.value is error
    assert path.read_text(encoding="utf-8") == "old ü" and names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_atomic_write_names_the_file_and_the_reason_of_a_failed_write(tmp_path, monkeypatch, fails, old):
    path = tmp_path / "a.json"
    if old:
        files.write_json(path, {"old": 1})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match=f"cannot write {path}: No space left on device; check free space") as error:
        files.write_json(path, {"new": 1})
    assert ("The old file is unchanged" if old else "Nothing was written") in str(error.value)
    assert names(tmp_path) == (["a.json"] if old else [])


@pytest.mark.parametrize("hard_links", [True, False])
def test_atomic_write_keeps_the_old_file_under_another_name(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    for text in ("1", "2", "3"):
        files.atomic_write(tmp_path / "a.txt", lambda path, text=text: path.write_text(text), previous="a.old.txt")
    assert (tmp_path / "a.txt").read_text() == "3" and (tmp_path / "a.old.txt").read_text() == "2"
    assert names(tmp_path) == ["a.old.txt", "a.txt"]


def test_write_bytes_checks_the_file_before_it_gets_its_name(tmp_path):
    path = tmp_path / "a.bin"
    assert files.write_bytes(path, b"12", lambda temporary: temporary.stat().st_size) == 2

    def refuse(temporary):
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        files.write_bytes(path, b"3", refuse)
    assert path.read_bytes() == b"12" and names(tmp_path) == ["a.bin"]


def test_remove_partial_files_removes_those_of_killed_processes_only(tmp_path):
    code = "import os, sys; from vicreg.common import files\n"
    code += "files.atomic_write(sys.argv[1], lambda path: (path.write_text('half'), os.kill(os.getpid(), 9)))"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.pth"], cwd=root)
    (tmp_path / ".model.pth.1.partial").touch()  # as older versions name them
    for name in ("model.pth", ".lock", "a.partial"):
        (tmp_path / name).touch()
    assert len(names(tmp_path)) == 5
    files.remove_partial_files(tmp_path)
    assert names(tmp_path) == [".lock", "a.partial", "model.pth"]


def test_atomic_write_removes_what_killed_processes_of_this_machine_left_in_the_folder(tmp_path):
    temporary = files.atomic_write(tmp_path / "a.b.csv", lambda path: (path.touch(), path.name)[1])
    host, pid = re.fullmatch(r"\.a\.b\.([^.]+)-(\d+)\.partial\.csv", temporary).groups()
    kept = [
        f".x.{host}-1.partial.tif",
        ".x.elsewhere-999999999.partial.tif",
        f".x.{host.rpartition('-')[0]}-1-999999999.partial.tif",  # of another container
        f".x.{host}-{10**30}.partial",
        f".x.{host}-{pid}.partial",
    ]
    for name in (f".x.{host}-999999999.partial.tif", f".y.z.{host}-999999998.partial", *kept):
        (tmp_path / name).touch()
    files._swept.clear()
    files.write_text(tmp_path / "c.txt", "c")
    assert names(tmp_path) == sorted(["a.b.csv", "c.txt", *kept])


def test_partial_folder_is_removed_and_so_are_those_of_killed_processes(tmp_path):
    out = tmp_path / "out"
    with files.partial_folder(out) as partial:
        assert partial.parent == out and partial.is_dir()
        stale = partial.with_name(partial.name.rpartition("-")[0] + "-999999999")
        stale.mkdir()
    assert stale.is_dir()
    with files.partial_folder(out):
        assert not stale.exists()
    out.rmdir()  # it is empty
    with pytest.raises(ZeroDivisionError), files.partial_folder(out):
        raise ZeroDivisionError
    assert not out.exists()


def test_check_writable_refuses_folders_other_suffixes_and_missing_folders(tmp_path):
    assert files.check_writable(f"{tmp_path}/a.pth", (".pth",)) == tmp_path / "a.pth"
    with pytest.raises(ValueError, match="is a folder"):
        files.check_writable(tmp_path)
    with pytest.raises(ValueError, match=r"use \.pth or \.pt"):
        files.check_writable(tmp_path / "a.bin", (".pth", ".pt"))
    with pytest.raises(FileNotFoundError, match="no folder .*missing"):
        files.check_writable(tmp_path / "missing" / "a.pth")


def test_checkpoint_has_the_same_bytes_under_any_name_and_the_permissions_of_the_umask(tmp_path):
    for name in ("a.pth", "other.pth"):
        checkpoint_io.save({"step": 1, "weight": torch.arange(3.0)}, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "other.pth").read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.pth").stat().st_mode) == 0o666 & ~umask
    assert checkpoint_io.load(tmp_path / "a.pth")["weight"].tolist() == [0, 1, 2]


def test_publish_replaces_the_outputs_and_moves_meta_json_last(tmp_path, monkeypatch):
    out, moved = tmp_path / "out", []
    for name in ("all.csv", "old.npy", "meta.json"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("old")
    (out / "train").mkdir()
    (out / "train" / "old.png").touch()
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target.name), replace(source, target)))
    with files.partial_folder(out) as partial:
        (partial / "train").mkdir()
        for name in ("all.csv", "meta.json", "train/new.png"):
            (partial / name).write_text("new")
        files.publish(partial, out, ("all.csv", "old.npy", "meta.json", "train"))
    assert moved == ["all.csv", "train", "meta.json"]
    assert names(out) == ["all.csv", "meta.json", "train"] and names(out / "train") == ["new.png"]
    assert (out / "all.csv").read_text() == "new"
