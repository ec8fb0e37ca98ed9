"""Prediction on images and on rasters: probabilities, and maps that lie where the raster lies."""

import csv

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from downstream.eurosat_landcover_clsf_task import predict_eurosat, train_eurosat
from tests.conftest import call_script
from vicreg.common import checkpoint_io
from vicreg.data import rasters
from vicreg.data.rasters import quiet_georeference
from vicreg.models.backbones import create_backbone

SCRIPT = "downstream/eurosat_landcover_clsf_task/predict_eurosat.py"
CLASSES = ["Forest", "Residential", "SeaLake"]
COLORS = [(30, 90, 40), (150, 140, 130), (20, 40, 120)]  # of the tree's classes


@pytest.fixture(scope="module")
def trained(eurosat_tree, tmp_path_factory):
    """best_model.pth of a run on the tiny tree."""
    return train(eurosat_tree, tmp_path_factory.mktemp("trained") / "run")


def train(data_dir, folder, *more):
    words = "--pretrained random --arch test_resnet --batch-size 8 --epochs 4 --device cpu --workers 1 --lr 0.01"
    words = [*words.split(), "--data-dir", data_dir, "--exp-dir", folder, *more]
    train_eurosat.main(train_eurosat.get_parser().parse_args(list(map(str, words))))
    return folder / "best_model.pth"


def predict(checkpoint_file, out, *words):
    given = ["--checkpoint", str(checkpoint_file), "--out", str(out), "--device", "cpu", *map(str, words)]
    predict_eurosat.main(predict_eurosat.get_parser().parse_args(given))


def write_raster(path, cells, side=32, dtype="uint8", factor=1, crs="EPSG:32632", **more):
    """Write a raster of square areas of one class each, with noise; ``cells`` are class numbers."""
    rng = np.random.default_rng(0)
    areas = np.kron(np.array(cells), np.ones((side, side), int))
    pixels = np.array(COLORS)[areas] + rng.integers(-20, 21, (*areas.shape, 3))
    pixels = (pixels.clip(0, 255) * factor).astype(dtype).transpose(2, 0, 1)
    profile = {"width": areas.shape[1], "height": areas.shape[0], "count": 3, "dtype": dtype, "driver": "GTiff", **more}
    if crs:
        profile |= {"crs": crs, "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5400000)}
    with quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)
    return path


def test_a_large_geotiff_becomes_a_map_that_lies_where_it_lies(trained, tmp_path):
    cells = [[0, 1, 2], [2, 2, 0]]
    path = write_raster(tmp_path / "scene.tif", cells)
    ran = call_script(SCRIPT, "--checkpoint", trained, "--image", path, "--out", tmp_path / "out", "--batch-size", 2)
    assert ran.returncode == 0, ran.stderr
    assert "SeaLake 50.0%, Forest 33.3%, Residential 16.7%" in ran.stdout
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as found, rasterio.open(path) as raster:
        assert found.read(1).tolist() == cells and found.dtypes == ("uint8",) and found.nodata == 255
        assert found.crs == raster.crs and found.bounds == raster.bounds and found.res == (320, 320)
        assert len({found.colormap(1)[code] for code in range(3)}) == 3
        assert found.tags()["CLASSES"] == "Forest,Residential,SeaLake"
    assert min(Image.open(tmp_path / "out" / "scene_classes.png").size) > 200


def test_a_smaller_stride_makes_more_cells_whose_windows_are_centered_on_them(trained, tmp_path):
    path = write_raster(tmp_path / "scene.tif", [[0, 2]])
    predict(trained, tmp_path, "--image", path, "--stride", 8)
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        codes = found.read(1)
        assert codes.shape == (4, 8) and found.res == (80, 80) and found.bounds[:2] == (500000, 5400000 - 320)
    assert (codes[:, :2] == 0).all() and (codes[:, -2:] == 2).all()


def test_cells_without_data_stay_without_a_class(trained, tmp_path):
    path = write_raster(tmp_path / "scene.tif", [[0, 1, 2]], nodata=0)
    with rasterio.open(path, "r+") as raster:
        raster.write(np.zeros((3, 32, 20), np.uint8), window=rasterio.windows.Window(32, 0, 20, 32))
    predict(trained, tmp_path, "--image", path)
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        assert found.read(1).tolist() == [[0, 255, 2]]


def test_sixteen_bits_need_levels_and_then_give_the_same_map(trained, tmp_path):
    path = write_raster(tmp_path / "scene.tif", [[0, 1, 2]], dtype="uint16", factor=10)
    with pytest.raises(ValueError, match="uint16, not 8-bit.*--levels"):
        predict(trained, tmp_path, "--image", path)
    predict(trained, tmp_path, "--image", path, "--levels", 0, 2550)
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        assert found.read(1).tolist() == [[0, 1, 2]]


def test_a_raster_without_a_georeference_is_mapped_without_one(trained, tmp_path):
    path = write_raster(tmp_path / "scene.tif", [[1, 2]], crs=None)
    predict(trained, tmp_path, "--image", path)
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        assert found.crs is None and found.transform.is_identity and found.read(1).tolist() == [[1, 2]]


def test_a_map_reads_no_more_than_a_batch_of_windows_at_a_time(trained, tmp_path, monkeypatch):
    shapes, read = [], rasters.RasterReader.read
    monkeypatch.setattr(
        rasters.RasterReader, "read", lambda self, *window: (shapes.append(window[2:]), read(self, *window))[1]
    )
    path = write_raster(tmp_path / "scene.tif", [[0, 0, 0, 0], [1, 1, 1, 1]])
    predict(trained, tmp_path, "--image", path, "--stride", 16, "--batch-size", 3)
    # four rows of eight windows; the first windows of a row overlap more, as they are moved inside
    assert shapes == [(32, 56), (32, 64), (32, 40)] * 4


def test_images_and_folders_of_them_get_probabilities_of_every_class(trained, eurosat_tree, tmp_path, capsys):
    one = eurosat_tree / "Residential" / "Residential_1.jpg"
    predict(trained, tmp_path, "--image", one, eurosat_tree / "SeaLake", "--batch-size", 4, "--precision", "bf16")
    head, *rows = csv.reader((tmp_path / "predictions.csv").open())
    assert head == ["file", "class", *CLASSES] and len(rows) == 11
    assert rows[0][:2] == [str(one), "Residential"] and {row[1] for row in rows[1:]} == {"SeaLake"}
    assert all(sum(map(float, row[2:])) == pytest.approx(1, abs=1e-5) for row in rows)
    assert "11 images: SeaLake 10, Residential 1" in capsys.readouterr().out


def test_broken_images_are_skipped_and_listed(trained, eurosat_tree, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        path = eurosat_tree / "Forest" / f"Forest_{number}.jpg"
        (folder / path.name).write_bytes(path.read_bytes()[: None if number == 1 else 400])
    write_raster(folder / "scene.tif", [[0, 1, 2]])
    write_file(folder / "broken.tif")
    write_file(folder / "._hidden.jpg")
    ran = call_script(SCRIPT, "--checkpoint", trained, "--image", folder, "--out", tmp_path / "out", "--device", "cpu")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "2 of 4 images could not be processed: " in ran.stderr
    assert "Forest_2.jpg" in ran.stderr and "broken.tif" in ran.stderr
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").open()))[1:]
    assert [row[0] for row in rows] == [str(folder / "Forest_1.jpg")]
    assert (tmp_path / "out" / "scene_classes.tif").exists()


def test_results_do_not_replace_or_become_images(trained, tmp_path):
    write_raster(tmp_path / "scene.tif", [[0, 1]])
    with pytest.raises(ValueError, match="--out .*results is in the folder of images"):
        predict(trained, tmp_path / "results", "--image", tmp_path)
    path = write_raster(tmp_path / "scene_classes.tif", [[0, 1]])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="scene_classes.tif would replace the image"):
        predict(trained, tmp_path, "--image", tmp_path / "scene.tif", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["alpha", "nan"])
def test_cells_without_an_image_are_not_mapped(trained, tmp_path, kind):
    path = write_raster(tmp_path / "scene.tif", [[0, 1, 2]])
    with rasterio.open(path) as raster:
        pixels, profile = raster.read(), raster.profile
    if kind == "nan":
        values = pixels.astype(np.float32)
        values[1, :, 32:64] = np.nan
        with rasterio.open(path, "w", **(profile | {"dtype": "float32"})) as raster:
            raster.write(values)
    else:
        alpha = np.full((1, 32, 96), 255, np.uint8)
        alpha[:, :, 32:64] = 0
        with rasterio.open(path, "w", **(profile | {"count": 4})) as raster:
            raster.write(np.concatenate([pixels, alpha]))
            raster.colorinterp = [*raster.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    predict(trained, tmp_path, "--image", path, "--levels", 0, 255)
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        assert found.read(1).tolist() == [[0, 255, 2]]


def test_one_image_gets_the_same_answer_alone_as_among_others(trained, eurosat_tree, tmp_path):
    predict(trained, tmp_path / "all", "--image", eurosat_tree)
    predict(trained, tmp_path / "one", "--image", eurosat_tree / "Forest" / "Forest_1.jpg")
    found = [list(csv.reader((tmp_path / name / "predictions.csv").open()))[1] for name in ("all", "one")]
    assert found[0][:2] == found[1][:2]
    assert [float(p) for p in found[0][2:]] == pytest.approx([float(p) for p in found[1][2:]], abs=1e-5)


def test_over_eight_positions_a_turned_image_gets_the_same_answer(trained, eurosat_tree, tmp_path):
    with Image.open(eurosat_tree / "Forest" / "Forest_1.jpg") as image:
        image.save(tmp_path / "a.png")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png")
    for words in ((), ("--tta",)):
        predict(trained, tmp_path / "out", "--image", tmp_path / "a.png", tmp_path / "b.png", *words)
        rows = [list(map(float, row[2:])) for row in list(csv.reader((tmp_path / "out/predictions.csv").open()))[1:]]
        assert (rows[0] == pytest.approx(rows[1], abs=2e-6)) == bool(words)


def test_a_small_tiff_is_an_image_unless_it_is_to_be_mapped(trained, tmp_path):
    path = write_raster(tmp_path / "scene.tif", [[2]])
    predict(trained, tmp_path, "--image", path)
    assert (tmp_path / "predictions.csv").exists() and not (tmp_path / "scene_classes.tif").exists()
    predict(trained, tmp_path, "--image", path, "--treat-as", "map")
    assert (tmp_path / "scene_classes.tif").exists()


def test_bands_and_levels_count_for_a_small_tiff_too(trained, tmp_path):
    def row(path, *words):
        predict(trained, tmp_path / "out", "--image", path, *words)
        return list(csv.reader((tmp_path / "out/predictions.csv").open()))[1][1:]

    as_it_is = row(path := write_raster(tmp_path / "scene.tif", [[2]]))
    with rasterio.open(path) as raster, rasterio.open(tmp_path / "bgr.tif", "w", **raster.profile) as other:
        other.write(raster.read()[::-1])
    assert row(tmp_path / "bgr.tif", "--bands", 3, 2, 1) == as_it_is != row(tmp_path / "bgr.tif")
    deep = write_raster(tmp_path / "deep.tif", [[2]], dtype="uint16", factor=10)
    assert row(deep, "--levels", 0, 2550) == as_it_is
    with pytest.raises(ValueError, match="holds uint16, not 8-bit colors; .*--levels"):
        row(deep)


def test_a_network_trained_on_reduced_images_is_shown_windows_of_their_full_ground(eurosat_tree, tmp_path):
    reduced = train(eurosat_tree, tmp_path / "run", "--image-size", 16)
    cells = [[0, 1, 2], [2, 2, 0]]  # each as large on the ground as an image of the tree, 32 pixels
    predict(reduced, tmp_path, "--image", write_raster(tmp_path / "scene.tif", cells))
    with rasterio.open(tmp_path / "scene_classes.tif") as found:
        assert found.read(1).tolist() == cells


def test_a_backbone_or_a_pretraining_run_is_no_checkpoint_to_predict_with(trained, tmp_path):
    backbone = trained.with_name("trained_model.pth")
    ran = call_script(SCRIPT, "--checkpoint", backbone, "--image", tmp_path, "--out", tmp_path / "out")
    assert ran.returncode == 1 and "no checkpoint of EuroSAT" in ran.stderr and "Traceback" not in ran.stderr
    state = {f"module.backbone.{key}": value for key, value in create_backbone("test_resnet").state_dict().items()}
    checkpoint_io.save({"model": state, "args": {}, "backbone": {"arch": "test_resnet"}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="best_model.pth or model.pth that training on EuroSAT wrote"):
        predict(tmp_path / "model.pth", tmp_path, "--image", tmp_path)


@pytest.mark.parametrize(
    "make, more, message",
    [
        (lambda folder: folder / "gone.jpg", (), "no image or folder"),
        (lambda folder: folder.joinpath("empty"), (), "no image or folder"),
        (lambda folder: write_file(folder / "bad.jpg"), (), "bad.jpg cannot be read"),
        (lambda folder: write_file(folder / "bad.tif"), (), "bad.tif cannot be read"),
        (lambda folder: write_raster(folder / "a.tif", [[0, 1]]), ("--bands", 4, 2, 1), r"3 band\(s\).* 4 2 1"),
        (lambda folder: write_raster(folder / "a.tif", [[0, 1]]), ("--treat-as", "map", "--window", 40), "of 40;"),
        (lambda folder: folder, ("--levels", 3, 3), "--levels 3 3"),
        (lambda folder: folder, ("--stride", 0), "--stride 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_named(trained, tmp_path, make, more, message):
    with pytest.raises((ValueError, OSError), match=message):
        predict(trained, tmp_path / "out", "--image", make(tmp_path), *more)


def write_file(path):
    path.write_bytes(b"no image")
    return path


def test_two_rasters_of_one_name_are_refused_before_anything_is_written(trained, tmp_path):
    (tmp_path / "a").mkdir()
    paths = [write_raster(folder / "scene.tif", [[0, 1]]) for folder in (tmp_path, tmp_path / "a")]
    with pytest.raises(ValueError, match="scene.tif and .*a/scene.tif would both be written to .*scene_classes.tif"):
        predict(trained, tmp_path / "out", "--image", *paths)
    assert not (tmp_path / "out").exists()


def test_many_images_are_not_compared_with_one_another(trained, tmp_path, monkeypatch):
    paths, compared = [write_file(tmp_path / f"{number}.tif") for number in range(50)], []
    monkeypatch.setattr(predict_eurosat, "find_images", lambda *given, **more: paths)
    monkeypatch.setattr(predict_eurosat, "check_outputs", lambda images, outputs: list(map(outputs, images)))
    monkeypatch.setattr(predict_eurosat, "process_images", lambda images, *given: [])
    monkeypatch.setattr(type(tmp_path), "__eq__", lambda one, other: compared.append(one) or str(one) == str(other))
    predict(trained, tmp_path / "out", "--image", tmp_path, "--treat-as", "map")
    assert len(compared) < 500


@pytest.mark.real_data
def test_a_real_mosaic_is_mapped_where_it_lies(trained, real_data, tmp_path):
    path = sorted((real_data / "sn7_128" / "train").glob("*/images/*.tif"))[0]
    predict(trained, tmp_path, "--image", path)
    with rasterio.open(tmp_path / f"{path.stem}_classes.tif") as found, rasterio.open(path) as raster:
        assert found.shape == (4, 4) and found.crs == raster.crs and set(np.unique(found.read(1))) <= {0, 1, 2}
        assert torch.tensor(found.bounds).tolist() == pytest.approx(list(raster.bounds))
