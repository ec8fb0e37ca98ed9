"""Where AOIs are: footprints, georeference and tile number must agree; hidden files and aliases do not matter."""

import json

import numpy as np
import pandas as pd

from preprocessing import make_sn7_csv
from tests.conftest import write_geojson, write_tif

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


def test_an_aoi_far_from_any_town_is_named_since_its_country_is_uncertain(tmp_path, capsys):
    aoi = "L15-1130E-1156N_4553_3570_13"  # in Libya
    write_tif(
        tmp_path / "tree" / aoi / "images" / f"global_monthly_2018_01_mosaic_{aoi}.tif", np.ones((3, 32, 32), np.uint8)
    )
    prepare(tmp_path / "tree", tmp_path / "out")
    printed = capsys.readouterr().err
    assert (
        f"note: {aoi} is " in printed and "km from the nearest town, of Chad; if it lies in another country" in printed
    )
