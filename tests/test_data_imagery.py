"""Imagery from two commands to a backbone and a probe, and the data set in between."""

import dataclasses
import json
import multiprocessing
import re

import numpy as np
import pytest
import torch
from PIL import Image

from preprocessing import make_imagery_csv
from tests.imagery_fixtures import ground, prepare, write_raster
from vicreg import evaluate_imagery, main_vicreg_imagery
from vicreg.augmentations.batch import apply, normalize, sample_params
from vicreg.augmentations.presets import PRESETS
from vicreg.data.imagery import ImageryPatches, labeled_sets
from vicreg.data.raster_pack import grids
from vicreg.data.raster_pack import prepare as prepare_module
from vicreg.data.raster_pack.headers import PackOptions, list_sources
from vicreg.data.raster_pack.scenes import Scene
from vicreg.distributed import waiting

TOY = "--arch test_resnet --mlp 16-16 --batch-size 8 --workers 0 --device cpu --epochs 2 --lr 0.1".split()
CLASSES = {"dry": 1000, "wet": 3000}


def pretrain(*words):
    main_vicreg_imagery.main(main_vicreg_imagery.get_parser().parse_args([*TOY, *map(str, words)]))


def pretrain_on(folder, run):
    pretrain("--data-dir", folder, "--exp-dir", run)


def write_archive(folder, dtype):
    """Write 13-band scenes of two classes in two CRSs at five dates, with overlaps, other extents and nodata.

    In each CRS the ground has 8 x 4 cells of 16 pixels, the western half of class dry, the eastern of class wet; wet
    ground is brighter. The scenes of the second date are one row and two columns of cells shorter, those of the third
    lack the northern row (nodata), those of the fourth are two scenes that overlap by two columns.
    """
    import geopandas
    import shapely

    polygons = []
    for number, crs in enumerate(("EPSG:32633", "EPSG:32634")):
        level = np.repeat([CLASSES["dry"], CLASSES["wet"]], 64)
        for date, (rows, columns) in {
            "20210101": (slice(0, 64), slice(0, 128)), "20210201": (slice(0, 48), slice(0, 96)),
            "20210301": (slice(0, 64), slice(0, 128)), "20210401": (slice(0, 64), slice(0, 80)),
            "20210401_B": (slice(0, 64), slice(48, 128)), "20210501": (slice(16, 64), slice(3, 128)),
        }.items():  # fmt: skip
            noise = np.random.default_rng([number, int(date[4:8])]).integers(-200, 200, (13, 64, 128))
            pixels = (level + noise).astype(np.uint16)
            if date == "20210301":
                pixels[:, :16] = 0
            pixels = pixels[:, rows, columns]
            values, nodata = (pixels, 0) if dtype == "uint16" else (pixels / np.float32(10000), 0)
            name = folder / crs[-5:] / f"S2A_{date[:8]}T100031{date[8:]}.tif"
            write_raster(name, values.astype(dtype), columns.start, rows.start, crs, nodata=nodata)
        left, top = {"EPSG:32633": (500000, 5600000), "EPSG:32634": (420000, 5500000)}[crs]
        boxes = [shapely.box(left + 640 * k, top - 640, left + 640 * (k + 1), top) for k in range(2)]
        polygons.append(geopandas.GeoDataFrame({"kind": list(CLASSES)}, geometry=boxes, crs=crs).to_crs(4326))
    import pandas as pd

    path = folder.parent / "areas.gpkg"
    pd.concat(polygons, ignore_index=True).to_file(path)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_archive_of_13_bands_gives_a_backbone_and_a_probe_in_two_commands(tmp_path, dtype):
    areas = write_archive(tmp_path / "in", dtype)
    options = ["--patch-size", 16, "--labels", areas, "--label-column", "kind", "--buffer", 0]
    options += ["--scale", 0, 1] if dtype == "float32" else []
    table, pixels, meta = prepare(tmp_path / "in", tmp_path / "csv", *options)
    assert len(meta["grids"]) == 2 and meta["dtype"] == "uint16" and pixels.shape[1:] == (13, 16, 16)
    assert table.location.nunique() == 2 * 32
    expected = {"2021-01-01": 32, "2021-02-01": 18, "2021-03-01": 24, "2021-04-01": 40, "2021-05-01": 21}
    assert table.groupby("date").size().to_dict() == {date: 2 * count for date, count in expected.items()}
    first = table.groupby("grid")[["column", "line"]].transform("min")
    east = (table.column - first.column) >= 64
    assert (table.label == east.astype(int)).all() and meta["classes"] == ["dry", "wet"]
    scale = 1 if dtype == "uint16" else 65535 / 10000
    for row in table[table.date == "2021-04-01"].itertuples():
        assert pixels[row.row].mean() == pytest.approx(CLASSES[meta["classes"][row.label]] * scale, rel=0.05)
    assert set(table[table.split == "train"].location).isdisjoint(table[table.split == "val"].location)
    train = pixels[table[table.split == "train"].row] / 65535
    np.testing.assert_allclose(meta["mean"], train.mean((0, 2, 3)))
    np.testing.assert_allclose(meta["std"], train.std((0, 2, 3)))
    pretrain("--csv-dir", tmp_path / "csv", "--exp-dir", tmp_path / "exp", "--probe-every", 1)
    saved = torch.load(tmp_path / "exp" / "trained_model.pth", weights_only=True)
    assert saved["in_chans"] == 13 and saved["mean"] == meta["mean"]
    config = json.loads((tmp_path / "exp" / "config.json").read_text())
    assert "temporal" in json.dumps(config) and "knn20_top1" in (tmp_path / "exp" / "stats.txt").read_text()
    words = ["--csv-dir", tmp_path / "csv", "--exp-dir", tmp_path / "eval", "--epochs", 20, "--workers", 0, "--lr-head"]
    words += [
        1,
        "--views",
        1,
        "--batch-size",
        16,
        "--device",
        "cpu",
        "--pretrained",
        tmp_path / "exp/trained_model.pth",
    ]
    evaluate_imagery.main(evaluate_imagery.get_parser().parse_args(list(map(str, words))))
    result = json.loads((tmp_path / "eval" / "freeze_100" / "result.json").read_text())
    assert result["classes"] == 2 and result["overlap"]["location_overlap"] == 0 and result["top1"] == 1.0


def test_data_dir_takes_a_flat_folder_of_unlabeled_images(tmp_path, capsys):
    (tmp_path / "in" / "more").mkdir(parents=True)
    for number in range(9):
        pixels = ground(3, 40, 48, number, np.uint8, 255).transpose(1, 2, 0)
        Image.fromarray(pixels).save(tmp_path / "in" / ("more" if number % 2 else ".") / f"{number}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG")
    pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "exp", "--image-size", 16)
    shown = capsys.readouterr().out
    assert "1 of 10 files are left out:" in shown and "broken.png" in shown and "9 samples" in shown
    assert torch.load(tmp_path / "exp" / "trained_model.pth", weights_only=True)["in_chans"] == 3
    with pytest.raises(ValueError, match="--positives temporal: the images in .* have no locations"):
        pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "t", "--positives", "temporal")
    with pytest.raises(ValueError, match="--patch-size 16, --max-days-apart 3: the images in"):
        pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "t", "--patch-size", 16, "--max-days-apart", 3)


def test_data_dir_takes_a_folder_of_16_bit_images(tmp_path):
    for number in range(8):
        pixels = ground(3, 16, 16, number, np.uint16, 65535)
        write_raster(tmp_path / "in" / f"{number}.png", pixels, crs=None, driver="PNG")
    pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "exp", "--patch-size", 16)
    stored = np.load(tmp_path / "exp" / "patches" / "patches-00000.npy")
    assert stored.dtype == np.uint16 and (stored[3] == ground(3, 16, 16, 3, np.uint16, 65535)).all()
    with pytest.raises(ValueError, match="no patch of 17 x 17 pixels with enough data: the files are smaller"):
        pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "large", "--patch-size", 17)
    pretrain("--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "other")
    assert (np.load(tmp_path / "other" / "patches" / "patches-00000.npy") == stored).all()


def test_data_dir_cuts_rasters_once_and_uses_all_of_them(tmp_path, capsys):
    for month in (1, 2):
        write_raster(tmp_path / "in" / "deep" / f"2021-0{month}-01.tif", ground(5, 64, 64, month))
    words = ["--data-dir", tmp_path / "in", "--exp-dir", tmp_path / "exp", "--patch-size", 16]
    pretrain(*words)
    shown = capsys.readouterr().out
    assert "32 patches of 16 locations from 2 rasters" in shown and "temporal positives" in shown
    shard = tmp_path / "exp" / "patches" / "patches-00000.npy"
    assert torch.load(tmp_path / "exp" / "trained_model.pth", weights_only=True)["in_chans"] == 5
    written = shard.stat().st_mtime_ns
    pretrain(*words)
    assert shard.stat().st_mtime_ns == written and "nothing left to do" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no folder"):
        pretrain("--data-dir", tmp_path / "nowhere", "--exp-dir", tmp_path / "e")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images or rasters"):
        pretrain("--data-dir", tmp_path / "empty", "--exp-dir", tmp_path / "e")


def test_files_left_out_are_named_again_if_the_folder_is_prepared_already(tmp_path, capsys):
    for number in range(3):
        path = write_raster(tmp_path / "in" / f"{number}.tif", ground(1, 64, 64, number), compress="deflate")
    path.write_bytes(path.read_bytes()[:-3000])  # the header can be read
    words = ["--data-dir", tmp_path / "in", "--patch-size", 16, "--positives", "same", "--exp-dir"]
    for name in ("first", "first", "second"):
        pretrain(*words, tmp_path / name)
        assert re.search(r"1 of 3 files are left out:\n  .*2.tif: ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("start", "folder", "flag"), [(pretrain_on, "run/patches", "--exp-dir"), (prepare, "run", "--out-dir")]
)
def test_a_second_start_is_refused_while_rasters_are_cut(tmp_path, monkeypatch, capfd, start, folder, flag):
    write_raster(tmp_path / "in" / "a.tif", ground(3, 64, 64))
    partial = tmp_path / folder / ".imagery-work" / ".patches-00000.other-1.partial.npy"

    def second_start(*_, **__):
        monkeypatch.undo()  # the second start is a usual one
        partial.touch()
        process = multiprocessing.get_context("fork").Process(target=start, args=(tmp_path / "in", tmp_path / "run"))
        process.start()
        process.join()
        raise KeyboardInterrupt

    for module in (prepare_module, make_imagery_csv):
        monkeypatch.setattr(module, "run_shards", second_start)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "in", tmp_path / "run")
    message = f"another run is writing to {tmp_path / 'run'} now; wait for it or choose another {flag}"
    assert message in capfd.readouterr().err and partial.exists()


def test_other_processes_wait_for_the_main_process_while_it_writes(tmp_path, monkeypatch):
    write_raster(tmp_path / "in" / "a.tif", ground(1, 64, 64))
    sources, options = list_sources(tmp_path / "in"), PackOptions(32)
    work = tmp_path / "out" / ".imagery-work"
    work.mkdir(parents=True)
    monkeypatch.setattr(prepare_module.process_group, "is_main", lambda: False)
    monkeypatch.setattr(prepare_module.process_group, "timeout_seconds", lambda: 0.3)
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.05)
    calls = []

    def read_meta(*_):  # the main process writes for longer than the time-out, and stops
        calls.append(None)
        if len(calls) < 12:
            (work / "patches-00000.npy").write_bytes(b"x" * len(calls))

    monkeypatch.setattr(prepare_module, "_read_meta", read_meta)
    with pytest.raises(ConnectionError, match=r"rank 0 has written nothing to .*out/.imagery-work for \d+ s"):
        prepare_module.prepare_folder("in", sources, tmp_path / "out", options, lambda items, total: items)
    assert len(calls) >= 12  # it is not the time since the start that counts


@pytest.fixture
def dated(tmp_path):
    """Folder of 4 locations at days 0, 10 and 100, in several shards."""
    for date in ("2021-01-01", "2021-01-11", "2021-04-11"):
        write_raster(tmp_path / "in" / f"{date}.tif", ground(3, 32, 32, int(date[5:7] + date[8:])))
    prepare(tmp_path / "in", tmp_path / "csv", "--patch-size", 16, "--split", "none", "--shard-size", 0.005)
    return tmp_path / "csv"


def test_max_days_apart_limits_temporal_positives(dated):
    dataset = ImageryPatches(dated / "train.csv", None, max_days_apart=30)
    assert dataset.positives == "temporal" and len(dataset) == 12
    for index in range(12):
        row = dataset.table.iloc[index]
        chosen = {dataset.positive_index(index, seed) for seed in range(20)}
        dates = set(dataset.table.date[list(chosen)])
        assert set(dataset.table.location[list(chosen)]) == {row.location} and index not in chosen
        nearest = {"2021-01-01": {"2021-01-11"}, "2021-01-11": {"2021-01-01"}}
        assert dates == nearest.get(row.date, {"2021-01-11"})
    with pytest.raises(ValueError, match="--max-days-apart 5 is for temporal positives"):
        ImageryPatches(dated / "train.csv", "same", max_days_apart=5)
    with pytest.raises(ValueError, match="0 days or more"):
        ImageryPatches(dated / "train.csv", None, max_days_apart=-1)


def test_patches_come_from_all_shards_also_in_loader_processes(dated):
    import pickle

    meta = json.loads((dated / "meta.json").read_text())
    assert len(meta["shards"]) > 2
    dataset = pickle.loads(pickle.dumps(ImageryPatches(dated / "train.csv")))
    stored = np.concatenate([np.load(dated / shard["file"]) for shard in meta["shards"]])
    order = [11, 0, 5, 5, 3]
    assert torch.equal(dataset.images(order), torch.from_numpy(stored[order]))
    assert all(isinstance(array.base, np.memmap) for array in dataset._store._arrays)  # not read into memory
    on_device = ImageryPatches(dated / "train.csv")
    on_device.to_device(torch.device("cpu"))
    assert torch.equal(on_device.images(order), dataset.images(order))
    (dated / "patches-00001.npy").unlink()
    with pytest.raises(FileNotFoundError):
        ImageryPatches(dated / "train.csv")


@pytest.mark.parametrize(("scale", "levels"), [(None, (0, 65535)), (("0", "9000"), (0, 9000)), (("p0,p50",), None)])
def test_levels_are_the_scale_of_all_bands_or_of_each(tmp_path, scale, levels):
    pixels = ground(3, 32, 32)
    write_raster(tmp_path / "in" / "a.tif", pixels)
    options = ("--scale", *scale) if scale else ()
    prepare(tmp_path / "in", tmp_path / "csv", "--patch-size", 16, "--split", "none", *options)
    found = ImageryPatches(tmp_path / "csv" / "train.csv").levels
    if levels:
        assert found == levels
    else:
        expected = np.percentile(pixels.reshape(3, -1), [0, 50], axis=1).T  # the scene is smaller than the sample
        assert np.shape(found) == (3, 2) and np.allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("date", ["0.5", "2020-13-01", "9223372036854775808"])
def test_a_date_that_is_none_is_refused_where_days_count(dated, date):
    path = dated / "train.csv"
    first = ImageryPatches(path, "same").table.date.iloc[0]
    path.write_text(path.read_text().replace(first, date))
    with pytest.raises(ValueError, match="a date in the lists of .* cannot be read"):
        ImageryPatches(path, "temporal", 60)


def test_scenes_of_many_grids_are_placed_without_reading_all_grids_for_each(monkeypatch):
    class CountedGrid(grids.Grid):
        def __getitem__(self, key):
            read.append(key)
            return super().__getitem__(key)

    read = []
    monkeypatch.setattr(grids, "Grid", CountedGrid)
    image = Scene("a.tif", "a.tif", False, 64, 64, (64, 64), 1, (1,), ("1",), "uint8", crs="EPSG:32633")
    transforms = [(640.0 * n, 10 + n / 10, -640.0 * n, 10 + n / 10) for n in range(100)]
    scenes = [dataclasses.replace(image, transform=transform) for transform in (*transforms, *transforms)]
    found, placements = grids.place_scenes(scenes, 0.05, 64)
    assert [(grid.xres, grid.yres) for grid in found] == [(xres, yres) for _, xres, _, yres in transforms]
    assert [place.grid for place in placements] == [*range(100), *range(100)] and len(read) <= len(scenes)


def test_labeled_sets_need_a_validation_list_and_classes(dated, tmp_path):
    assert labeled_sets(dated) is None  # no classes
    table = tmp_path / "labels.csv"
    table.write_text(
        "path,class\n" + "".join(f"{path.name},{path.stem[5:7]}\n" for path in (tmp_path / "in").iterdir())
    )
    options = ("--patch-size", 16, "--labels", table, "--label-column", "class", "--buffer", 0)
    prepare(tmp_path / "in", tmp_path / "all", *options, "--split", "none")
    assert labeled_sets(tmp_path / "all") is None
    prepare(tmp_path / "in", tmp_path / "both", *options, "--split", "block", "--val-fraction", 0.25)
    train, val = labeled_sets(tmp_path / "both")
    assert len(train) == 9 and len(val) == 3 and train.classes == ["01", "04"]


def test_constant_images_have_the_deviation_of_one_step(tmp_path):
    for number in (0, 1, 60000):
        write_raster(tmp_path / "in" / f"{number}.tif", np.full((4, 32, 32), number, np.uint16), nodata=0)
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "csv", "--patch-size", 32, "--split", "none")
    assert meta["counts"]["patches"] == 2 and meta["counts"]["nodata"] == 1  # 0 is no data
    (tmp_path / "in" / "1.tif").unlink()
    _, pixels, meta = prepare(tmp_path / "in", tmp_path / "csv", "--patch-size", 32, "--split", "none")
    assert meta["mean"] == pytest.approx([60000 / 65535] * 4) and meta["std"] == [1 / 65535] * 4
    dataset = ImageryPatches(tmp_path / "csv" / "train.csv")
    images = normalize(dataset.images([0]).float() / 65535, dataset.mean, dataset.std)
    assert images.abs().max() < 0.1


def test_lists_that_do_not_fit_the_stored_patches_are_refused(dated):
    path = dated / "train.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"train.csv has \d+ rows, meta.json says"):
        ImageryPatches(path)
    path.write_text("".join([lines[0], "-1" + lines[1][lines[1].index(",") :], *lines[2:]]))
    with pytest.raises(ValueError, match="row -1 is not in 0 to"):
        ImageryPatches(path)


def test_unlabeled_folders_are_refused_for_evaluation(dated, tmp_path):
    with pytest.raises(ValueError, match="no rows with a label; prepare the folder with --labels"):
        ImageryPatches(dated / "train.csv", labeled=True)
    with pytest.raises(FileNotFoundError, match="make_imagery_csv.py"):
        ImageryPatches(tmp_path / "nowhere" / "train.csv")


def test_uint16_reaches_the_network_as_fractions_of_its_maximum():
    images = torch.from_numpy(ground(5, 16, 16, high=65536)[None])
    view = PRESETS["none"][0]
    params = sample_params(view, 1, 16, 16, torch.Generator().manual_seed(0))
    assert torch.equal(apply(images, params, 14, view), images.float()[..., 1:15, 1:15] / 65535)
