"""Reduced mosaics: means of blocks, where they were, prepared like full ones; what cannot be reduced is refused."""

import numpy as np
import pytest
import rasterio

from preprocessing import make_sn7_csv, make_sn7_sample, reduce_sn7
from preprocessing.sn7.geocode import xyz_tile_bounds
from tests.conftest import call_script, write_tif
from vicreg.data import rasters

SCRIPT = "preprocessing/reduce_sn7.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A drawn tree of 2 AOIs x 2 months, 64 pixels."""
    out = tmp_path_factory.mktemp("sample")
    words = ["--out", str(out), "--aois", "2", "--months", "2", "--size", "64"]
    make_sn7_sample.main(make_sn7_sample.get_parser().parse_args(words))
    return out / "train"


def reduce(tree, out, *more):
    words = ["--data-dir", tree, "--out-dir", out, "--size", 16, "--workers", 2, *more]
    reduce_sn7.main(reduce_sn7.get_parser().parse_args(list(map(str, words))))
    return sorted(out.rglob("*.tif"))


def test_pixels_are_means_of_blocks_and_lie_where_they_lay(tree, tmp_path):
    paths = reduce(tree, tmp_path / "small")
    assert [path.relative_to(tmp_path / "small") for path in paths] == sorted(
        path.relative_to(tree) for path in tree.rglob("*.tif")
    )
    for path in paths:
        with rasterio.open(path) as small, rasterio.open(tree / path.relative_to(tmp_path / "small")) as full:
            assert small.shape == (16, 16) and small.count == 3 and small.crs == full.crs
            assert small.bounds == pytest.approx(full.bounds)
            if full.shape == (64, 64):
                means = full.read([1, 2, 3]).reshape(3, 16, 4, 16, 4).mean((2, 4))
                assert np.abs(small.read() - means).max() <= 0.5


def test_a_reduced_tree_is_prepared_as_a_full_one(tree, tmp_path, capsys):
    reduce(tree, tmp_path / "small")
    words = ["--data-dir", str(tmp_path / "small"), "--out-dir", str(tmp_path / "lists")]
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(words))
    assert "4 mosaics" in capsys.readouterr().out
    assert np.load(tmp_path / "lists/patches.npy", mmap_mode="r").shape == (64, 3, 4, 4)


def test_started_again_it_leaves_what_is_there(tree, tmp_path, capsys):
    paths = reduce(tree, tmp_path / "small")
    paths[0].unlink()
    before = paths[1].stat().st_mtime_ns
    assert reduce(tree, tmp_path / "small") == paths and paths[1].stat().st_mtime_ns == before
    assert "4 mosaics of 64 pixels reduced to 16" in (said := capsys.readouterr().out) and "(3 existed" in said


def write_mosaic(tree, pixels, overviews=False, **profile):
    """Write one mosaic (C, H, W) and return the folder and the path of its reduced copy relative to it."""
    aoi = "L15-1025E-1366N_4102_2726_13"
    path = tree / aoi / "images" / f"global_monthly_2018_01_mosaic_{aoi}.tif"
    path.parent.mkdir(parents=True)
    profile |= {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasters.quiet_georeference(), rasterio.open(path, "w", dtype="uint8", **profile) as raster:
        raster.write(pixels)
        if overviews:
            raster.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    return path.relative_to(tree)


def read(path):
    with rasters.quiet_georeference(), rasterio.open(path) as raster:
        return raster.read()


def test_nearest_neighbor_overviews_are_not_taken_for_averages(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    path = write_mosaic(tmp_path / "tree", pixels, overviews=True)
    reduce(tmp_path / "tree", tmp_path / "small")
    means = pixels.reshape(3, 16, 4, 16, 4).mean((2, 4))
    assert np.abs(read(tmp_path / "small" / path) - means).max() <= 0.5


def test_a_no_data_value_counts_for_pixels_and_not_for_single_bands(tmp_path):
    pixels = np.full((3, 64, 64), 100, np.uint8)
    pixels[1, ::2] = 0  # green is 0 in every other row, red and blue are not
    pixels[:, :, 1::2] = 0  # no data in every other column
    pixels[:, 60:] = 0  # blocks without any data
    path = write_mosaic(tmp_path / "tree", pixels, nodata=0)
    reduce(tmp_path / "tree", tmp_path / "small")
    small = read(tmp_path / "small" / path)
    assert (small[:, :15] == np.array([100, 50, 100])[:, None, None]).all() and (small[:, 15] == 0).all()


def test_transparent_pixels_do_not_count(tmp_path):
    pixels = np.full((4, 64, 64), 255, np.uint8)
    pixels[:3, :, ::2], pixels[3, :, 1::2] = 40, 0  # white and transparent in every other column
    path = write_mosaic(tmp_path / "tree", pixels, photometric="RGB", alpha="yes")
    reduce(tmp_path / "tree", tmp_path / "small")
    assert (read(tmp_path / "small" / path) == 40).all()


def test_a_mosaic_one_row_short_is_averaged_by_area(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 63, 64), dtype=np.uint8)
    path = write_mosaic(tmp_path / "tree", pixels)
    reduce(tmp_path / "tree", tmp_path / "small")
    repeated = pixels.repeat(16, 1)  # 63 * 16 rows: 63 for each of the 16 results
    means = repeated.reshape(3, 16, 63, 16, 4).mean((2, 4))
    assert np.abs(read(tmp_path / "small" / path) - means).max() <= 0.5 + 1e-9


def test_a_reduced_tree_of_another_size_is_refused_and_a_broken_file_written_again(tree, tmp_path):
    paths = reduce(tree, tmp_path / "small")
    with pytest.raises(ValueError, match="has 16 x 16 pixels, not 8 x 8; choose another --out-dir"):
        reduce(tree, tmp_path / "small", "--size", 8)
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 2])
    reduce(tree, tmp_path / "small")
    assert paths[0].read_bytes() == whole


def test_what_cannot_be_reduced_is_refused_in_one_line(tree, tmp_path):
    with pytest.raises(ValueError, match="--size 48 does not divide the 64 pixels"):
        reduce(tree, tmp_path / "small", "--size", 48)
    with pytest.raises(ValueError, match="to another folder"):
        reduce(tree, tree)
    ran = call_script(SCRIPT, "--data-dir", tmp_path / "none", "--out-dir", tmp_path / "small")
    assert ran.returncode == 1 and ran.stderr.startswith("reduce_sn7: no folder") and ran.stderr.count("\n") == 1


def test_ground_control_points_stay_where_they_were(tmp_path):
    bounds = xyz_tile_bounds(4102, 2726, 13)
    pixels = np.ones((3, 64, 64), np.uint8)
    path = write_mosaic(tmp_path / "tree", pixels)
    write_tif(tmp_path / "tree" / path, pixels, bounds, gcps=True)
    reduce(tmp_path / "tree", tmp_path / "small")
    with rasterio.open(tmp_path / "small" / path) as raster:
        points, crs = raster.gcps
        assert crs.to_epsg() == 3857 and raster.crs is None
        assert [(p.row, p.col) for p in points] == [(0, 0), (0, 16), (16, 0), (16, 16)]
        assert (points[0].x, points[0].y, points[3].x, points[3].y) == pytest.approx(
            (bounds[0], bounds[3], bounds[2], bounds[1])
        )
