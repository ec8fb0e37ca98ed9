"""Facts about make_sn7_csv.py --split published: a test list beside the others, and AOIs that are in no list."""

import json
import shutil

import pandas as pd
import pytest

from tests.conftest import call_script
from vicreg.data.sn7 import SN7Patches

SCRIPT = "preprocessing/make_sn7_csv.py"
# of the tiny tree: two AOIs for training, one for validation, one for testing
PARTS = {"L15-0331E-1257N_1327_3160_13": "train", "L15-1669E-1153N_6678_3579_13": "train",
         "L15-1014E-1375N_4056_2688_13": "val", "L15-1025E-1366N_4102_2726_13": "test"}  # fmt: skip
TEST_AOI, NOWHERE = "L15-1025E-1366N_4102_2726_13", "L15-0571E-1075N_2287_3888_13"


@pytest.fixture
def prepare(sn7_tree, tmp_path):
    """Function (options) -> CompletedProcess; writes to tmp_path / "out"."""
    return lambda *options: call_script(SCRIPT, "--data-dir", sn7_tree, "--out-dir", tmp_path / "out", *options)


def lists(folder):
    return {path.stem: pd.read_csv(path, keep_default_na=False) for path in folder.glob("*.csv")}


def rename_an_aoi(tree, old, new):
    shutil.move(tree / old, tree / new)
    for path in (tree / new / "images").iterdir():
        path.rename(path.with_name(path.name.replace(old, new)))


def test_each_published_part_gets_its_list_and_the_statistics_are_the_training_parts(prepare, tmp_path):
    ran = prepare("--split", "published")
    assert ran.returncode == 0, ran.stderr
    found = lists(tmp_path / "out")
    assert set(found) == {"all", "train", "val", "test"}
    assert all(set(found[PARTS[aoi]].aoi) >= {aoi} for aoi in PARTS) and len(found["all"]) == 240
    assert sum(len(found[part]) for part in ("train", "val", "test")) == 240
    assert "112 training, 64 validation and 64 test patches (0.364 held out)" in ran.stdout
    assert "validation classes without training patches: 1 of 1" in ran.stdout  # England is held out whole
    train = SN7Patches(tmp_path / "out" / "train.csv")
    pixels = train.images(range(len(train))).double() / 255
    assert train.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert len(SN7Patches(tmp_path / "out" / "test.csv")) == 64


def test_an_aoi_in_none_of_the_lists_stays_in_all_csv_alone_and_is_named(prepare, sn7_tree, tmp_path):
    rename_an_aoi(sn7_tree, TEST_AOI, NOWHERE)
    ran = prepare("--split", "published")
    assert ran.returncode == 0, ran.stderr
    found = lists(tmp_path / "out")
    assert set(found) == {"all", "train", "val"}  # nobody is left to test on
    assert found["all"].groupby("split").aoi.unique().str[0].to_dict()["unused"] == NOWHERE
    assert NOWHERE not in {*found["train"].aoi, *found["val"].aoi}
    assert f"in all.csv only: 1 AOI, 64 patches ({NOWHERE})" in ran.stdout
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["counts"]["unused"] == 64


def test_another_split_afterwards_removes_the_test_list(prepare, tmp_path):
    prepare("--split", "published")
    assert (tmp_path / "out" / "test.csv").is_file()
    assert prepare("--split", "block").returncode == 0
    assert not (tmp_path / "out" / "test.csv").exists()


def test_a_fraction_that_cannot_apply_is_ignored_with_a_note(prepare):
    assert "--val-fraction is ignored" in prepare("--split", "published", "--val-fraction", "0.5").stderr
    assert "--val-fraction" not in prepare("--split", "published").stderr


def test_a_tree_the_lists_do_not_know_is_refused_and_nothing_is_written(prepare, sn7_tree, tmp_path):
    for aoi, part in PARTS.items():
        if part == "val":
            rename_an_aoi(sn7_tree, aoi, NOWHERE)
    ran = prepare("--split", "published")
    assert ran.returncode == 1 and "none in its val part" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
@pytest.mark.slow
def test_the_published_split_of_the_whole_of_spacenet_7(real_data, tmp_path):
    tree = real_data / "sn7_128" / "train"
    if not tree.is_dir():
        pytest.skip(f"no SN7 tree at {tree}")
    ran = call_script(SCRIPT, "--data-dir", tree, "--out-dir", tmp_path / "out", "--split", "published", "--no-pack")
    assert ran.returncode == 0, ran.stderr
    assert "11264 training, 5776 validation and 5408 test patches" in ran.stdout
    assert f"1 AOI, 320 patches ({NOWHERE})" in ran.stdout
    assert "without training patches: 7 of 10" in ran.stdout
    aois = {name: table.aoi.nunique() for name, table in lists(tmp_path / "out").items()}
    assert aois == {"all": 60, "train": 30, "val": 15, "test": 14}
