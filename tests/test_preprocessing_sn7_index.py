"""Where AOIs are: footprints, georeference and tile number must agree; hidden files and aliases do not matter."""

import json

import numpy as np
import pandas as pd
import pytest

from preprocessing import make_sn7_csv
from preprocessing.sn7.geocode import xyz_tile_bounds
from preprocessing.sn7.index import scan_tree
from tests.conftest import write_geojson, write_tif
from vicreg.data.sn7_format import parse_aoi_name

US, HENGQIN = "L15-0331E-1257N_1327_3160_13", "L15-1669E-1153N_6678_3579_13"


def prepare(tree, out, *options):
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out), *options]))
    return json.loads((out / "meta.json").read_text())


def test_positions_that_contradict_the_tile_are_both_named_and_do_not_label_the_aoi(sn7_tree, tmp_path, capsys):
    label = sn7_tree / US / "labels" / f"global_monthly_2018_04_mosaic_{US}_Buildings.geojson"
    image = sn7_tree / US / "images" / f"global_monthly_2018_02_mosaic_{US}.tif"
    write_geojson(label, [(37.98, -31.66), (37.97, -31.65)])
    write_tif(image, np.ones((3, 32, 32), np.uint8), (-121.69, 37.96, -121.64, 38.0))
    prepare(sn7_tree, tmp_path / "out", "--on-error", "skip")
    printed = capsys.readouterr().err
    tile = "the tile number in the AOI's name at 37.9788 N, 121.6626 W"
    assert f"its footprints lie at 31.6550 S, 37.9750 E, {tile}" in printed
    assert f"its coordinates lie at 0.0003 N, 0.0011 W, {tile}" in printed
    table = pd.read_csv(tmp_path / "out" / "all.csv")
    assert set(table[table.aoi == US].country) == {"United States"}


def test_hidden_files_of_macos_and_windows_are_left_out(sn7_tree, tmp_path):
    expected = prepare(sn7_tree, tmp_path / "out")
    for path in [*sn7_tree.rglob("*.tif"), *sn7_tree.rglob("*.geojson")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7 AppleDouble")
    assert prepare(sn7_tree, tmp_path / "again") == expected


def test_an_alias_of_a_country_does_not_make_a_second_class(sn7_tree, tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(f"aoi,city,state,country\n{HENGQIN},x,,USA\n")
    meta = prepare(sn7_tree, tmp_path / "out", "--labels-override", str(path))
    assert (meta["classes"], meta["iso_codes"]) == (["United Kingdom", "United States"], ["GB", "US"])


def write_aoi(tree, aoi):
    path = tree / aoi / "images" / f"global_monthly_2018_01_mosaic_{aoi}.tif"
    write_tif(path, np.random.default_rng(0).integers(1, 255, (3, 32, 32), np.uint8))


def test_the_country_of_an_aoi_far_from_any_town_is_right_and_the_distance_is_reported(sn7_tree, tmp_path, capsys):
    aoi = "L15-1130E-1156N_4553_3570_13"  # in Libya; the nearest town is Chad's
    write_aoi(sn7_tree, aoi)
    meta = prepare(sn7_tree, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "all.csv")
    assert set(table[table.aoi == aoi].country) == {"Libya"} and meta["classes"][1] == "Libya"
    assert meta["town_km"][aoi] > 100 and meta["town_km"][US] < 5 and len(meta["town_km"]) == 5
    assert f"farther than 20 km for 1 AOI: {aoi} {meta['town_km'][aoi]:.0f} km" in capsys.readouterr().out


def test_a_place_from_a_table_has_no_distance(sn7_tree, tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(f"aoi,city,state,country\n{HENGQIN},x,,China\n")
    assert HENGQIN not in prepare(sn7_tree, tmp_path / "out", "--labels-override", str(path))["town_km"]


def test_an_aoi_that_lies_in_no_country_is_a_problem_and_can_be_named_or_left_out(sn7_tree, tmp_path, capsys):
    aoi = "L15-1024E-1023N_4096_4096_13"  # in the Gulf of Guinea
    write_aoi(sn7_tree, aoi)
    with pytest.raises(ValueError, match="nothing written"):
        prepare(sn7_tree, tmp_path / "out")
    message = f"{sn7_tree / aoi}: no country within 20 km of 0.0220 S, 0.0220 E; name it with --labels-override"
    assert message in capsys.readouterr().err
    assert prepare(sn7_tree, tmp_path / "out", "--on-error", "skip")["counts"]["aois"] == 4
    path = tmp_path / "places.csv"
    path.write_text(f"aoi,city,state,country\n{aoi},,,Ghana\n")
    assert "Ghana" in prepare(sn7_tree, tmp_path / "out", "--labels-override", str(path))["classes"]


def test_ground_control_points_are_a_position_like_a_transform(sn7_tree, tmp_path, capsys):
    bounds, pixels = xyz_tile_bounds(*parse_aoi_name(US)), np.ones((3, 32, 32), np.uint8)
    path = sn7_tree / US / "images" / f"global_monthly_2018_01_mosaic_{US}.tif"
    write_tif(path, pixels, bounds, gcps=True)
    first = scan_tree(sn7_tree, 1)[0][0]
    expected = [(bounds[2] - bounds[0]) / 32, 0, bounds[0], 0, (bounds[1] - bounds[3]) / 32, bounds[3]]
    assert first.path == path and first.crs.to_epsg() == 3857 and first.transform == pytest.approx(expected)
    write_tif(path, pixels, (-121.69, 37.96, -121.64, 38.0), gcps=True)  # degrees, with a system in meters
    with pytest.raises(ValueError, match="nothing written"):
        prepare(sn7_tree, tmp_path / "out")
    assert f"{path}: its coordinates lie at 0.0003 N, 0.0011 W, the tile number" in capsys.readouterr().err


def test_a_month_of_another_format_is_a_problem_and_a_picture_beside_a_mosaic_is_none(sn7_tree):
    first, second = sorted((sn7_tree / US / "images").iterdir())[:2]
    first.rename(first.with_suffix(".PNG"))
    second.with_suffix(".jpg").write_bytes(b"a preview")
    (sn7_tree / US / "images" / "legend.png").write_bytes(b"a picture")
    (problem,) = scan_tree(sn7_tree, 1)[1]
    assert (problem.kind, problem.path) == ("not a TIFF", first.with_suffix(".PNG"))
