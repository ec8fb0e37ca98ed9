"""Splitting a folder of class folders: at random, by location, by longitude."""

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from preprocessing import folder_split, make_folder_split
from tests.conftest import call_script, write_tif


def write_scenes(folder, classes=("Forest", "River"), places=5, each=2):
    """Images named <class>_<place>_<number>.png, all different."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for place in range(places):
            for number in range(each):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{name}_{place}_{number}.png")
    return folder


def split(data, out, *more):
    words = ["--data-dir", str(data), "--out-dir", str(out), *map(str, more)]
    make_folder_split.main(make_folder_split.get_parser().parse_args(words))
    return [pd.read_csv(out / f"{part}.csv") for part in ("train", "val")]


def test_images_at_random_keep_the_shares_of_the_classes(tmp_path):
    train, val = split(write_scenes(tmp_path / "scenes"), tmp_path / "out", "--val-fraction", 0.3)
    assert val["class"].value_counts().to_dict() == {"Forest": 3, "River": 3}
    assert not set(train.path) & set(val.path) and len(train) + len(val) == 20
    assert (tmp_path / "out" / "val.txt").read_text().splitlines() == val.path.tolist()
    assert all((tmp_path / "scenes" / path).is_file() for path in val.path)
    again = split(tmp_path / "scenes", tmp_path / "again", "--val-fraction", 0.3)[1]
    other = split(tmp_path / "scenes", tmp_path / "other", "--val-fraction", 0.3, "--seed", 1)[1]
    assert again.equals(val) and not other.equals(val)


def test_images_of_one_location_stay_together(tmp_path, capsys):
    pattern = r"(\w+)_(\d+)_\d+\."
    scenes = write_scenes(tmp_path / "scenes")
    train, val = split(scenes, tmp_path / "out", "--split", "location", "--location-pattern", pattern)
    assert not set(train.location) & set(val.location)
    assert (val.groupby("location").size() == 2).all() and len(val) == 4  # 2 of 10 locations
    assert "10 locations, 0 in both parts" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["split"]["location_pattern"] == pattern


@pytest.mark.parametrize("gcps", [False, True])
def test_the_east_is_held_out(tmp_path, gcps):
    for number, name in enumerate(["a", "b"]):
        for column in range(5):
            left = 1000.0 * column + 100 * number
            write_tif(tmp_path / "scenes" / name / f"{column}.tif", np.full((3, 4, 4), 9, np.uint8),
                      (left, 0, left + 50, 50), gcps)  # fmt: skip
    train, val = split(tmp_path / "scenes", tmp_path / "out", "--split", "block")
    assert sorted(val.path) == ["a/4.tif", "b/4.tif"] and len(train) == 8


def test_a_region_across_180_degrees_is_divided_inside_and_not_at_the_date_line():
    longitudes = np.array([178.0, 179, 179.5, -179.5, -179, -178])
    assert folder_split.eastern_part(longitudes, 1 / 3).tolist() == [False] * 4 + [True] * 2
    assert folder_split.eastern_part(np.array([-10.0, 20, 0, 10]), 0.25).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="same longitude"):
        folder_split.eastern_part(np.full(4, 7.0), 0.5)


def test_a_coordinate_system_that_cannot_be_transformed_is_named_with_its_file(tmp_path):
    path = tmp_path / "scenes" / "a" / "x.tif"
    path.parent.mkdir(parents=True)
    profile = {"driver": "GTiff", "count": 3, "height": 4, "width": 4, "dtype": "uint8"}
    profile |= {"crs": 'LOCAL_CS["site grid",UNIT["metre",1]]', "transform": rasterio.Affine(1, 0, 5, 0, -1, 5)}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.ones((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="x.tif: its coordinate reference system cannot be transformed"):
        split(tmp_path / "scenes", tmp_path / "out", "--split", "block")


def test_proj_of_another_installation_is_named(tmp_path, monkeypatch, run_script):
    write_tif(tmp_path / "scenes" / "a" / "0.tif", np.ones((3, 4, 4), np.uint8), (0, 0, 50, 50))
    monkeypatch.setenv("PROJ_DATA", str(tmp_path))
    words = ["--data-dir", tmp_path / "scenes", "--out-dir", tmp_path / "out", "--split", "block"]
    done = run_script("preprocessing/make_folder_split.py", *words)
    assert done.returncode == 1 and f"unset PROJ_DATA={tmp_path}" in done.stderr and "Traceback" not in done.stderr


def test_the_audit_reads_the_lists(tmp_path):
    scenes = write_scenes(tmp_path / "scenes")
    split(scenes, tmp_path / "out", "--split", "location", "--location-pattern", r"(\w+)_(\d+)_\d+\.")
    ran = call_script("preprocessing/audit_split.py", tmp_path / "out", "--json", "-")
    assert ran.returncode == 0, ran.stderr
    assert "same pixels: 0 validation samples" in ran.stdout + ran.stderr or '"samples"' in ran.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split", "location"], "needs --location-pattern"),
        (["--split", "location", "--location-pattern", "("], "not a regular expression"),
        (["--split", "location", "--location-pattern", "River"], "matches 10 of 20 paths"),
        (["--split", "location", "--location-pattern", r"_(\d+)_(1)?"], "an optional group matches nothing in 10 of"),
        (["--split", "block"], "no georeference"),
        (["--val-fraction", "1"], "--val-fraction is 1"),
        (["--data-dir", "nowhere"], "no folder nowhere"),
    ],
)
def test_a_users_mistake_ends_in_one_clear_message_and_writes_nothing(tmp_path, more, message):
    with pytest.raises((ValueError, OSError), match=message.replace("(", r"\(")):
        split(write_scenes(tmp_path / "scenes"), tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", [".", "Forest", "new"])
def test_lists_are_not_written_among_the_images(tmp_path, out):
    scenes = write_scenes(tmp_path / "scenes")
    with pytest.raises(ValueError, match="--out-dir .* is in the folder of images .*scenes"):
        split(scenes, scenes / out)
    assert not list(scenes.rglob("*.csv"))
