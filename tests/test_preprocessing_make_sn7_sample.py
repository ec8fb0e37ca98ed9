"""Facts about the drawn SN7 sample: its layout, its georeference, its scenery, and how the script refuses."""

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.warp import transform_bounds, transform_geom

from preprocessing import make_sn7_sample
from preprocessing.make_sn7_sample import get_parser, main
from preprocessing.sn7.drawing import draw_mosaic
from preprocessing.sn7.geocode import mercator_to_degrees
from preprocessing.sn7.sample import AOIS, aoi_name, write_aoi
from preprocessing.sn7.synthetic import COVERS, build_scene
from vicreg.data.sn7_format import cut_patches, parse_mosaic_name

ROOT = Path(__file__).resolve().parents[1]
MONTHS, SIZE, COUNT = 3, 64, 3
TILE = 40075016.685578488 / 2**13  # side of a zoom-13 tile in meters of EPSG:3857


def write_sample(out, **options):
    options = {"aois": COUNT, "months": MONTHS, "size": SIZE} | options
    main(get_parser().parse_args(["--out", str(out), *(f"--{name}={value}" for name, value in options.items())]))
    return out / "train"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample") / "sn7")


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def mosaics(tree):
    return sorted(tree.glob("*/images/*.tif"))


def features(tif):
    geojson = tif.parent.parent / "labels" / f"{tif.stem}_Buildings.geojson"
    return json.loads(geojson.read_text())["features"]


def test_the_tree_has_the_layout_and_names_of_sn7(sample):
    found = {str(path.relative_to(sample)) for path in sample.rglob("*") if path.is_file()}
    expected = set()
    for tile, _ in AOIS[:COUNT]:
        name = aoi_name(tile)
        for month in ("2018_01", "2018_02", "2018_03"):
            expected.add(f"{name}/images/global_monthly_{month}_mosaic_{name}.tif")
            expected.add(f"{name}/labels/global_monthly_{month}_mosaic_{name}_Buildings.geojson")
    assert found == expected
    assert parse_mosaic_name(mosaics(sample)[0].name).z == 13


def test_names_follow_from_the_tile_as_in_the_real_set():
    assert aoi_name("1327_3160") == "L15-0331E-1257N_1327_3160_13"
    assert aoi_name("4802_4803") == "L15-1200E-0847N_4802_4803_13"
    assert aoi_name("7394_5018") == "L15-1848E-0793N_7394_5018_13"


def test_there_are_60_aois_and_the_first_12_differ_in_land_cover():
    assert len({aoi_name(tile) for tile, _ in AOIS}) == 60
    assert len({cover for _, cover in AOIS[:12]}) == 12
    assert {cover for _, cover in AOIS} == set(COVERS)


def test_the_first_12_aois_are_in_12_countries():
    reverse_geocode = pytest.importorskip("reverse_geocode")
    positions = []
    for tile, _ in AOIS[:12]:
        x, y = map(int, tile.split("_"))
        lon, lat = mercator_to_degrees((x + 0.5 - 4096) * TILE, (4096 - y - 0.5) * TILE)
        positions.append((lat, lon))
    assert len({place["country_code"] for place in reverse_geocode.search(positions)}) == 12


def test_months_run_on_into_the_next_year(tmp_path):
    list(write_aoi(tmp_path, "1327_3160", "farmland", 14, 32, 32, 0))
    assert [parse_mosaic_name(path.name)[1:3] for path in mosaics(tmp_path)][10:] == [
        (2018, 11),
        (2018, 12),
        (2019, 1),
        (2019, 2),
    ]


def test_every_mosaic_covers_the_tile_in_its_name(sample):
    for path in mosaics(sample):
        name = parse_mosaic_name(path.name)
        with rasterio.open(path) as raster:
            west, south, east, north = transform_bounds("EPSG:3857", "EPSG:4326", *raster.bounds)
            assert raster.crs == "EPSG:3857" and raster.transform.a == -raster.transform.e
        assert ((west + 180) / 360 * 2**13, (east + 180) / 360 * 2**13) == pytest.approx((name.x, name.x + 1), abs=1e-6)
        rows = [(1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * 2**13 for latitude in (north, south)]
        assert rows == pytest.approx((name.y, name.y + 1), abs=1e-6)


def test_mosaics_are_compressed_rgba_uint8(sample):
    for path in mosaics(sample):
        with rasterio.open(path) as raster:
            assert (raster.count, raster.height, raster.width) == (4, SIZE, SIZE)
            assert set(raster.dtypes) == {"uint8"} and raster.compression.name == "deflate"
            assert raster.colorinterp[3].name == "alpha" and (raster.read(4) == 255).all()


@pytest.mark.parametrize("tile, cover", AOIS[:12])
def test_footprints_lie_on_the_buildings_drawn_that_month(tmp_path, tile, cover):
    list(write_aoi(tmp_path, tile, cover, 2, 256, 256, 0))
    path = mosaics(tmp_path)[1]
    with rasterio.open(path) as raster:
        picture, grid, crs = raster.read(), raster.transform, raster.crs
    outlines = [transform_geom("OGC:CRS84", crs, feature["geometry"]) for feature in features(path)]
    centers = rasterize(outlines, picture.shape[1:], transform=grid).astype(bool)
    touched = rasterize(outlines, picture.shape[1:], transform=grid, all_touched=True).astype(bool)

    latitude = mercator_to_degrees(0, grid.f)[1]
    scene = build_scene(cover, latitude, 256, key=(0, zlib.crc32(aoi_name(tile).encode())))
    assert (np.moveaxis(draw_mosaic(scene, 1), 2, 0) == picture).all()
    nothing_built = replace(scene, finished=np.full_like(scene.finished, np.inf))
    change = picture.astype(int).sum(0) - draw_mosaic(nothing_built, 1).astype(int).sum(2)
    assert centers.sum() > 100
    assert (change[centers] != 0).mean() > 0.95  # a roof may have the color of the ground
    assert (change[~touched] > 0).sum() == 0  # beside the footprints there are only shadows


def test_footprints_are_rings_of_longitude_and_latitude_inside_the_mosaic(sample):
    for path in mosaics(sample):
        with rasterio.open(path) as raster:
            west, south, east, north = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
        for feature in features(path):
            assert feature["geometry"]["type"] == "Polygon"
            (ring,) = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1] and len(ring) == 5
            assert all(west < lon < east and south < lat < north for lon, lat in ring)


def test_geopandas_reads_the_footprints(sample):
    geopandas = pytest.importorskip("geopandas")
    path = next(sample.glob("*/labels/*.geojson"))
    table = geopandas.read_file(path)
    assert len(table) == len(json.loads(path.read_text())["features"])
    assert table.geometry.is_valid.all() and table.crs.to_epsg(20) in (4326, None) and table.crs.is_geographic


def test_every_month_keeps_all_buildings_and_adds_some(sample):
    for tile, _ in AOIS[:COUNT]:
        months = [
            {json.dumps(feature) for feature in features(path)}
            for path in mosaics(sample)
            if path.name.endswith(f"{tile}_13.tif")
        ]
        assert len(months) == MONTHS
        assert all(earlier < later for earlier, later in zip(months, months[1:], strict=False))


def test_a_building_keeps_its_pixels_and_streets_are_only_added():
    scene = build_scene("metro", 19, 96, key=(0, 1))
    for month in range(24):
        before, after = (scene.finished[scene.building] <= m for m in (month, month + 1))
        assert (before <= after).all()
        assert ((scene.street <= month) <= (scene.street <= month + 1)).all()


@pytest.mark.parametrize("cover", COVERS)
def test_every_land_cover_can_be_drawn_for_many_seeds_at_the_smallest_size(cover):
    for seed in range(3):
        scene = build_scene(cover, -20, 32, 31, key=(seed, 7))
        assert draw_mosaic(scene, 24).shape == (31, 32, 4)
        assert len(scene.outlines) == len(scene.finished) - 1 > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_scenery(sample, tmp_path):
    again, other = write_sample(tmp_path / "again"), write_sample(tmp_path / "other", seed=1)
    for path in sample.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(sample)).read_bytes()
    for path in mosaics(sample):
        assert (read(path) != read(other / path.relative_to(sample))).any()


def test_fewer_aois_and_months_are_a_part_of_more(sample, tmp_path):
    part = write_sample(tmp_path / "part", aois=2, months=2)
    assert len(mosaics(part)) == 4
    assert all(path.read_bytes() == (sample / path.relative_to(part)).read_bytes() for path in mosaics(part))


def test_months_and_patches_and_aois_all_differ(sample):
    pictures = [read(path)[:3] for path in mosaics(sample)]
    patches = np.concatenate([cut_patches(picture) for picture in pictures])
    assert len({patch.tobytes() for patch in patches}) == len(patches) == COUNT * MONTHS * 16


def test_the_ground_is_the_same_at_every_size():
    large, small = (draw_mosaic(build_scene("farmland", 38, size, key=(0, 5)), 6)[..., :3] for size in (256, 64))
    reduced = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.corrcoef(reduced.ravel(), small.ravel())[0, 1] > 0.85


@pytest.mark.parametrize("latitude, greenest", [(45, (5, 6, 7)), (-45, (11, 0, 1))])
def test_summer_is_green_in_either_hemisphere(latitude, greenest):
    scene = build_scene("farmland", latitude, 64, key=(0, 3))
    pictures = [draw_mosaic(scene, month)[..., :3].astype(float) for month in range(12)]
    excess = [(2 * p[..., 1] - p[..., 0] - p[..., 2]).mean() for p in pictures]
    winter = [(month + 6) % 12 for month in greenest]
    # means, since the color balance changes by month
    assert np.mean([excess[month] for month in greenest]) > 5 + np.mean([excess[month] for month in winter])


def test_a_mosaic_with_a_row_less_keeps_its_corner_and_its_footprints_inside(tmp_path):
    list(write_aoi(tmp_path, "5753_3655", "metro", 1, 64, 63, 0))
    (path,) = mosaics(tmp_path)
    with rasterio.open(path) as raster:
        assert (raster.height, raster.width) == (63, 64)
        assert raster.transform.a == pytest.approx(TILE / 64)
        assert raster.bounds.top == pytest.approx((4096 - 3655) * TILE)
        south = mercator_to_degrees(0, raster.bounds.bottom)[1]
    assert min(lat for feature in features(path) for _, lat in feature["geometry"]["coordinates"][0]) >= south


@pytest.mark.parametrize("size, rows", [(1024, [1023, 1024, 1024]), (512, [512, 512, 512])])
def test_at_full_size_one_aoi_has_1023_rows(tmp_path, monkeypatch, size, rows):
    asked = []

    def remember(folder, tile, cover, months, size, rows, seed):
        folder.mkdir(parents=True, exist_ok=True)
        asked.append(rows)
        yield 0

    monkeypatch.setattr(make_sn7_sample, "write_aoi", remember)
    write_sample(tmp_path / "sn7", months=1, size=size)
    assert asked == rows


@pytest.mark.parametrize(
    "options, message",
    [
        ({"aois": 0}, "--aois 0: choose 1 to 60"),
        ({"aois": 61}, "--aois 61: choose 1 to 60"),
        ({"months": 0}, "--months 0: choose 1 to 25"),
        ({"months": 26}, "--months 26: choose 1 to 25"),
        ({"size": 66}, "--size 66: choose a multiple of 4"),
        ({"size": 0}, "--size 0: choose 32 to 4096"),
        ({"seed": -1}, "--seed -1: choose 0 to"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path / "sn7", **options)
    assert not (tmp_path / "sn7").exists()


def test_an_output_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists; delete it or choose another --out"):
        write_sample(tmp_path)
    with pytest.raises(ValueError, match="exists; delete it or choose another --out"):
        write_sample(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    (tmp_path / "train.partial" / "L15-half").mkdir(parents=True)
    tree = write_sample(tmp_path, aois=1, months=1)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert [path.name for path in tree.iterdir()] == [aoi_name(AOIS[0][0])]


def run_script(folder, *options):
    script = (ROOT / "preprocessing" / "make_sn7_sample.py").relative_to(folder)
    return subprocess.run([sys.executable, str(script), *map(str, options)], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "preprocessing"])
def test_the_script_runs_from_the_root_and_from_its_folder(tmp_path, folder):
    done = run_script(folder, "--out", tmp_path / "sn7", "--aois", 1, "--months", 2, "--size", 32)
    assert done.returncode == 0, done.stderr
    summary, following = done.stdout.splitlines()
    assert summary.startswith("1 AOIs x 2 months: 2 mosaics of 32 x 32 pixels") and str(tmp_path) in summary
    assert following == (
        f"next: python preprocessing/make_sn7_csv.py --data-dir {tmp_path / 'sn7' / 'train'} --out-dir data/sn7"
    )
    assert done.stderr == ""  # no progress bar where there is no terminal
    assert len(mosaics(tmp_path / "sn7" / "train")) == 2


@pytest.mark.parametrize("options", [("--aois", 61), ("--months", "six"), ("--size", 30)])
def test_a_mistake_ends_the_script_with_a_message_and_no_traceback(tmp_path, options):
    done = run_script(ROOT, "--out", tmp_path / "sn7", *options)
    assert done.returncode != 0 and options[0] in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_proj_data_of_another_installation_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PROJ_DATA", str(tmp_path))
    done = run_script(ROOT, "--out", tmp_path / "sn7", "--aois", 1, "--months", 1, "--size", 32)
    assert done.returncode == 1 and f"unset PROJ_DATA={tmp_path}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "sn7").exists()
