"""Inputs that public reports describe, small: data preparation and the audit give what is right."""

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from preprocessing import audit_split, make_fmow_csv, make_folder_split, make_sn7_csv, reduce_sn7
from preprocessing.sn7.geocode import tile_points, xyz_tile_bounds
from tests.conftest import write_geojson, write_tif
from tests.test_preprocessing_audit_split import save, texture
from vicreg.data import rasters

KENT, CALIFORNIA = "L15-1025E-1366N_4102_2726_13", "L15-0331E-1257N_1327_3160_13"
BIRMINGHAM = "L15-1014E-1375N_4056_2688_13"


def call(script, *arguments):
    return script.main(script.get_parser().parse_args(list(map(str, arguments))))


def mosaic(tree, aoi, month=1):
    return tree / aoi / "images" / f"global_monthly_2018_{month:02d}_mosaic_{aoi}.tif"


def noise(seed, side=64):
    return np.random.default_rng(seed).integers(1, 256, (3, side, side), dtype=np.uint8)


def write_aoi(tree, aoi, bounds="tile", months=3):
    """Write mosaics that lie in the AOI's tile, elsewhere (bounds), or nowhere (None)."""
    bounds = xyz_tile_bounds(*map(int, aoi.split("_")[1:])) if bounds == "tile" else bounds
    for month in range(1, months + 1):
        write_tif(mosaic(tree, aoi, month), noise(month), bounds)


def audit(capsys, *arguments):
    """Audit with --json - -> result."""
    call(audit_split, *arguments, "--json", "-")
    return json.loads(capsys.readouterr().out)


def refused(tree, out, capsys):
    """Prepare a tree that has problems -> what is printed about them."""
    with pytest.raises(ValueError, match="nothing written"):
        call(make_sn7_csv, "--data-dir", tree, "--out-dir", out)
    assert not out.exists()
    return capsys.readouterr().err


def test_geojson_axis_order(tmp_path, capsys):
    tree = tmp_path / "train"
    write_aoi(tree, CALIFORNIA)
    write_aoi(tree, KENT, None)
    label = tree / KENT / "labels" / f"global_monthly_2018_03_mosaic_{KENT}_Buildings.geojson"
    write_geojson(label, tile_points(KENT))  # latitude before longitude: off Somalia
    printed = refused(tree, tmp_path / "out", capsys)
    assert "1 problem: 1 x label file" in printed and str(label) in printed
    assert "lie at 0.2856 N, 51.4403 E, the tile number in the AOI's name at 51.4403 N, 0.2856 E" in printed
    call(make_sn7_csv, "--data-dir", tree, "--out-dir", tmp_path / "out", "--on-error", "skip")
    countries = pd.read_csv(tmp_path / "out" / "all.csv").groupby("aoi").country.unique()
    assert countries[KENT].tolist() == ["United Kingdom"]


def test_raster_crs_contradicts_name(tmp_path, capsys):
    tree = tmp_path / "train"
    write_aoi(tree, CALIFORNIA)
    write_aoi(tree, KENT, (0.26, 51.42, 0.31, 51.46))  # degrees, tagged as EPSG:3857: off Ghana
    printed = refused(tree, tmp_path / "out", capsys)
    assert "3 problems: 3 x georeference" in printed and str(mosaic(tree, KENT)) in printed
    assert "lie at 0.0005 N, 0.0000 E, the tile number in the AOI's name at 51.4403 N, 0.2856 E" in printed


def test_local_crs(tmp_path, capsys):
    tree = tmp_path / "train"
    write_aoi(tree, CALIFORNIA)
    write_aoi(tree, KENT)
    with rasterio.open(mosaic(tree, KENT), "r+") as raster:
        raster.crs = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    printed = refused(tree, tmp_path / "out", capsys)
    assert "1 problem: 1 x georeference" in printed
    assert f"{mosaic(tree, KENT)}: its coordinate reference system cannot be transformed" in printed


def test_overviews_nearest(tmp_path):
    tree = tmp_path / "train"
    write_tif(mosaic(tree, KENT), noise(0, 256), xyz_tile_bounds(4102, 2726, 13))
    with rasterio.open(mosaic(tree, KENT), "r+") as raster:
        raster.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
    call(reduce_sn7, "--data-dir", tree, "--out-dir", tmp_path / "small", "--size", 32)
    with rasterio.open(mosaic(tmp_path / "small", KENT)) as raster:
        assert raster.read().std() == pytest.approx(73.6 / 8, rel=0.03)  # 64 pixels are averaged


def test_nodata_zero(tmp_path):
    tree = tmp_path / "train"
    pixels = np.full((3, 64, 64), 50, np.uint8)
    pixels[0], pixels[1, :, ::2], pixels[1, :, 1::2] = 200, 0, 100  # green is 50 on average
    write_tif(mosaic(tree, KENT), pixels)
    with rasters.quiet_georeference(), rasterio.open(mosaic(tree, KENT), "r+") as raster:
        raster.nodata = 0
    call(reduce_sn7, "--data-dir", tree, "--out-dir", tmp_path / "small", "--size", 32)
    with rasters.quiet_georeference(), rasterio.open(mosaic(tmp_path / "small", KENT)) as raster:
        assert [np.unique(band).tolist() for band in raster.read()] == [[200], [50], [50]]


def test_override_country_alias(tmp_path):
    tree = tmp_path / "train"
    for aoi in (CALIFORNIA, KENT, BIRMINGHAM):
        write_aoi(tree, aoi)
    (tmp_path / "o.csv").write_text(f"aoi,city,state,country\n{BIRMINGHAM},Springfield,Illinois,USA\n")
    call(make_sn7_csv, "--data-dir", tree, "--labels-override", tmp_path / "o.csv", "--out-dir", tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["classes"], meta["iso_codes"]) == (["United Kingdom", "United States"], ["GB", "US"])


def test_location_int_vs_text(tmp_path, capsys):
    for part, start, last in (("train", 0, "105"), ("val", 6, "x")):
        rows = [f"im{start + k}.png,{100 + k},a\n" for k in range(5)] + [f"im{start + 5}.png,{last},a\n"]
        (tmp_path / f"{part}.csv").write_text("path,location,class\n" + "".join(rows))
        for k in range(start, start + 6):
            save(tmp_path / f"im{k}.png", texture(k, 32))
    found = audit(capsys, tmp_path)
    assert found["location"]["samples"] == found["overlap"]["samples"] == 5
    assert found["overlap"]["fraction"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(("copied", "fraction"), [(8, 1), (4, 0.5), (0, 0)])
def test_audit_appledouble(tmp_path, capsys, copied, fraction):
    for part in ("train", "val"):
        for k in range(8):
            folder, name = tmp_path / part / "ab"[k % 2], f"{k}.jpg"
            save(folder / name, texture(k + 100 * (part == "val" and k >= copied), 32))
            (folder / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        for hidden in (".ipynb_checkpoints", "__MACOSX/a"):
            save(tmp_path / part / hidden / "1-checkpoint.jpg", texture(99, 32))
    found = audit(capsys, tmp_path / "train", tmp_path / "val")
    assert (found["val"]["samples"], found["val"]["unreadable"]) == (8, 0)
    assert found["exact"]["fraction"] == found["overlap"]["fraction"] == fraction


def test_fmow_exponent(tmp_path, capsys):
    near_0 = "POLYGON ((6.1e-05 51.4, 8.9e-05 51.4, 8.9e-05 51.5, 6.1e-05 51.5, 6.1e-05 51.4))"
    plain = "POLYGON ((0.0 51.4, 0.01 51.4, 0.01 51.5, 0.0 51.5, 0.0 51.4))"
    mixed = "POLYGON ((-6.1e-05 51.4, 0.0100 51.4, 0.0100 51.5, 9.1e-05 51.5, 0.0001 51.4))"
    east = [f"POLYGON (({e} 10, {e}.1 10, {e}.1 10.1, {e} 10))" for e in (10, 20)]
    places = {"train": [("zoo", 0, near_0), ("zoo", 1, mixed), ("port", 0, east[0])],
              "val": [("zoo", 0, near_0), ("zoo", 1, plain), ("port", 0, east[1])]}  # fmt: skip
    for part, rows in places.items():
        for number, (name, location, polygon) in enumerate(rows):
            file = tmp_path / part / name / f"{name}_{location}" / f"{name}_{location}_0_rgb.jpg"
            save(file, texture(10 * len(part) + number, 32))
            content = {"timestamp": "2016-02-13T09:30:00Z", "raw_location": polygon}
            file.with_suffix(".json").write_text(json.dumps(content))
    call(make_fmow_csv, "--data-dir", tmp_path, "--out-dir", tmp_path / "csv")
    capsys.readouterr()
    location = audit(capsys, tmp_path / "csv")["location"]
    assert (location["samples"], location["same_name_elsewhere"], location["position_unknown"]) == (2, 1, 0)


def test_optional_group(tmp_path):
    for name in ("Forest_0.jpg", "Forest_0_1.jpg", "Forest_1.jpg", "Forest_1_1.jpg"):
        (tmp_path / "data" / "Forest").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / "Forest" / name)
    words = ["--data-dir", tmp_path / "data", "--out-dir", tmp_path / "out", "--split", "location"]
    with pytest.raises(ValueError, match="matches nothing in 2 of 4 paths, such as Forest/Forest_0.jpg"):
        call(make_folder_split, *words, "--location-pattern", r"_(\d+)(?:_(\d))?\.")
    assert not (tmp_path / "out").exists()
