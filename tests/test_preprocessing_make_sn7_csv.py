"""Facts about make_sn7_csv.py: what it writes, and what it refuses."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio

from preprocessing import make_sn7_csv
from preprocessing import problems as problem_report
from preprocessing.sn7 import pack
from tests.conftest import call_script, write_geojson, write_tif
from vicreg.data import rasters
from vicreg.data.sn7 import SN7Patches
from vicreg.data.sn7_format import COLUMNS, cut_patches, read_mosaic

SCRIPT = "preprocessing/make_sn7_csv.py"
US, BIRMINGHAM, DARTFORD, HENGQIN = (
    "L15-0331E-1257N_1327_3160_13", "L15-1014E-1375N_4056_2688_13", "L15-1025E-1366N_4102_2726_13",
    "L15-1669E-1153N_6678_3579_13",
)  # fmt: skip
OUTPUTS = {"all.csv", "train.csv", "val.csv", "meta.json", "patches.npy"}


def prepare(tree, out, *options):
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out), *options]))
    return json.loads((out / "meta.json").read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mosaic(tree, aoi, month):
    return tree / aoi / "images" / f"global_monthly_2018_{month:02d}_mosaic_{aoi}.tif"


def write(path, pixels):
    channels, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": channels, "height": height, "width": width, "dtype": pixels.dtype}
    with rasters.quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)


# What it writes


def test_the_lists_have_a_row_per_patch_in_order_and_the_pack_follows_them(sn7_tree, tmp_path):
    meta = prepare(sn7_tree, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    table = pd.read_csv(tmp_path / "out" / "all.csv", keep_default_na=False)
    assert list(table) == COLUMNS and len(table) == 15 * 16 == meta["rows"]
    assert table.row.tolist() == list(range(240))
    assert table.sort_values(["aoi", "year", "month", "patch"], kind="stable").row.tolist() == list(range(240))
    store = np.load(tmp_path / "out" / "patches.npy")
    assert store.shape == (240, 3, 8, 8) and store.dtype == np.uint8
    for row in table[::7].itertuples():
        pixels = read_mosaic(sn7_tree / row.aoi / "images" / row.image_id)
        assert (store[row.row] == cut_patches(pixels)[row.patch]).all()
    parts = [pd.read_csv(tmp_path / "out" / f"{name}.csv", keep_default_na=False) for name in ("train", "val")]
    assert [set(part.split) for part in parts] == [{"train"}, {"val"}]
    assert pd.concat(parts).sort_values("row").reset_index(drop=True).equals(table)


def test_mean_and_std_are_those_of_the_training_pixels_without_the_padding(sn7_tree, tmp_path):
    meta = prepare(sn7_tree, tmp_path / "out", "--split", "image")
    train = pd.read_csv(tmp_path / "out" / "train.csv")
    pixels = [
        read_mosaic(sn7_tree / aoi / "images" / name).reshape(3, -1) / 255
        for aoi, name in set(zip(train.aoi, train.image_id, strict=True))
    ]
    pixels = np.concatenate(pixels, axis=1)
    assert BIRMINGHAM in set(train.aoi)  # 31 rows, so padded
    assert meta["mean"] == pytest.approx(pixels.mean(1)) and meta["std"] == pytest.approx(pixels.std(1))


def test_places_come_from_the_map_and_hengqin_is_in_china(sn7_tree, tmp_path):
    meta = prepare(sn7_tree, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "all.csv")
    countries = {US: "United States", BIRMINGHAM: "United Kingdom", DARTFORD: "United Kingdom", HENGQIN: "China"}
    assert table.groupby("aoi").country.first().to_dict() == countries
    assert meta["classes"] == ["China", "United Kingdom", "United States"] and meta["iso_codes"] == ["CN", "GB", "US"]
    assert [meta["classes"][label] for label in table.label] == table.country.tolist()


def test_states_and_cities_make_qualified_classes(sn7_tree, tmp_path):
    assert "California, United States" in prepare(sn7_tree, tmp_path / "out", "--label", "state")["classes"]
    meta = prepare(sn7_tree, tmp_path / "out", "--label", "city")
    assert "Zhuhai, Guangdong, China" in meta["classes"] and len(meta["classes"]) == 4


def test_an_override_comes_on_top_of_the_shipped_table(sn7_tree, tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(f"aoi,city,state,country\n{HENGQIN},Taipa,,Macao\n{US},Paris,Île-de-France,France\n")
    meta = prepare(sn7_tree, tmp_path / "out", "--labels-override", str(path))
    assert dict(zip(meta["classes"], meta["iso_codes"], strict=True)) == {
        "France": "FR", "Macao": "MO", "United Kingdom": "GB"
    }  # fmt: skip
    path.write_text("aoi,city,state,country\nL15-0000E-0000N_0_0_13,a,b,c\n")
    with pytest.raises(ValueError, match="places.csv, line 2: no AOI L15-0000E-0000N_0_0_13"):
        prepare(sn7_tree, tmp_path / "out", "--labels-override", str(path))


@pytest.mark.parametrize(("rule", "seen", "unseen"), [("block", 0, 0), ("image", 1, 0), ("location", 0, 1)])
def test_meta_records_the_split_and_what_it_keeps_apart(sn7_tree, tmp_path, rule, seen, unseen):
    meta = prepare(sn7_tree, tmp_path / "out", "--split", rule, "--seed", "2", "--val-fraction", "0.3")
    split, counts = meta["split"], meta["counts"]
    assert (split["rule"], split["val_fraction"], split["seed"]) == (rule, 0.3, 2)
    assert counts["location_overlap"] == seen and counts["classes_unseen"] in (0, unseen)
    assert split["achieved"] == pytest.approx(counts["val"] / counts["patches"])
    assert (counts["aois"], counts["mosaics"], meta["months"]) == (4, 15, ["2018-01", "2018-04"])
    assert meta["source"] == str(sn7_tree) and (meta["grid"], meta["patch_size"]) == (4, 8)


def test_the_same_call_writes_the_same_bytes(sn7_tree, tmp_path):
    for out in ("a", "b"):
        prepare(sn7_tree, tmp_path / out, "--workers", "1" if out == "a" else "3")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_without_a_pack_a_stale_one_is_removed_and_the_dataset_cuts_from_the_tree(sn7_tree, tmp_path):
    prepare(sn7_tree, tmp_path / "out")
    packed = SN7Patches(tmp_path / "out" / "val.csv").images([0, 9])
    prepare(sn7_tree, tmp_path / "out", "--no-pack")
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS - {"patches.npy"}
    assert (SN7Patches(tmp_path / "out" / "val.csv").images([0, 9]) == packed).all()


@pytest.mark.parametrize(("grid", "side"), [(1, 32), (3, 11), (8, 4)])
def test_other_grids_have_patches_of_their_own_size(sn7_tree, tmp_path, grid, side):
    meta = prepare(sn7_tree, tmp_path / "out", "--grid", str(grid), "--split", "image")
    assert meta["patch_size"] == side
    assert np.load(tmp_path / "out" / "patches.npy").shape == (15 * grid**2, 3, side, side)


def test_an_alpha_channel_is_left_behind(sn7_tree, tmp_path):
    path = mosaic(sn7_tree, US, 1)
    rgb = read_mosaic(path)
    write(path, np.concatenate([rgb, np.full((1, 32, 32), 255, np.uint8)]))
    prepare(sn7_tree, tmp_path / "out")
    assert (np.load(tmp_path / "out" / "patches.npy")[:16] == cut_patches(rgb)).all()


# What it refuses


def truncated(tree):
    path = mosaic(tree, US, 2)
    path.write_bytes(path.read_bytes()[:-600])
    return path


def corrupt(tree):
    mosaic(tree, US, 2).write_bytes(b"II*\0 this is no TIFF")
    return mosaic(tree, US, 2)


def empty(tree):
    mosaic(tree, US, 2).write_bytes(b"")
    return mosaic(tree, US, 2)


def sixteen_bit(tree):
    write(mosaic(tree, US, 2), np.zeros((3, 32, 32), np.uint16))
    return mosaic(tree, US, 2)


def small(tree):
    write(mosaic(tree, US, 2), np.ones((3, 16, 16), np.uint8))
    return mosaic(tree, US, 2)


def two_rows_short(tree):
    write(mosaic(tree, US, 2), np.ones((3, 30, 32), np.uint8))
    return mosaic(tree, US, 2)


def unreadable_name(tree):
    return mosaic(tree, US, 2).rename(tree / US / "images" / "february.tif")


def other_aoi(tree):
    return mosaic(tree, US, 2).rename(tree / US / "images" / mosaic(tree, DARTFORD, 2).name)


def same_month_twice(tree):
    shutil.copy(mosaic(tree, US, 2), mosaic(tree, US, 2).with_suffix(".tiff"))
    return mosaic(tree, US, 2).with_suffix(".tiff")


def no_images_folder(tree):
    (tree / "L15-1709E-1112N_6838_3742_13").mkdir()
    return tree / "L15-1709E-1112N_6838_3742_13"


def empty_images_folder(tree):
    (tree / "L15-1709E-1112N_6838_3742_13" / "images").mkdir(parents=True)
    return tree / "L15-1709E-1112N_6838_3742_13"


def unreadable_folder_name(tree):
    return (tree / US).rename(tree / "California")


def footprints_in_latitude_longitude_order(tree):
    path = tree / US / "labels" / f"global_monthly_2018_04_mosaic_{US}_Buildings.geojson"
    write_geojson(path, [(37.98, -121.66 + 90), (37.97, -121.65 + 90)])
    return path


def footprints_of_another_aoi(tree):
    path = tree / US / "labels" / f"global_monthly_2018_03_mosaic_{DARTFORD}_Buildings.geojson"
    write_geojson(path, [(0.28, 51.43)])
    return path


def degrees_tagged_as_meters(tree):
    west, south, east, north = -121.69, 37.96, -121.64, 38.0
    write_tif(mosaic(tree, US, 2), np.ones((3, 32, 32), np.uint8), (west, south, east, north))
    return mosaic(tree, US, 2)


def local_coordinates(tree):
    path = mosaic(tree, US, 2)
    profile = {"driver": "GTiff", "count": 3, "height": 32, "width": 32, "dtype": "uint8"}
    profile |= {"crs": 'LOCAL_CS["site grid",UNIT["metre",1]]', "transform": rasterio.Affine(1, 0, 5, 0, -1, 5)}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.ones((3, 32, 32), np.uint8))
    return path


def a_vrt_by_another_name(tree):
    source = mosaic(tree, US, 3)
    mosaic(tree, US, 2).write_text(
        '<VRTDataset rasterXSize="32" rasterYSize="32">'
        + "".join(f'<VRTRasterBand dataType="Byte" band="{k}"><SimpleSource><SourceFilename>{source}</SourceFilename>'
                  f"<SourceBand>{k}</SourceBand></SimpleSource></VRTRasterBand>" for k in (1, 2, 3))
        + "</VRTDataset>"
    )  # fmt: skip
    return mosaic(tree, US, 2)


def label_file(text, month=4):
    def spoil(tree):
        path = tree / US / "labels" / f"global_monthly_2018_{month:02d}_mosaic_{US}_Buildings.geojson"
        path.write_text(text)
        return path

    return spoil


BAD = {  # how to spoil the tree, kind in the report, mosaics left by --on-error skip
    "truncated": (truncated, "unreadable mosaic", 14),
    "corrupt": (corrupt, "unreadable mosaic", 14),
    "zero bytes": (empty, "unreadable mosaic", 14),
    "16 bits": (sixteen_bit, "unreadable mosaic", 14),
    "small": (small, "wrong size", 14),
    "two rows short": (two_rows_short, "wrong size", 14),
    "unreadable name": (unreadable_name, "unreadable name", 14),
    "other AOI": (other_aoi, "other AOI", 14),
    "same month twice": (same_month_twice, "duplicate month", 15),
    "no images folder": (no_images_folder, "AOI without images", 15),
    "empty images folder": (empty_images_folder, "AOI without images", 15),
    "unreadable folder name": (unreadable_folder_name, "unreadable name", 11),
    "degrees tagged as meters": (degrees_tagged_as_meters, "georeference", 14),
    "local coordinates": (local_coordinates, "georeference", 14),
    "a VRT": (a_vrt_by_another_name, "unreadable mosaic", 14),
    "axis order": (footprints_in_latitude_longitude_order, "label file", 15),
    "label file of another AOI": (footprints_of_another_aoi, "other AOI", 15),
    "label file of zero bytes": (label_file(""), "label file", 15),
    "label file cut off": (label_file('{"type": "FeatureCollection", "features": [{"ty'), "label file", 15),
    "label file without footprints": (label_file('{"type": "FeatureCollection", "features": []}'), "label file", 15),
    "older label file of zero bytes": (label_file("", month=1), "label file", 15),
    "older label file cut off": (label_file('{"type": "Feat', month=1), "label file", 15),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_reported_with_its_path_and_stops_before_anything_is_written(sn7_tree, tmp_path, capsys, bad):
    spoil, kind, _ = BAD[bad]
    path = spoil(sn7_tree)
    with pytest.raises(ValueError, match="nothing written.*--on-error skip"):
        prepare(sn7_tree, tmp_path / "out")
    printed = capsys.readouterr().err
    assert f"1 problem: 1 x {kind}" in printed and f"  {path}: " in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_can_be_left_out_and_counted(sn7_tree, tmp_path, capsys, bad):
    spoil, kind, mosaics = BAD[bad]
    spoil(sn7_tree)
    meta = prepare(sn7_tree, tmp_path / "out", "--on-error", "skip")
    assert meta["counts"]["mosaics"] == mosaics and meta["rows"] == mosaics * 16
    assert len(np.load(tmp_path / "out" / "patches.npy")) == mosaics * 16
    assert f"problems left out: 1 x {kind}" in capsys.readouterr().out


def test_an_aoi_with_a_broken_label_file_is_placed_by_its_raster(sn7_tree, tmp_path):
    label_file("")(sn7_tree)
    prepare(sn7_tree, tmp_path / "out", "--on-error", "skip")
    table = pd.read_csv(tmp_path / "out" / "all.csv")
    assert set(table[table.aoi == US].country) == {"United States"}


def test_all_problems_of_a_tree_are_found_in_one_run_with_exit_code_1(sn7_tree, tmp_path):
    paths = [
        no_images_folder(sn7_tree), label_file("")(sn7_tree), corrupt(sn7_tree),
        mosaic(sn7_tree, US, 3).rename(sn7_tree / US / "images" / "march.tif"),
    ]  # fmt: skip
    short = mosaic(sn7_tree, DARTFORD, 1)
    short.write_bytes(short.read_bytes()[:-600])
    write(mosaic(sn7_tree, DARTFORD, 2), np.ones((3, 64, 64), np.uint8))
    done = call_script(SCRIPT, "--data-dir", sn7_tree, "--out-dir", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for path in [*paths, short, mosaic(sn7_tree, DARTFORD, 2)]:
        assert f"  {path}: " in done.stderr
    assert "6 problems" in done.stderr and not (tmp_path / "out").exists()


def test_a_long_report_is_capped_with_a_count():
    problems = [problem_report.Problem("wrong size", f"path{k}", "what") for k in range(33)]
    lines = problem_report.format_problems(problems).splitlines()
    assert lines[0] == "33 problems: 33 x wrong size" and len(lines) == 22 and lines[-1].endswith("13 more")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-fraction", "0"], "--val-fraction"),
        (["--val-fraction", "1"], "--val-fraction"),
        (["--grid", "0"], "--grid 0: must be"),
        (["--grid", "1"], "--split location or image"),
        (["--grid", "32"], "--grid 32 is too fine"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(sn7_tree, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(sn7_tree, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_the_folder_above_the_tree_gets_a_hint_and_a_missing_one_an_explanation(sn7_tree, tmp_path):
    with pytest.raises(ValueError, match=f"did you mean {sn7_tree}"):
        prepare(sn7_tree.parent, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere.*--data-dir"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no AOI folders in"):
        prepare(tmp_path / "bare", tmp_path / "out")


def test_a_tree_with_nothing_usable_is_refused_even_by_skip(sn7_tree, tmp_path):
    for path in sn7_tree.glob("*/images/*.tif"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no usable mosaic"):
        prepare(sn7_tree, tmp_path / "out", "--on-error", "skip")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_refused_before_writing(sn7_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="--no-pack"):
        prepare(sn7_tree, tmp_path / "out")


# As a script


@pytest.mark.parametrize("cwd", [".", "preprocessing"])
def test_the_script_runs_from_anywhere_and_says_what_to_run_next(sn7_tree, tmp_path, repo_root, run_script, cwd):
    done = run_script(SCRIPT, "--data-dir", sn7_tree, "--out-dir", tmp_path / "out", cwd=repo_root / cwd)
    assert done.returncode == 0, done.stderr
    assert "4 AOIs, 15 mosaics from 2018-01 to 2018-04, 240 patches of 8 x 8 pixels" in done.stdout
    assert "split block: 180 training and 60 validation patches" in done.stdout
    assert "validation locations also in training: 0.0%" in done.stdout
    assert "  python vicreg/main_vicreg_sn7.py --csv-dir /" in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal


def test_help_names_every_option(run_script):
    done = run_script(SCRIPT, "--help")
    assert done.returncode == 0
    for option in ("--data-dir", "--out-dir", "--split", "--val-fraction", "--label", "--grid", "--seed", "--no-pack",
                   "--on-error", "--labels-override", "--workers"):  # fmt: skip
        assert option in done.stdout
