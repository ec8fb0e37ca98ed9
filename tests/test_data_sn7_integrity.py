"""A prepared SN7 folder whose files were truncated, replaced or changed is refused."""

import json
import shutil

import numpy as np
import pytest

from vicreg import main_vicreg_sn7
from vicreg.data.sn7 import SN7Patches
from vicreg.data.tables import verify_folder


@pytest.fixture
def folder(sn7_prepared, tmp_path):
    return shutil.copytree(sn7_prepared, tmp_path / "csv")


def change_meta(folder, **values):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **values}))


def change_pack(folder, function):
    np.save(folder / "patches.npy", function(np.load(folder / "patches.npy")))


@pytest.mark.parametrize("name", ["train.csv", "val.csv", "all.csv"])
def test_a_truncated_list_is_refused_and_one_of_another_name_is_read(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(lines[:-3]))
    (folder / "mine.csv").write_text("".join(lines[:-3]))
    with pytest.raises(ValueError, match=f"{name} has {len(lines) - 4} rows, meta.json says {len(lines) - 1}"):
        SN7Patches(folder / name)
    assert len(SN7Patches(folder / "mine.csv")) == len(lines) - 4


@pytest.mark.parametrize(
    "function", [lambda pack: np.concatenate([pack, pack]), lambda pack: pack[:, :, :4], lambda pack: pack[:, :1]]
)
def test_a_pack_of_another_shape_is_refused(folder, function):
    change_pack(folder, function)
    with pytest.raises(ValueError, match=r"patches\.npy is .*meta\.json says \(240, 3, 8, 8\)"):
        SN7Patches(folder / "train.csv")


@pytest.mark.parametrize(("change", "message"), [({"rows": 7}, r"meta\.json says \(7, 3"), ({"format": 2}, "format 2")])
def test_meta_of_other_rows_or_format_is_refused(folder, change, message):
    change_meta(folder, **change)
    with pytest.raises(ValueError, match=message):
        SN7Patches(folder / "train.csv")


@pytest.mark.parametrize("function", [lambda pack: pack[::-1], np.zeros_like, lambda pack: pack ^ (np.arange(8) == 3)])
def test_a_changed_pack_is_found_on_request(folder, tmp_path, function):
    assert "patches.npy, all.csv, train.csv, val.csv are as" in verify_folder(folder)
    change_pack(folder, function)
    SN7Patches(folder / "train.csv")
    words = ["--csv-dir", str(folder), "--exp-dir", str(tmp_path / "run"), "--verify-data"]
    with pytest.raises(ValueError, match=r"--verify-data: .*patches\.npy is missing or was changed"):
        main_vicreg_sn7.main(main_vicreg_sn7.get_parser().parse_args(words))


def test_a_changed_label_is_found_on_request(folder):
    lines = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(lines[:-2] + str(int(lines[-8]) if lines[-8].isdigit() else 0) + "\n")
    with pytest.raises(ValueError, match=r"train\.csv is missing or was changed"):
        verify_folder(folder)


def test_a_folder_without_digests_loads_and_cannot_be_verified(folder):
    change_meta(folder, sha256=None)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["sha256"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert SN7Patches(folder / "train.csv").digests().keys() == {"samples"}
    with pytest.raises(ValueError, match=r"--verify-data: .*records no digests"):
        verify_folder(folder)


def test_digests_tell_lists_and_packs_apart(folder, sn7_prepared):
    same, other = (SN7Patches(path).digests() for path in (folder / "train.csv", folder / "val.csv"))
    assert same == SN7Patches(sn7_prepared / "train.csv").digests() and same["samples"] != other["samples"]
    assert same["images"] == other["images"] == json.loads((folder / "meta.json").read_text())["sha256"]["patches.npy"]
