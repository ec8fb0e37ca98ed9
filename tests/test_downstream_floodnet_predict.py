"""Labelling images: at their own size, with colors and legend; GeoTIFFs where they lie; broken ones by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.FloodNet_segmentation_task import predict_floodnet
from downstream.FloodNet_segmentation_task.floodnet import FLOODNET, palette
from downstream.FloodNet_segmentation_task.model import Segmenter
from tests.conftest import call_script
from tests.floodnet_fixtures import scene, write_pair, write_raster
from vicreg.common import checkpoint_io
from vicreg.data.rasters import RasterReader, quiet_georeference
from vicreg.inference.label_rasters import read_labels

SCRIPT = "downstream/FloodNet_segmentation_task/predict_floodnet.py"


class Brightness(torch.nn.Module):
    """Ten classes by brightness: what a pixel is, is known by hand."""

    def forward(self, images):
        level = (images.float().mean(1) / 25.6).floor().clamp(0, 9).long()
        return torch.nn.functional.one_hot(level, 10).permute(0, 3, 1, 2) * 20.0


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A best_model.pth with random weights, of images of 64 pixels at half their size."""
    path = tmp_path_factory.mktemp("network") / "best_model.pth"
    torch.manual_seed(3)
    model = Segmenter("resnet18", "unet", 10)
    task = {"name": "flood segmentation", "kind": "floodnet", "classes": list(FLOODNET), "decoder": "unet", "side": 32}
    task |= {"mean": model.mean, "std": model.std, "image_size": 64, "scale": 0.5}
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    checkpoint_io.save({"model": weights, "task": task, "backbone": {"arch": "resnet18"}, "args": {}}, path)
    return path


def predict(network, image, out, *more):
    words = ["--checkpoint", str(network), "--image", str(image), "--out", str(out), "--device", "cpu", *more]
    predict_floodnet.main(predict_floodnet.get_parser().parse_args(words))


@pytest.fixture
def by_brightness(monkeypatch):
    """The network replaced by ``Brightness``."""
    monkeypatch.setattr(predict_floodnet, "predictor", lambda *_: lambda images: Brightness()(images).softmax(1))


def test_the_script_labels_a_folder_at_the_images_own_sizes_and_colors_them(network, tmp_path):
    random = np.random.default_rng(0)
    for name, width in (("a", 128), ("b", 80)):
        write_pair(tmp_path / "in", tmp_path / "masks", name, scene(random, width), random)
    ran = call_script(
        SCRIPT, "--checkpoint", network, "--image", tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("a.jpg: 64 x 24 pixels, ")  # reduced to the long side of training
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_labels.png", "a_overlay.png", "b_labels.png", "b_overlay.png",
    ]  # fmt: skip
    labels = Image.open(tmp_path / "out" / "a_labels.png")
    assert (labels.size, labels.mode) == ((128, 48), "P")
    assert np.asarray(labels).max() <= 9
    assert labels.getpalette()[:30] == palette(FLOODNET).ravel().tolist()
    assert Image.open(tmp_path / "out" / "a_overlay.png").width > 500


def test_labels_lie_where_the_pixels_do(network, tmp_path, by_brightness):
    level = np.kron(np.arange(6).reshape(2, 3), np.ones((32, 32))).astype(np.uint8)
    Image.fromarray((level * 26 + 8)[..., None].repeat(3, 2).astype(np.uint8)).save(tmp_path / "steps.png")
    predict(network, tmp_path / "steps.png", tmp_path / "out", "--scale", "1")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "steps_labels.png")), level)


def test_a_geotiff_keeps_its_georeference_and_gets_a_color_table(network, tmp_path, by_brightness):
    import rasterio

    level = np.kron(np.arange(6).reshape(2, 3), np.ones((40, 40))).astype(np.uint8)
    write_raster(tmp_path / "mosaic.tif", (level * 26 + 8)[None].repeat(3, 0), 0.5)
    predict(network, tmp_path / "mosaic.tif", tmp_path / "out")
    with (
        rasterio.open(tmp_path / "mosaic.tif") as source,
        rasterio.open(tmp_path / "out" / "mosaic_labels.tif") as found,
    ):
        assert found.crs == source.crs
        assert (found.width, found.height) == (60, 40)  # training saw images at half their size
        assert found.bounds == source.bounds
        assert found.res == (1.0, 1.0)
        assert np.array_equal(found.read(1), level[::2, ::2])
        assert found.colormap(1)[5] == (*palette(FLOODNET)[5].tolist(), 255)
        assert found.tags(1)["class_5"] == "water" and found.nodata == 255
    assert (tmp_path / "out" / "mosaic_overlay.png").is_file()


@pytest.mark.parametrize("kind", ["alpha", "nodata", "nan", "png"])
def test_pixels_without_data_get_no_class(network, tmp_path, by_brightness, kind):
    import rasterio

    pixels, name = np.full((4, 64, 64), 200, np.uint8), "mosaic.png" if kind == "png" else "mosaic.tif"
    pixels[3, :, 32:] = 0
    more = ["--levels", "0", "255"] if kind == "nan" else []
    if kind == "png":
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / name)
    elif kind == "nan":
        values = np.where(pixels[3] > 0, pixels[:3], np.nan).astype(np.float32)
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "float32"}
        with quiet_georeference(), rasterio.open(tmp_path / name, "w", **profile) as raster:
            raster.write(values)
    else:
        pixels[:3, :, 32:] = 0 if kind == "nodata" else 255
        write_raster(tmp_path / name, pixels[: 3 + (kind == "alpha")], 0.5)
        with rasterio.open(tmp_path / name, "r+") as raster:
            if kind == "alpha":
                raster.colorinterp = [*raster.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
            else:
                raster.nodata = 0
    predict(network, tmp_path / name, tmp_path / "out", "--scale", "1", *more)
    labels = read_labels(next((tmp_path / "out").glob("mosaic_labels.*")), (64, 64))
    assert (labels[:, :32] == 7).all() and (labels[:, 32:] == 255).all()


def test_levels_of_training_are_those_of_prediction(network, tmp_path, by_brightness):
    level = np.kron(np.arange(6).reshape(2, 3), np.ones((32, 32)))
    Image.fromarray(((level * 26 + 8) * 10).astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png holds uint16, not 8-bit colors"):
        predict(network, tmp_path / "deep.png", tmp_path / "out", "--scale", "1")
    saved = checkpoint_io.load(network)
    saved["task"]["levels"] = [0.0, 2550.0]
    checkpoint_io.save(saved, tmp_path / "deep.pth")
    predict(tmp_path / "deep.pth", tmp_path / "deep.png", tmp_path / "out", "--scale", "1")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "deep_labels.png")), level)


def test_a_photograph_is_labeled_upright(network, tmp_path, by_brightness):
    level = np.kron(np.arange(6).reshape(2, 3), np.ones((32, 32))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray((level * 26 + 8)[..., None].repeat(3, 2)).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "steps.png", exif=exif)
    predict(network, tmp_path / "steps.png", tmp_path / "out", "--scale", "1")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "steps_labels.png")), level)


@pytest.mark.parametrize("profile", [{}, {"crs": "EPSG:3857"}])
def test_a_scale_does_not_give_an_unreferenced_raster_a_position(network, tmp_path, by_brightness, profile):
    import rasterio

    shape = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8"}
    with quiet_georeference(), rasterio.open(tmp_path / "a.tif", "w", **shape, **profile) as raster:
        raster.write(np.full((3, 64, 64), 200, np.uint8))
    predict(network, tmp_path / "a.tif", tmp_path / "out", "--scale", "0.5")
    with quiet_georeference(), rasterio.open(tmp_path / "out" / "a_labels.tif") as found:
        assert found.crs is None and found.transform.is_identity and found.shape == (32, 32)


def test_results_do_not_replace_or_become_images(network, tmp_path):
    write_pair(tmp_path / "in", tmp_path / "masks", "a", scene(np.random.default_rng(0)), np.random.default_rng(0))
    with pytest.raises(ValueError, match="--out .*in is in the folder of images"):
        predict(network, tmp_path / "in", tmp_path / "in")
    (tmp_path / "in" / "a.jpg").rename(tmp_path / "a_labels.png")
    image = tmp_path / "a_labels.png"
    image.rename(tmp_path / "a.png")
    (tmp_path / "a_labels.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a_labels\.png would replace the image .*a\.png"):
        predict(network, tmp_path / "a.png", tmp_path)


def test_a_large_geotiff_is_read_a_batch_of_windows_at_a_time(network, tmp_path, by_brightness, monkeypatch):
    shapes, read = [], RasterReader.read

    def watch(self, top, left, height, width, out_shape=None):
        if out_shape is None:
            shapes.append((height, width))
        return read(self, top, left, height, width, out_shape)

    monkeypatch.setattr(RasterReader, "read", watch)
    write_raster(tmp_path / "mosaic.tif", np.full((3, 500, 700), 90, np.uint8), 0.5)
    predict(network, tmp_path / "mosaic.tif", tmp_path / "out", "--scale", "1", "--overlap", "0")
    assert max(height * width for height, width in shapes) == 32 * 32 * 4 and len(shapes) == 16 * 6


def test_broken_images_are_named_and_the_others_labeled(network, tmp_path, capsys):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        write_pair(tmp_path / "in", tmp_path / "masks", name, scene(random), random)
    (tmp_path / "in" / "a.jpg").write_bytes(b"nothing of an image")
    with pytest.raises(ValueError, match=r"1 of 2 images could not be processed: .*a\.jpg cannot be read"):
        predict(network, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "b_labels.png").is_file()
    (tmp_path / "c.tif").write_bytes(b"nothing of a raster")
    with pytest.raises(ValueError, match=r"c\.tif cannot be read"):
        predict(network, tmp_path / "c.tif", tmp_path / "out")
    write_raster(tmp_path / "d.tif", np.zeros((2, 8, 8), np.uint8), 1.0)
    with pytest.raises(ValueError, match=r"d\.tif has 2 bands; one .gray. or three .red, green, blue. are needed"):
        predict(network, tmp_path / "d.tif", tmp_path / "out")


def test_wrong_checkpoints_and_empty_folders_are_refused(network, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        predict(network, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no image or folder at"):
        predict(network, tmp_path / "nowhere.jpg", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        predict(tmp_path / "none.pth", tmp_path / "empty", tmp_path / "out")
    torch.save({"model": {}, "task": {"name": "EuroSAT"}, "backbone": {}, "args": {}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is a checkpoint of EuroSAT, not of flood segmentation"):
        predict(tmp_path / "other.pth", tmp_path / "empty", tmp_path / "out")
