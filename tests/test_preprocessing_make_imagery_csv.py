"""make_imagery_csv.py: grids, cells, nodata, types, sharding, and SN7 through the general path."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

from preprocessing import make_imagery_csv, make_sn7_csv
from tests.imagery_fixtures import ground, prepare, write_raster
from vicreg.data.imagery import ImageryPatches
from vicreg.data.sn7 import SN7Patches

# EPSG:32633 as other software writes it: the same system under another name
OTHER_TEXT = rasterio.crs.CRS.from_epsg(32633).to_wkt().replace("WGS 84 / UTM zone 33N", "UTM Zone 33, North")


def cell(table, pixels, date, location):
    """Pixels of one location at one date."""
    rows = table[(table.date == date) & (table.location == location)]
    assert len(rows) == 1
    return pixels[rows.row.iloc[0]]


def test_sn7_gives_the_locations_dates_pixels_and_temporal_pairs_of_make_sn7_csv(tmp_path):
    from preprocessing.sn7.sample import AOIS, write_aoi

    for number, (tile, cover) in enumerate([(aoi[0], aoi[1]) for aoi in AOIS[:3]]):
        for _ in write_aoi(tmp_path / "train", tile, cover, 3 + number, 64, 64 - (number == 1), 0):
            pass
    words = ["--data-dir", str(tmp_path / "train"), "--out-dir", str(tmp_path / "sn7")]
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(words))
    prepare(tmp_path / "train", tmp_path / "own", "--patch-size", 16)
    sn7, own = SN7Patches(tmp_path / "sn7" / "all.csv", "temporal"), ImageryPatches(tmp_path / "own" / "all.csv", None)
    assert len(sn7) == len(own) == (3 + 4 + 5) * 16 and own.positives == "temporal"
    assert (sn7.images(range(len(sn7))) == own.images(range(len(own)))).all()
    assert (sn7.location_ids == own.location_ids).all()
    months = sn7.table.year.astype(str) + "-" + sn7.table.month.astype(str).str.zfill(2) + "-01"
    assert (months == own.table.date).all()
    for index in range(len(sn7)):
        for seed in (0, 1, 12345678901):
            assert sn7.positive_index(index, seed) == own.positive_index(index, seed)


def test_shifted_and_cropped_scenes_are_cut_into_the_same_cells(tmp_path):
    land = ground(4)
    for date, (top, left, height, width) in {
        "20210101": (0, 0, 96, 96), "20210201": (0, 0, 96, 96),
        "20210301": (5, 37, 80, 59), "20210401": (32, 32, 64, 64),
    }.items():  # fmt: skip
        write_raster(tmp_path / "in" / f"{date}.tif", land[:, top : top + height, left : left + width], left, top)
    table, pixels, meta = prepare(
        tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--max-nodata", 0, "--split", "none"
    )
    assert len(meta["grids"]) == 1 and meta["dtype"] == "uint16" and pixels.shape[1:] == (4, 32, 32)
    counts = table.groupby("date").size().to_dict()
    assert counts == {"2021-01-01": 9, "2021-02-01": 9, "2021-03-01": 1, "2021-04-01": 4}
    assert table.location.nunique() == 9
    for row in table.itertuples():
        left, top = row.column - table.column.min(), row.line - table.line.min()
        assert (pixels[row.row] == land[:, top : top + 32, left : left + 32]).all()
    assert meta["counts"]["duplicates"] == len(table) - 9


def test_another_crs_resolution_or_alignment_is_another_grid(tmp_path, capsys):
    land = ground(1, 64, 64)
    write_raster(tmp_path / "in" / "a.tif", land)
    write_raster(tmp_path / "in" / "b.tif", land, column=0.03)  # within the tolerance
    write_raster(tmp_path / "in" / "c.tif", land, column=0.3)
    write_raster(tmp_path / "in" / "d.tif", land, crs="EPSG:32634")
    write_raster(tmp_path / "in" / "e.tif", land, resolution=20)
    table, _, meta = prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32)
    assert "warning: locations are told apart within each grid" in capsys.readouterr().out
    grids = table.groupby("image_id").grid.first()
    assert grids.tolist() == [0, 0, 1, 2, 3] and len(meta["grids"]) == 4
    assert set(table[table.image_id == "a.tif"].location) == set(table[table.image_id == "b.tif"].location)


def test_resolution_and_crs_resample_to_one_grid(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64))[None].astype(np.uint16) * 10 + 100
    write_raster(tmp_path / "in" / "2021-01-01.tif", smooth)
    write_raster(tmp_path / "in" / "2021-02-01.tif", smooth, column=0.5, row=0.5)
    write_raster(tmp_path / "in" / "2021-03-01.tif", smooth[:, ::2, ::2].copy(), resolution=20)
    options = ("--patch-size", 16, "--resolution", 10, "--crs", "EPSG:32633")
    table, pixels, meta = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert len(meta["grids"]) == 1
    dates = table.groupby("location").date.nunique()
    assert (dates == 3).sum() >= 9
    location = dates.index[dates == 3][4]
    first, second, third = (cell(table, pixels, f"2021-0{month}-01", location)[0] for month in (1, 2, 3))
    assert (first == second + 10).all()  # half a pixel each way on a slope of 10 and 10
    assert np.abs(first.astype(int) - third).max() <= 20
    with rasterio.open(tmp_path / "in" / "2021-01-01.tif", "r+") as raster:
        raster.crs = OTHER_TEXT
    same = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert len(same[2]["grids"]) == 1 and (same[1] == pixels).all()
    with pytest.raises(ValueError, match="--crs EPSG:32633 resamples, so it needs --resolution"):
        prepare(tmp_path / "in", tmp_path / "out", "--crs", "EPSG:32633")


def test_nodata_alpha_and_cloud_masks_drop_patches_and_do_not_count(tmp_path):
    land = ground(3, 32, 64, dtype=np.uint8, high=200)
    land[:, :, 32:40] = 0  # a quarter of the second patch
    land[0, 5, 5] = 0  # one band only: data
    write_raster(tmp_path / "nodata" / "a.tif", land, nodata=0)
    alpha = np.concatenate([land, np.where(np.arange(64) < 32, 255, 0)[None, None].repeat(32, 1).astype(np.uint8)])
    write_raster(tmp_path / "alpha" / "a.tif", alpha, photometric="RGB", alpha="YES")
    write_raster(tmp_path / "cloud" / "a.tif", land)
    write_raster(tmp_path / "cloud" / "a_clouds.tif", (land[:1] == 0).astype(np.uint8))
    for name, options in {"nodata": [], "alpha": [], "cloud": ["--cloud-mask", "{stem}_clouds.tif"]}.items():
        options = ["--patch-size", 32, "--split", "none", *options]
        table, pixels, meta = prepare(tmp_path / name, tmp_path / f"{name}_out", *options)
        assert len(table) == 1 and meta["counts"]["nodata"] == 1, name
        expected = land[:, :, :32].copy()
        expected[:, 5, 5] *= name != "cloud"
        assert (pixels[0] == expected).all() and pixels.shape[1] == 3
        assert table.valid[0] == pytest.approx(1 - (name == "cloud") / 1024)
    _, kept, meta = prepare(tmp_path / "nodata", tmp_path / "kept", "--patch-size", 32, "--split", "none",
                            "--max-nodata", 0.25)  # fmt: skip
    used = np.concatenate([land[:, :, :32].reshape(3, -1), land[:, :, 40:].reshape(3, -1)], 1) / 255
    assert len(kept) == 2
    np.testing.assert_allclose(meta["mean"], used.mean(1))
    np.testing.assert_allclose(meta["std"], used.std(1))


def test_a_mask_band_holds_after_resampling_as_does_the_border_of_the_scene(tmp_path):
    land = ground(1)
    land[:, :40] = 60000
    path = write_raster(tmp_path / "in" / "a.tif", land)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.arange(96)[:, None].repeat(96, 1) >= 40)
    options = "--patch-size", 16, "--split", "none", "--max-nodata", 0.9, "--resolution", 10, "--crs", "EPSG:32632"
    table, pixels, _ = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert (table.valid * 256).sum() == pytest.approx(56 * 96, rel=0.1) and pixels.max() < 10000
    assert ((pixels > 0).mean((1, 2, 3)) == table.valid).all()


def test_a_scene_across_180_degrees_is_listed_if_its_system_divides_it(tmp_path, capsys):
    write_raster(tmp_path / "in" / "a.tif", ground(1, 64, 64), column=81910, row=-811800, crs="EPSG:32760")
    options = "--patch-size", 32, "--split", "none", "--resolution"
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", *options, 0.0001, "--crs", "EPSG:4326")
    assert "a.tif: crosses 180 degrees in EPSG:4326; choose another --crs" in capsys.readouterr().err
    assert len(prepare(tmp_path / "in", tmp_path / "out", *options, 10, "--crs", "EPSG:32760")[0]) == 4


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ({"column": 16}, []),
        ({"crs": "EPSG:32634"}, []),
        ({"resolution": 20}, []),
        ({"crs": None}, ["--resolution", 20]),
    ],
)
def test_a_cloud_mask_of_other_ground_is_listed(tmp_path, capsys, mask, options):
    write_raster(tmp_path / "in" / "a.tif", ground(1, 64, 64))
    clouds = write_raster(tmp_path / "in" / "a_c.tif", ground(1, 64, 64), **mask)
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 16, "--cloud-mask", "{stem}_c.tif", *options)
    message = f"a.tif: cloud mask {clouds}: its extent or coordinate reference system is not that of the scene"
    assert message in capsys.readouterr().err


def test_a_cloud_mask_may_be_coarser_and_name_its_system_otherwise(tmp_path):
    write_raster(tmp_path / "in" / "a.tif", ground(1, 64, 64))
    options = "--patch-size", 32, "--split", "none", "--cloud-mask", "{stem}_c.tif"
    clouds = np.eye(2, dtype=np.uint8)[None].repeat(16, 1).repeat(16, 2)
    write_raster(tmp_path / "in" / "a_c.tif", clouds, resolution=20)
    with rasterio.open(tmp_path / "in" / "a_c.tif", "r+") as raster:
        raster.crs = OTHER_TEXT
    assert len(prepare(tmp_path / "in", tmp_path / "out", *options)[0]) == 2
    write_raster(tmp_path / "in" / "a_c.tif", clouds.repeat(2, 1).repeat(2, 2), crs=None)  # of the size of the scene
    assert len(prepare(tmp_path / "in", tmp_path / "out", *options)[0]) == 2


def test_float_and_signed_rasters_need_a_scale(tmp_path, capsys):
    land = np.random.default_rng(0).normal(0.3, 0.1, (2, 64, 64)).astype(np.float32)
    land[:, 0, 0] = np.nan
    write_raster(tmp_path / "in" / "a.tif", land)
    with pytest.raises(ValueError, match=r"hold float32; .*--scale LOW HIGH"):
        prepare(tmp_path / "in", tmp_path / "out")
    options = "--patch-size", 32, "--split", "none"
    table, pixels, meta = prepare(tmp_path / "in", tmp_path / "out", *options, "--scale", 0, 1)
    expected = np.nan_to_num(land).clip(0, 1) * 65535
    assert pixels.dtype == np.uint16 and np.abs(pixels[0] - expected[:, :32, :32]).max() <= 0.5
    assert meta["scale"] == [[0, 1], [0, 1]]
    assert meta["counts"]["clipped"][0] == pytest.approx((land < 0).sum() / land.size)
    assert "were below and" in capsys.readouterr().out
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "p", *options, "--scale", "p2,p98", "--dtype", "uint8")
    np.testing.assert_allclose(meta["scale"][0], np.nanpercentile(land[0], [2, 98]), rtol=1e-5)
    assert pixels.dtype == np.uint8 and (pixels == 255).mean() == pytest.approx(0.02, abs=0.01)
    write_raster(tmp_path / "signed" / "a.tif", np.nan_to_num(land).astype(np.int16))
    with pytest.raises(ValueError, match="int16"):
        prepare(tmp_path / "signed", tmp_path / "out")


def test_bands_are_selected_and_ordered_by_number_or_name(tmp_path):
    land = ground(4, 32, 32)
    write_raster(tmp_path / "in" / "a.tif", land, descriptions=["B02", "B03", "B04", "B08"])
    options = "--patch-size", 32, "--split", "none", "--bands"
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "out", *options, "B04", "B03", "B02")
    assert (pixels[0] == land[[2, 1, 0]]).all() and meta["bands"] == ["B04", "B03", "B02"]
    assert (prepare(tmp_path / "in", tmp_path / "out", *options, "4", "1")[1][0] == land[[3, 0]]).all()
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", *options, "B11")


def test_bands_in_another_order_of_colors_are_listed_and_chosen_by_color(tmp_path, capsys):
    import rasterio
    from rasterio.enums import ColorInterp

    land = ground(3, 32, 32, dtype=np.uint8, high=250)
    for name in ("a", "b"):
        write_raster(tmp_path / "in" / f"{name}.tif", land, photometric="RGB")
    path = write_raster(tmp_path / "in" / "c.tif", land[::-1].copy())
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = ColorInterp.blue, ColorInterp.green, ColorInterp.red
    options = "--patch-size", 32, "--split", "none"
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", *options)
    assert "c.tif: bands blue green red, where others are red green blue" in capsys.readouterr().err
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "out", *options, "--bands", "red", "green", "blue")
    assert (pixels == land).all() and len(pixels) == 3 and meta["bands"] == ["red", "green", "blue"]


def test_files_that_do_not_fit_are_listed_with_the_reason(tmp_path, capsys):
    land = ground(4, 64, 64)
    for name in ("a", "b", "c"):
        write_raster(tmp_path / "in" / f"{name}.tif", land, compress="deflate")
    whole = (tmp_path / "in" / "c.tif").read_bytes()
    (tmp_path / "in" / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "empty.tif").touch()
    (tmp_path / "in" / "text.tif").write_text("no raster")
    (tmp_path / "in" / "link.tif").symlink_to(tmp_path / "nowhere.tif")
    write_raster(tmp_path / "in" / "three.tif", land[:3])
    write_raster(tmp_path / "in" / "float.tif", land.astype(np.float32))
    write_raster(tmp_path / "in" / "nowhere.tif", land, crs=None)
    write_raster(tmp_path / "in" / "nir.tif", (land % 256).astype(np.uint8), photometric="RGB", alpha="YES")
    with pytest.raises(ValueError, match="nothing written"):
        prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 32)
    assert not (tmp_path / "out" / "meta.json").exists()
    table, pixels, _ = prepare(
        tmp_path / "in", tmp_path / "out", "--patch-size", 32, "--on-error", "skip", "--buffer", 0
    )
    out, shown = capsys.readouterr()
    assert "1 files in " in out and "link.tif" in out  # a link to nothing is no file
    for name, reason in {
        "empty": "empty file", "text": "cannot be read", "three": "3 bands of uint16, where",
        "float": "4 bands of float32, where", "nowhere": "no georeference", "nir": "marked as alpha and holds other",
        "cut": r"cannot be read \(.*TIFF",
    }.items():  # fmt: skip
        assert re.search(rf"{name}\.tif: .*{reason}", shown), (name, shown)
    assert set(table.image_id) == {"a.tif", "b.tif", "c.tif"} and len(table) == 12
    assert (pixels[table.row.iloc[0]] == land[:, :32, :32]).all()


def test_a_four_band_tiff_marked_as_alpha_is_read_with_all_bands_on_request(tmp_path):
    land = ground(4, 32, 32, dtype=np.uint8, high=250)
    write_raster(tmp_path / "in" / "nir.tif", land, photometric="RGB", alpha="YES")
    options = "--patch-size", 32, "--split", "none", "--bands", 1, 2, 3, 4
    assert (prepare(tmp_path / "in", tmp_path / "out", *options)[1][0] == land).all()
    land[3, :16] = 0  # water in the near infrared, not transparent
    write_raster(tmp_path / "in" / "nir.tif", land, photometric="RGB", alpha="YES")
    assert (prepare(tmp_path / "in", tmp_path / "out", *options)[1][0] == land).all()


def test_the_default_patch_size_is_what_all_files_hold_if_none_reaches_256(tmp_path, capsys):
    for number, size in enumerate((40, 48)):
        write_raster(tmp_path / "in" / f"{number}.tif", ground(1, size, size + 8, number), crs=None)
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "out")
    assert (
        pixels.shape == (2, 1, 40, 40)
        and meta["patch_size_from"] == "the largest that all files hold, as none reaches 256"
    )
    assert "patches of 40 x 40 pixels (the largest that all files hold, as none reaches 256)" in capsys.readouterr().out
    write_raster(tmp_path / "in" / "icon.tif", ground(1, 4, 4), crs=None)  # would make all patches tiny
    with pytest.raises(ValueError, match="have 4 to 48 pixels, none the default of 256; choose --patch-size"):
        prepare(tmp_path / "in", tmp_path / "again")
    assert prepare(tmp_path / "in", tmp_path / "again", "--patch-size", 40)[1].shape == (2, 1, 40, 40)
    with pytest.raises(ValueError, match="no patch of 256 x 256 .* see --patch-size"):
        prepare(tmp_path / "in", tmp_path / "other", "--patch-size", 256)
    write_raster(tmp_path / "in" / "2.tif", ground(1, 256, 256), crs=None)
    assert prepare(tmp_path / "in", tmp_path / "out", "--split", "none")[1].shape == (1, 1, 256, 256)


def archive(folder):
    """Write 6 scenes of 3 x 2 cells of 32 pixels."""
    for month in range(1, 7):
        write_raster(folder / f"2021-{month:02d}.tif", ground(3, 64, 96, seed=month))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("meta.json", ".lock")}


def test_shards_and_merge_give_the_bytes_of_one_process(tmp_path):
    archive(tmp_path / "in")
    options = "--patch-size", 32, "--shard-size", 0.03
    meta = prepare(tmp_path / "in", tmp_path / "one", *options)[2]
    assert len(meta["shards"]) == 6
    words = ["--data-dir", str(tmp_path / "in"), "--out-dir", str(tmp_path / "two"), *map(str, options)]
    parse = make_imagery_csv.get_parser().parse_args
    make_imagery_csv.main(parse([*words, "--shard", "1/2"]))
    with pytest.raises(FileNotFoundError, match="3 of 6 shards are missing"):
        make_imagery_csv.main(parse([*words, "--merge"]))
    make_imagery_csv.main(parse([*words, "--shard", "0/2"]))
    make_imagery_csv.main(parse([*words, "--merge"]))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    make_imagery_csv.main(parse([*words, "--verify"]))
    with (tmp_path / "two" / "patches-00004.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    with pytest.raises(ValueError, match="patches-00004.npy is missing or was changed"):
        make_imagery_csv.main(parse([*words, "--verify"]))
    write_raster(tmp_path / "in" / "2021-07.tif", ground(3, 64, 96))
    make_imagery_csv.main(parse([*words, "--shard", "0/2"]))
    write_raster(tmp_path / "in" / "2021-08.tif", ground(3, 64, 96))
    with pytest.raises(ValueError, match="shards of other files or options"):
        make_imagery_csv.main(parse([*words, "--shard", "1/2"]))


@pytest.mark.slow
def test_an_executor_of_other_processes_gives_the_same_bytes(tmp_path, monkeypatch):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    archive(tmp_path / "in")
    options = "--patch-size", 32, "--shard-size", 0.03
    prepare(tmp_path / "in", tmp_path / "one", *options)
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        monkeypatch.setattr(make_imagery_csv, "_dask_executor", lambda address: pool)
        prepare(tmp_path / "in", tmp_path / "two", *options, "--dask", "tcp://x")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_killed_job_resumes_without_writing_finished_shards_again(tmp_path, repo_root):
    for number in range(100):
        write_raster(tmp_path / "in" / f"{number:03d}.tif", ground(3, 64, 64, seed=number), column=64 * number)
    words = ["--patch-size", "32", "--shard-size", "0.05", "--data-dir", tmp_path / "in", "--out-dir", tmp_path / "out"]
    command = [sys.executable, repo_root / "preprocessing" / "make_imagery_csv.py", *map(str, words)]
    work = tmp_path / "out" / ".imagery-work"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(list(work.glob("shard-*.npz"))) < 5 and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in sorted(work.glob("shard-*.npz"))[:-1]}
    assert len(finished) >= 4 and not (tmp_path / "out" / "meta.json").exists()
    from vicreg.data.raster_pack import shards

    written = []
    original = shards._write
    shards._write = lambda path, *rest: written.append(path) or original(path, *rest)
    try:
        prepare(tmp_path / "in", tmp_path / "out", *words[:4])
    finally:
        shards._write = original
    assert 0 < len(written) <= 50 - len(finished)
    prepare(tmp_path / "in", tmp_path / "again", *words[:4])
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_8_bits_are_not_scaled_since_no_reader_would_repeat_it(tmp_path):
    write_raster(tmp_path / "in" / "a.tif", ground(3, 32, 32, high=200).astype(np.uint8))
    for scale in (["0", "100"], ["p2,p98"]):
        with pytest.raises(ValueError, match=r"--scale .*a\.tif and the others hold uint8"):
            prepare(tmp_path / "in", tmp_path / "out", "--patch-size", 16, "--scale", *scale)


def test_shards_that_were_moved_before_a_kill_are_written_again(tmp_path, monkeypatch):
    from vicreg.data.raster_pack import lists

    archive(tmp_path / "in")
    options = "--patch-size", 32, "--shard-size", 0.03
    prepare(tmp_path / "in", tmp_path / "one", *options)

    original = lists.shutil.rmtree
    monkeypatch.setattr(lists.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", tmp_path / "two", *options)
    monkeypatch.setattr(lists.shutil, "rmtree", original)
    prepare(tmp_path / "in", tmp_path / "two", *options)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_verify_and_wrong_arguments_end_with_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*meta.json"):
        prepare(tmp_path, tmp_path / "out", "--verify")
    archive(tmp_path / "in")
    for options, message in [
        (["--shard", "2/2"], "--shard 2/2: I/N"), (["--scale", "5"], "two numbers are needed"),
        (["--scale", "5", "1"], "the lower value comes first"), (["--max-nodata", "1"], "--max-nodata 1.0: 0 or more"),
        (["--patch-size", "500"], "no patch of 500 x 500"), (["--cloud-mask", "clouds.tif"], "{stem}"),
        (["--location-pattern", "x"], "without a georeference"), (["--list", "nothing.txt"], "no list"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, OSError), match=re.escape(message)):
            prepare(tmp_path / "in", tmp_path / "out", *options)
