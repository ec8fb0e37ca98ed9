"""EuroSAT on images of 13 bands of 16 bits: training, the selection and order of bands, and prediction."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch

from downstream.eurosat_landcover_clsf_task import predict_eurosat, train_eurosat
from downstream.eurosat_landcover_clsf_task.dataset import Scenes
from tests.imagery_fixtures import write_raster
from vicreg.common import checkpoint_io
from vicreg.engine.checkpoint import save_backbone
from vicreg.models.backbones import create_backbone

CLASSES = ("Forest", "River")


def pixels(label, seed, side=32):
    """Thirteen bands of noise; only band 8 tells the classes apart."""
    found = np.random.default_rng(seed).integers(500, 1500, (13, side, side)).astype(np.uint16)
    found[7] += 3000 * label
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eurosat13") / "tif"
    for label, name in enumerate(CLASSES):
        for number in range(8):
            write_raster(folder / name / f"{name}_{number}.tif", pixels(label, 10 * number + label))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A backbone of 13 channels that records its normalization and levels, as pretraining on imagery leaves it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "trained_model.pth"
    save_backbone(path, create_backbone("test_resnet", 13), arch="test_resnet", in_chans=13, mean=[0.02] * 13,
                  std=[0.02] * 13, source="made up", levels=(0, 65535))  # fmt: skip
    return path


def train(tree, out, *more):
    words = ["--data-dir", tree, "--exp-dir", out, "--weights", "freeze", "--epochs", "20", "--batch-size", "8"]
    words += ["--workers", "2", "--device", "cpu", "--lr-head", "1", *more]
    train_eurosat.main(train_eurosat.get_parser().parse_args([str(word) for word in words]))
    return json.loads((out / "result.json").read_text())


def predict(run, image, out, *more):
    words = ["--checkpoint", run / "best_model.pth", "--image", image, "--out", out, "--device", "cpu", *more]
    predict_eurosat.main(predict_eurosat.get_parser().parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def trained(tree, backbone, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return out, train(tree, out, "--pretrained", backbone)


def test_a_probe_on_thirteen_bands_sees_what_only_band_8_shows(trained, tree, backbone):
    out, result = trained
    assert result["top1"] == 1.0
    task = checkpoint_io.load(out / "best_model.pth")["task"]
    assert task["bands"] == 13 and task["levels"] == [0, 65535]
    assert (out / "examples.png").stat().st_size > 1000
    assert train(tree, out, "--pretrained", backbone)["top1"] == 1.0  # a finished run


def test_prediction_and_maps_take_thirteen_bands(trained, tmp_path):
    run, _ = trained
    for label, name in enumerate(CLASSES):
        write_raster(tmp_path / "new" / f"{name}.tif", pixels(label, 100 + label))
    predict(run, tmp_path / "new", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["class"] for row in rows] == list(CLASSES)
    scene = np.concatenate([pixels(0, 1, 64), pixels(1, 2, 64)], 2)
    write_raster(tmp_path / "scene.tif", scene)
    predict(run, tmp_path / "scene.tif", tmp_path / "map")
    with rasterio.open(tmp_path / "map" / "scene_classes.tif") as found:
        assert found.read(1).tolist() == [[0, 0, 1, 1]] * 2


def test_chosen_bands_come_in_the_order_of_the_channels(tree, tmp_path):
    deep = ["--pretrained", "random", "--arch", "test_resnet", "--levels", "0", "5000"]
    assert train(tree, tmp_path / "with", *deep, "--bands", 8, 1, 2, 3)["top1"] == 1.0
    saved = checkpoint_io.load(tmp_path / "with" / "best_model.pth")
    assert saved["task"]["bands"] == [8, 1, 2, 3] and saved["backbone"]["in_chans"] == 4
    mean = saved["task"]["mean"]
    assert mean[0] == pytest.approx(2500 / 5000, abs=0.05) and mean[1] == pytest.approx(1000 / 5000, abs=0.01)


def test_files_and_bands_that_do_not_fit_the_network_are_named(tree, backbone, tmp_path):
    with pytest.raises(ValueError, match="--bands 4 3 2: the network takes 13 channels, so 13 numbers are needed"):
        train(tree, tmp_path / "run", "--pretrained", backbone, "--bands", 4, 3, 2)
    write_raster(tmp_path / "few" / "Forest" / "a.tif", pixels(0, 0)[:10])
    write_raster(tmp_path / "few" / "Forest" / "b.tif", pixels(0, 0))
    for number in range(2):
        write_raster(tmp_path / "few" / "River" / f"{number}.tif", pixels(1, number))
    with pytest.raises(ValueError, match=r"1 of . images cannot be used: .*a.tif has 10 band\(s\), 13 are needed"):
        train(tmp_path / "few", tmp_path / "run", "--pretrained", backbone)
    assert not (tmp_path / "run").exists()


def test_statistics_and_colors_of_sixteen_bits():
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 3000, (6, 4, 8, 8)).astype(np.uint16))
    mean, std = Scenes(images, torch.zeros(6, dtype=torch.int64), ["a"]).statistics()
    values = images.numpy().astype(float) / 65535
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), atol=1e-6)
    shown = Scenes(images, torch.zeros(6, dtype=torch.int64), ["a"]).display_rgb([0, 1])
    assert shown.shape == (2, 3, 8, 8) and shown.dtype == torch.uint8 and shown.max() == 255
