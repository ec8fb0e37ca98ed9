"""make_imagery_csv.py: what is read, dates, labels and splits."""

import json
import re
import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from preprocessing import make_imagery_csv
from preprocessing.imagery.labels import label_patches
from preprocessing.imagery.sources import find_sources
from preprocessing.imagery.splits import split_table
from tests.imagery_fixtures import ground, prepare, write_raster
from tests.range_server import serve
from vicreg.data.raster_pack.dates import date_finder

S2 = "S2A_MSIL2A_20210506T100031_N0300_R122_T33UUP_20210507T123456.SAFE/GRANULE/T33UUP_20210506T100031_B04.jp2"


@pytest.mark.parametrize(
    ("name", "pattern", "date", "source"),
    [
        (S2, None, "2021-05-06", "Sentinel-2 name"),
        ("LC08_L1TP_193024_20180407_20180417_01_T1/bands.tif", None, "2018-04-07", "Landsat name"),
        ("20190821_094523_1032_3B_AnalyticMS.tif", None, "2019-08-21", "Planet name"),
        ("site/2020-02-29_x.tif", None, "2020-02-29", "ISO date in the name"),
        ("site_A/2021-05.png", None, "2021-05-01", "ISO month in the name"),
        ("global_monthly_2018_12_mosaic_L15-1025E-1366N_4102_2726_13.tif", None, "2018-12-01", "SpaceNet-7 name"),
        ("a/20201301/x.tif", None, "", ""),
        ("a/2021-02-30.tif", None, "", ""),
        ("img_12345678.png", None, "", ""),
        ("d_07.03.19.tif", "%d.%m.%y", "2019-03-07", "--date-pattern"),
        ("x_99.tif", "%y", "1999-01-01", "--date-pattern"),
        ("x_68.tif", "%y", "2068-01-01", "--date-pattern"),
        ("x_2020_146.tif", "%Y_%j", "2020-05-25", "--date-pattern"),
        ("x_2020_366.tif", "%Y_%j", "2020-12-31", "--date-pattern"),
        *((f"x_2021_{day}.tif", "%Y_%j", "", "") for day in ("000", "366", "999")),
        ("x_05Mar2019.tif", "%d%b%Y", "2019-03-05", "--date-pattern"),
        ("y2019m3.tif", r"y(?P<year>\d+)m(?P<month>\d+)", "2019-03-01", "--date-pattern"),
        ("t201904_05.tif", r"t(\d{6})", "2019-04-01", "--date-pattern"),
        ("a_2020-01-01.tif", "%Y%m%d", "2020-01-01", "ISO date in the name"),
    ],
)
def test_dates_come_from_patterns_and_common_names(name, pattern, date, source):
    assert date_finder(pattern)(name, {}, "") == (date, source)


def test_catalogs_come_first_then_the_pattern_then_the_tiff_tag():
    tags = {"TIFFTAG_DATETIME": "2017:08:09 10:11:12"}
    assert date_finder("%Y-%m-%d")("2020-01-02.tif", tags, "2016-01-01T00:00:00Z") == ("2016-01-01", "STAC")
    assert date_finder("%Y-%m-%d")("2020-01-02.tif", tags, "") == ("2020-01-02", "--date-pattern")
    assert date_finder(None)("2020-01-02.tif", tags, "") == ("2017-08-09", "TIFF tag DATETIME")
    for wrong, message in [
        ("%Q", "unknown directive %Q"),
        ("%Y%", "unknown directive %;"),
        ("(", "neither"),
        ("2020", "has no groups"),
    ]:
        with pytest.raises(ValueError, match=message):
            date_finder(wrong)


def test_the_summary_counts_the_sources_of_dates_and_warns_if_some_have_none(tmp_path, capsys):
    write_raster(tmp_path / "in" / "2021-01-01.tif", ground(1))
    path = write_raster(tmp_path / "in" / "tagged.tif", ground(1))
    import rasterio

    with rasterio.open(path, "r+") as raster:
        raster.update_tags(TIFFTAG_DATETIME="2019:03:04 00:00:00")
    write_raster(tmp_path / "in" / "undated.tif", ground(1))
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--buffer", 0)
    shown = capsys.readouterr().out
    assert "dates: 2 of 3 files (1 from ISO date in the name, 1 from TIFF tag DATETIME)" in shown
    assert "warning: 1 files have no date, such as undated.tif" in shown
    assert set(table.date) == {"2021-01-01", "2019-03-04", ""} and meta["dates"] == ["2019-03-04", "2021-01-01"]


def test_images_of_any_format_at_any_depth_without_labels(tmp_path, capsys):
    folder = tmp_path / "in" / "deep" / "er"
    folder.mkdir(parents=True)
    pixels = ground(3, 32, 32, dtype=np.uint8, high=255).transpose(1, 2, 0)
    for name in ("a.png", "b.bmp", "c.webp", "d.jpg"):
        Image.fromarray(pixels).save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    Image.fromarray(pixels).quantize(256).save(tmp_path / "in" / "palette.png")
    Image.fromarray(np.dstack([pixels, np.full((32, 32), 255, np.uint8)])).save(tmp_path / "in" / "alpha.png")
    rotated = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn of 90 degrees clockwise
    rotated.save(tmp_path / "in" / "turned.png", exif=exif)
    (tmp_path / "in" / "._a.png").write_bytes(b"junk")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    table, packed, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32)
    assert sorted(table.image_id) == sorted(
        ["alpha.png", "palette.png", "turned.png"]
        + [f"deep/er/{name}" for name in ("a.png", "b.bmp", "c.webp", "d.jpg")]
    )
    exact = table[table.image_id.str.contains("a.png|b.bmp|c.webp|turned") & (table.image_id != "palette.png")]
    assert len(exact) == 5 and all((packed[row] == pixels.transpose(2, 0, 1)).all() for row in exact.row)
    assert meta["split"]["rule"] == "image" and meta["classes"] == [] and (table.split == "val").sum() == 1
    assert meta["counts"]["duplicates"] == 4
    Image.fromarray(pixels[..., 0]).save(tmp_path / "in" / "gray.png")
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32)
    assert "gray.png: 1 bands of uint8, where 7 files have 3" in capsys.readouterr().err


def test_sixteen_bit_png_keeps_its_depth(tmp_path):
    write_raster(tmp_path / "in" / "a.png", ground(3, 32, 32), crs=None, driver="PNG")
    _, packed, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--split", "none")
    assert meta["dtype"] == "uint16" and (packed[0] == ground(3, 32, 32)).all()


def test_location_pattern_makes_sites_of_images_without_georeference(tmp_path):
    for site in "ABC":
        for month in (5, 6):
            write_raster(tmp_path / "in" / f"site_{site}" / f"2021-{month:02d}.png",
                         ground(3, 64, 64, month, np.uint8, 255), crs=None, driver="PNG")  # fmt: skip
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--location-pattern", "site_(.)")
    assert sorted(table.site.unique()) == ["A", "B", "C"] and table.location.nunique() == 12
    assert meta["split"]["rule"] == "location" and meta["counts"]["repeated"] == 12
    assert table[table.split == "val"].site.nunique() == 1


def test_split_folders_are_the_split_and_class_folders_the_labels(tmp_path):
    for number, name in enumerate(["train/Forest/a", "train/River/b", "val/Forest/c", "test/River/d"]):
        path = tmp_path / "in" / f"{name}.png"
        write_raster(path, ground(3, 32, 32, number, np.uint8, 255), crs=None, driver="PNG")
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--labels", "folders")
    assert meta["classes"] == ["Forest", "River"] and table.label.tolist() == [1, 0, 1, 0]
    parts = dict(zip(table.image_id.str[:4], table.split, strict=True))
    assert parts == {"test": "unused", "trai": "train", "val/": "val"}


def test_labels_of_a_csv_by_path_or_name(tmp_path):
    for number, name in enumerate(["x/a", "x/b", "y/c", "y/d"]):
        write_raster(tmp_path / "in" / f"{name}.tif", ground(1, 32, 32, number), column=40 * number)
    (tmp_path / "labels.csv").write_text("﻿image;kind\nx/a.tif;field\nb.tif;field\nc;lake\n", encoding="utf-8")
    options = "--patch-size", 32, "--labels", tmp_path / "labels.csv", "--split", "none"
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", *options, "--label-column", "kind")
    assert meta["classes"] == ["field", "lake"] and table.label.tolist() == [0, 0, 1, -1]
    assert meta["counts"]["unlabeled"] == 1
    with pytest.raises(ValueError, match="no column klasse; it has image, kind"):
        prepare(tmp_path / "in", tmp_path / "out", *options, "--label-column", "klasse")
    with pytest.raises(ValueError, match="--label-column"):
        prepare(tmp_path / "in", tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x/1.tif,a\nx/1.tif,b", "x/1.tif has two classes, a and b"),
        ("1.tif,a", "1.tif is the name of x/1.tif and y/1.tif; write paths"),
        ("x/1.tif,b\n1,a", None),
        ("x/1.tif,a\n1.tif,b\nx/1.tif,a", None),
        ("2.tif,b\nx/1.tif,a\ny\\1.tif,b", None),
    ],
)
def test_labels_of_a_csv_are_refused_if_they_are_ambiguous(tmp_path, rows, message):
    (tmp_path / "labels.csv").write_text(f"path,kind\n{rows}\n")
    table = pd.DataFrame({"image_id": ["x/1.tif", "y/1.tif", "2.tif", "x/2.tif"]})
    if message:
        with pytest.raises(ValueError, match=message):
            label_patches(table, str(tmp_path / "labels.csv"), "kind", [], 32)
    else:
        labels, classes = label_patches(table, str(tmp_path / "labels.csv"), "kind", [], 32)
        assert classes == ["a", "b"] and sorted(labels[:2]) == [0, 1] and labels[3] == -1


def test_labels_of_polygons_are_the_class_that_covers_most_of_a_patch(tmp_path):
    import geopandas
    import shapely

    write_raster(tmp_path / "in" / "a.tif", ground(1, 32, 128))  # cells of 320 m from (500000, 5600000)
    left, top = 500000, 5600000
    boxes = [(0, 200, "field"), (200, 640, "lake"), (640, 780, "field")]  # 1: lake 120 of 320, 3: 140 of 320 labeled
    shapes = [shapely.box(left + a, top - 320, left + b, top) for a, b, _ in boxes]
    frame = geopandas.GeoDataFrame({"kind": [box[2] for box in boxes]}, geometry=shapes, crs="EPSG:32633")
    frame.to_crs(4326).to_file(tmp_path / "areas.geojson")
    options = "--patch-size", 32, "--labels", tmp_path / "areas.geojson", "--label-column", "kind", "--split", "none"
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert meta["classes"] == ["field", "lake"] and table.label.tolist() == [0, 1, -1, -1]
    frame.loc[1, "kind"] = None  # polygons without a class are no class of their own
    frame.to_file(tmp_path / "areas.geojson")
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert meta["classes"] == ["field"] and table.label.tolist() == [0, -1, -1, -1]


def test_block_split_shares_no_location_and_leaves_a_buffer():
    column, line = (axis.ravel() for axis in np.meshgrid(np.arange(30), np.arange(30)))
    table = pd.DataFrame({"site": "s", "grid": 0, "column": column * 32 + 5, "line": line * 32, "image_id": "i"})
    table = pd.concat([table, table], ignore_index=True)  # two dates
    parts, record = split_table(table, np.full(len(table), -1), "block", 0.25, 3, 2, 32)
    assert record["block_cells"] == 8 and 0.1 < record["achieved"] < 0.4
    assert (parts[:900] == parts[900:]).all()
    grid = parts[:900].reshape(30, 30)
    for y, x in np.argwhere(grid == "val"):
        near = grid[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert "train" not in near
    unused = np.argwhere(grid == "unused")
    assert len(unused) and all("val" in grid[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] for y, x in unused)
    assert (split_table(table, np.full(len(table), -1), "none", 0.25, 3, 2, 32)[0] == "train").all()


def test_block_split_leaves_a_buffer_across_tiles_that_touch():
    column, line = (axis.ravel() for axis in np.meshgrid(np.arange(32), np.arange(32)))
    site = pd.Series(column // 8 * 4 + line // 8).astype(str)  # tiles of 8 x 8 cells
    table = pd.DataFrame({"site": site, "grid": 0, "column": column * 32, "line": line * 32, "image_id": site})
    grid = split_table(table, np.full(len(table), -1), "block", 0.1, 0, 1, 32)[0].reshape(32, 32)
    for y, x in np.argwhere(grid == "val"):
        assert "train" not in grid[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
    single = split_table(table.assign(grid=-1), np.full(len(table), -1), "block", 0.1, 0, 1, 32)[0]
    assert (single == "unused").sum() < (grid == "unused").sum()  # not comparable


def test_image_split_keeps_files_whole_and_takes_their_usual_class():
    table = pd.DataFrame({"image_id": np.repeat([f"{number}.tif" for number in range(40)], 8), "site": "s"})
    labels = np.tile([-1, -1, -1, -1, 0, 0, 1, -1] + [-1, -1, -1, -1, -1, 1, 1, 0], 20)  # mostly none, then 0 or 1
    parts, _ = split_table(table, labels, "image", 0.25, 0, 0, 32)
    held_out = (parts == "val").reshape(40, 8)
    assert (held_out.all(1) == held_out.any(1)).all()
    assert held_out[::2, 0].sum() == held_out[1::2, 0].sum() == 5


def test_lists_and_catalogs_name_addresses_dates_and_vrts(tmp_path):
    import rasterio.shutil

    scene = write_raster(tmp_path / "scene.tif", ground(2, 32, 32))
    items = [
        {"id": f"item{n}", "assets": {"thumb": {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]},
         "visual": {"href": "scene.tif" if n else "s3://bucket/x.tif", "type": "image/tiff; application=geotiff"}},
         "properties": {"datetime": f"2020-0{n + 1}-03T01:02:03Z"}} for n in range(2)
    ]  # fmt: skip
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    first, second = find_sources([], catalog)
    assert first == ("/vsis3/bucket/x.tif", "item0", "2020-01-03", ())
    assert second == (str(scene), "item1", "2020-02-03", ())
    with pytest.raises(ValueError, match="no asset B04; it has thumb, visual"):
        find_sources([], catalog, "B04")
    catalog.write_text(json.dumps({"features": [items[1]]}))
    parser_words = ["--patch-size", 32, "--split", "none", "--list", catalog]
    empty = tmp_path / "empty"
    empty.mkdir()
    table, _, meta = prepare(empty, tmp_path / "out", *parser_words)
    assert table.date.tolist() == ["2020-02-03"] and meta["date_sources"] == {"STAC": 1}
    (tmp_path / "list.txt").write_text("# scenes\nscene.tif\nhttps://example.org/a/b.tif\n")
    paths = {source.path for source in find_sources([], tmp_path / "list.txt")}
    assert paths == {str(scene), "/vsicurl/https://example.org/a/b.tif"}
    (tmp_path / "list.txt").write_text("https://example.org/d/train/a.tif\nhttps://example.org/d/val/b.tif\n")
    assert [s.name for s in find_sources([], tmp_path / "list.txt")] == ["train/a.tif", "val/b.tif"]
    (tmp_path / "list.txt").write_text("/far/train/a.tif\nnear/b.tif\n")
    assert [s.name for s in find_sources([], tmp_path / "list.txt")] == ["far/train/a.tif", "near/b.tif"]
    with rasterio.open(scene) as raster, rasterio.vrt.WarpedVRT(raster) as warped:
        rasterio.shutil.copy(warped, tmp_path / "named.vrt", driver="VRT")
    assert "named.vrt" not in {source.name for source in find_sources([tmp_path], None)}
    named = prepare(tmp_path / "named.vrt", tmp_path / "vrt", "--patch-size", 32, "--split", "none")[1]
    assert (named[0] == ground(2, 32, 32)).all()


@pytest.fixture
def served(tmp_path):
    """Folder, and its address on a local web server, in its own process: GDAL holds Python's lock while it waits."""
    folder = tmp_path / "served"
    folder.mkdir()
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield folder, re.search(r"http://[\d.:]+", server.stdout.readline())[0]
        server.kill()


def test_images_behind_addresses_are_read(served, tmp_path, capfd):
    folder, address = served
    pixels = ground(3, 32, 32, dtype=np.uint8, high=255).transpose(1, 2, 0)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "b.webp", lossless=True)
    Image.fromarray(pixels).save(folder / "c.jpg", subsampling=0)
    names = ["a.png", "b.webp?key=1", "c.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(f"{address}/{name}" for name in names))
    (tmp_path / "empty").mkdir()
    options = "--patch-size", 32, "--split", "none", "--list", tmp_path / "list.txt"
    table, packed, meta = prepare(tmp_path / "empty", tmp_path / "out", *options)
    assert table.image_id.tolist() == names and meta["bands"] == ["red", "green", "blue"]
    assert (packed[0] == pixels.transpose(2, 0, 1)).all() and (packed[1] == packed[0]).all()
    decoded = np.asarray(Image.open(folder / "c.jpg")).transpose(2, 0, 1)
    assert np.abs(packed[2].astype(int) - decoded).max() <= 2
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif)
    (tmp_path / "list.txt").write_text(f"{address}/turned.jpg")
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "empty", tmp_path / "out2", *options)
    assert "its EXIF orientation is 6" in capfd.readouterr().err


def write_items(folder, dates=("2020-01-03", "2020-02-03"), **bands):
    """Write items with an asset for each band, (1, height, width) and keywords of ``write_raster``."""
    items = []
    for number, date in enumerate(dates):
        assets = {"thumb": {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]}}
        for band, (pixels, options) in bands.items():
            write_raster(folder / date / f"{band}.tif", pixels + number, **options)
            assets[band] = {"href": f"{date}/{band}.tif", "type": "image/tiff; application=geotiff"}
        items.append({"id": f"item{number}", "assets": assets, "properties": {"datetime": f"{date}T01:02:03Z"}})
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return ["--patch-size", 32, "--split", "none", "--list", folder / "items.json"]


def test_assets_with_one_band_each_are_stacked_on_the_pixels_of_the_first(tmp_path, capsys):
    coarse = np.tile(np.arange(32, dtype=np.uint16) * 100 + 50, (1, 32, 1))  # 20 m: linear from west to east
    fine = {"B04": ground(1, 64, 64, 1), "B03": ground(1, 64, 64, 2)}
    fine["B03"][0, 5, 7] = fine["B04"][0, 5, 7] = 0
    options = write_items(tmp_path, B04=(fine["B04"], {"nodata": 0}), B03=(fine["B03"], {"nodata": 0}),
                          B05=(coarse, {"resolution": 20}), B08=(ground(1, 64, 64, 3), {"column": 1}))  # fmt: skip
    (tmp_path / "empty").mkdir()
    table, pixels, meta = prepare(tmp_path / "empty", tmp_path / "out", *options, "--bands", "B04", "B03", "B05")
    assert meta["bands"] == ["B04", "B03", "B05"] and meta["date_sources"] == {"STAC": 2}
    assert table.date.unique().tolist() == ["2020-01-03", "2020-02-03"] and table.location.nunique() == 4
    for number, date in enumerate(meta["dates"]):
        order = table[table.date == date].sort_values(["line", "column"]).row.to_numpy().reshape(2, 2)
        mosaic = np.block([[pixels[row] for row in line] for line in order])  # (3, 64, 64)
        assert (mosaic[0] == fine["B04"] + number).all() and (mosaic[1] == fine["B03"] + number).all()
        between = (np.arange(64) + 0.5) / 2 - 0.5  # centers of pixels of 10 m in those of 20 m
        difference = np.abs(mosaic[2] - (between * 100 + 50 + number))[:, 1:-1]
        assert mosaic[2, 5, 7] == 0 or number  # no data in the bands that say so; B05 names no such value
        difference[5, 6] *= number
        assert difference.max() <= 1
    assert sorted(table.valid)[:2] == [1 - 1 / 32**2, 1]
    table = prepare(tmp_path / "empty", tmp_path / "out", *options, "--bands", "B03,B04")[0]
    assert sorted(table.valid)[:2] == [1 - 1 / 32**2, 1]  # no data in both bands
    with pytest.raises(ValueError, match="item item0 has no asset B99; it has thumb, B04, B03, B05, B08"):
        prepare(tmp_path / "empty", tmp_path / "out", *options, "--bands", "B04,B99")
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "empty", tmp_path / "out", *options, "--bands", "B04,B08")
    assert "band B08: its extent or coordinate reference system is not that of B04" in capsys.readouterr().err


def test_envi_rasters_are_found_by_their_header(tmp_path, capsys):
    write_raster(tmp_path / "in" / "a.dat", ground(2, 32, 32), driver="ENVI")
    (tmp_path / "in" / "other.dat").write_text("measurements")
    table, packed, _ = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--split", "none")
    assert "2 files in " in capsys.readouterr().out  # the header and the other file
    assert table.image_id.tolist() == ["a.dat"] and (packed[0] == ground(2, 32, 32)).all()


def test_addresses_give_the_patches_of_the_local_file_and_read_ranges_of_it_alone(tmp_path, monkeypatch, capsys):
    name = "bucket/scenes/S2_20210601.tif"
    write_raster(tmp_path / "disk" / name, ground(4, 96, 160), driver="COG", blocksize=64, compress="deflate")
    clouds = name.replace(".tif", "_clouds.tif")
    write_raster(tmp_path / "disk" / clouds, (np.arange(160) < 32).astype(np.uint8) * np.ones((1, 96, 1), np.uint8))

    def cut(address, out, *options):
        (tmp_path / "list.txt").write_text(address + "\n")
        words = ["--list", tmp_path / "list.txt", "--out-dir", tmp_path / out, "--patch-size", 32, "--split", "none"]
        words += options
        make_imagery_csv.main(make_imagery_csv.get_parser().parse_args(list(map(str, words))))
        return [(tmp_path / out / file).read_bytes() for file in ("patches-00000.npy", "all.csv")]

    local = cut(str(tmp_path / "disk" / name), "local")
    with serve(tmp_path / "disk", tmp_path / "log.txt") as port:
        monkeypatch.setenv("AWS_S3_ENDPOINT", f"127.0.0.1:{port}")
        for key, value in {"HTTPS": "NO", "VIRTUAL_HOSTING": "FALSE", "NO_SIGN_REQUEST": "YES"}.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        assert cut(f"http://127.0.0.1:{port}/{name}", "http") == local
        assert cut(f"s3://{name}", "s3") == local
        both = f"s3://{name}\ns3://{clouds}"  # masks of addresses are listed too
        assert len(np.load(BytesIO(cut(both, "masked", "--cloud-mask", "{stem}_clouds.tif")[0]))) == 12
        with pytest.raises(ValueError, match="nothing written"):
            cut(f"http://127.0.0.1:{port}/bucket/none.tif", "none")
    assert f"/vsicurl/http://127.0.0.1:{port}/bucket/none.tif: cannot be read (HTTP" in capsys.readouterr().err
    requests = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()[1:]]
    assert len(requests) >= 4 and {path for path, length in requests if length != "0"} == {f"/{name}", f"/{clouds}"}
    assert {path for path, length in requests} <= {
        f"/{name}",
        f"/{clouds}",
        "/bucket/none.tif",
    }  # no search for files beside it
