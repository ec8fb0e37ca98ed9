"""Segmentation of a folder of one's own: its classes, splits, many bands, and class maps as COGs."""

import json
import re

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from downstream.FloodNet_segmentation_task import predict_floodnet, train_floodnet
from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs, RandomCrops
from downstream.FloodNet_segmentation_task.floodnet import Pair
from downstream.FloodNet_segmentation_task.image_mask_io import read_pair
from downstream.FloodNet_segmentation_task.segmentation_folder import find_folder_parts, task_classes
from tests.imagery_fixtures import write_raster
from vicreg.common import checkpoint_io
from vicreg.data.images import open_reader
from vicreg.inference.sliding_window import label_blocks

CLASSES = {"names": ["soil", "crop & weed", "water"], "colors": [[120, 90, 50], [30, 160, 40], [20, 60, 200]]}
SIDE = 64


def scene(seed, bands):
    """Labels in vertical stripes, and pixels whose band n is bright for class n."""
    random = np.random.default_rng(seed)
    labels = np.repeat(random.integers(0, 3, 4), SIDE // 4)[None].repeat(SIDE, 0).astype(np.uint8)
    pixels = random.integers(200, 600, (bands, SIDE, SIDE))
    for number in range(3):
        pixels[number][labels == number] += 4000
    return labels, pixels.astype(np.uint16)


def write_folder(folder, count=6, bands=3, start=0):
    """Images of 16 bits for other than three bands, else PNGs; masks are PNGs."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        labels, pixels = scene(start + number, bands)
        Image.fromarray(labels).save(folder / "masks" / f"f{number}.png")
        if bands == 3:
            Image.fromarray((pixels // 20).astype(np.uint8).transpose(1, 2, 0)).save(
                folder / "images" / f"f{number}.png"
            )
        else:
            write_raster(folder / "images" / f"f{number}.tif", pixels)
    return folder


def with_classes(folder, content=CLASSES):
    (folder / "classes.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def train(data, out, *more):
    words = ["--data-dir", data, "--task", "folder", "--exp-dir", out, "--pretrained", "random", "--arch", "resnet18"]
    words += ["--crop", "32", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--overlap", "0", *more]
    train_floodnet.main(train_floodnet.get_parser().parse_args([str(word) for word in words]))
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A run on images of five bands of 16 bits: (folder of the run, data)."""
    folder = tmp_path_factory.mktemp("five")
    data = with_classes(write_folder(folder / "data", bands=5))
    normal = ["--mean", *[0.2] * 5, "--std", *[0.3] * 5, "--levels", "0", "5000", "--bands", 1, 2, 3, 4, 5]
    result = train(data, folder / "run", *normal, "--epochs", "6", "--repeats", "3", "--lr", "0.002")
    return folder / "run", data, result


def test_five_bands_train_and_are_told_apart(five):
    run, _, result = five
    assert result["mean_iou"] > 0.5 > result["constant"]["mean_iou"]
    assert set(result["iou"]) == set(CLASSES["names"])
    saved = checkpoint_io.load(run / "best_model.pth")
    assert saved["task"]["bands"] == [1, 2, 3, 4, 5] and saved["task"]["levels"] == [0, 5000]
    assert saved["backbone"]["in_chans"] == 5 and (run / "examples.png").stat().st_size > 1000


def test_the_class_map_is_a_cog_with_colors_names_and_the_place(five, tmp_path):
    run, data, _ = five
    words = ["--checkpoint", run / "best_model.pth", "--image", data / "images" / "f0.tif", "--out", tmp_path / "out"]
    predict_floodnet.main(predict_floodnet.get_parser().parse_args([*map(str, words), "--device", "cpu"]))
    with (
        rasterio.open(tmp_path / "out" / "f0_labels.tif") as found,
        rasterio.open(data / "images" / "f0.tif") as source,
    ):
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (found.crs, found.transform, found.shape) == (source.crs, source.transform, source.shape)
        assert [found.colormap(1)[n][:3] for n in range(3)] == [tuple(color) for color in CLASSES["colors"]]
        assert found.tags(1)["class_1"] == "crop & weed" and found.nodata == 255
        assert (found.read(1) == scene(0, 5)[0]).mean() > 0.5
    rasterio.shutil.copy(tmp_path / "out" / "f0_labels.tif", tmp_path / "copy.vrt", driver="VRT")
    text = (tmp_path / "copy.vrt").read_text()  # what GDAL has read
    assert re.findall("<Category>(.*?)</Category>", text) == ["soil", "crop &amp; weed", "water"]
    assert (tmp_path / "out" / "f0_overlay.png").exists()


def test_rgb_images_need_no_options_and_predict_as_palette_pngs(tmp_path):
    data = with_classes(write_folder(tmp_path / "data"), {"names": CLASSES["names"]})
    result = train(data, tmp_path / "run", "--max-steps", "2", "--epochs", "1")
    assert result["val_samples"] == 1 and result["train_samples"] == 5
    words = ["--checkpoint", tmp_path / "run" / "best_model.pth", "--image", data / "images", "--out", tmp_path / "out"]
    predict_floodnet.main(predict_floodnet.get_parser().parse_args([*map(str, words), "--device", "cpu"]))
    labels = Image.open(tmp_path / "out" / "f0_labels.png")
    expected = task_classes("folder", data).palette.ravel().tolist()
    assert labels.size == (SIDE, SIDE) and labels.getpalette()[:9] == expected and len(set(expected)) > 3


def test_a_given_split_is_kept_and_a_random_one_depends_on_the_seed(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        write_folder(tmp_path / "given" / part, 2 + number)
    parts, words = find_folder_parts(with_classes(tmp_path / "given"), 0.2, 0)
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 2, "val": 3, "test": 4}
    (tmp_path / "given" / "val").rename(tmp_path / "given" / "Valid")
    assert find_folder_parts(tmp_path / "given", 0.2, 0)[0]["val"][0].image.parts[-3] == "Valid"
    data = with_classes(write_folder(tmp_path / "random", 10))
    chosen = [find_folder_parts(data, 0.3, seed)[0]["val"] for seed in (0, 0, 1)]
    assert len(chosen[0]) == 3 and chosen[0] == chosen[1] != chosen[2]


def test_two_classes_are_split_by_image_and_crops_of_bands_are_fractions(tmp_path):
    data = with_classes(write_folder(tmp_path / "data", 4, bands=4), {"names": ["no", "yes"]})
    for path in (data / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 2 * 255).save(path)
    parts, _ = find_folder_parts(data, 0.25, 0)
    assert len(parts["val"]) == 1 and len(parts["train"]) == 3
    pairs = CachedPairs(parts["train"], tmp_path / "copies", "folder", levels=(0, 5000), bands=4)
    assert pairs.image(0).dtype == np.uint16 and pairs.image(0).shape == (4, SIDE, SIDE)
    assert set(np.unique(pairs.labels(0))) <= {0, 1}
    with open_reader(parts["train"][0].image, bands=4, levels=(0, 5000), deep=True) as reader:
        np.testing.assert_array_equal(pairs.image(0), reader.read(0, 0, SIDE, SIDE)[0])
        blocks = list(label_blocks(reader, lambda x: torch.stack([x[:, 0].float(), x[:, 1].float()], 1), 32))
    assert sum(block.size for _, _, block in blocks) == SIDE * SIDE
    crops = RandomCrops(pairs, 32)
    (images, labels), (again, _) = crops.__getitems__([(0, 5), (1, 6)]), crops.__getitems__([(0, 5), (1, 6)])
    assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1 and labels.shape == (2, 32, 32)
    assert torch.equal(images, again)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a dict with names"),
        ("[1]", "a dict with names"),
        ({"names": ["a"]}, "1 names; 2 to 255 different ones"),
        ({"names": ["a", "a"]}, "2 names; 2 to 255 different ones"),
        ({"names": "ab"}, "names is a list of class names"),
        ({"names": ["a", "b"], "colors": [[0, 0, 0]]}, "colors are 2 lists"),
        ({"names": ["a", "b"], "colors": [[0, 0, 0], [0, 0, 256]]}, "colors are 2 lists"),
    ],
)
def test_classes_that_cannot_be_used_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        train(with_classes(tmp_path, content), tmp_path / "run")


def test_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*classes.json; write it"):
        train(tmp_path, tmp_path / "run")
    data = with_classes(write_folder(tmp_path / "data"))
    Image.fromarray(np.full((SIDE, SIDE), 3, np.uint8)).save(data / "masks" / "f1.png")
    with pytest.raises(ValueError, match=r"f1.png holds the value 3; 0 to 2 are the classes"):
        train(data, tmp_path / "run")
    (data / "masks" / "f1.png").unlink()
    with pytest.raises(ValueError, match="1 of 6 files have no mask: f1.png"):
        train(data, tmp_path / "run")
    five = with_classes(write_folder(tmp_path / "five", bands=5))
    with pytest.raises(ValueError, match="5 channels record no mean and std; name them with --mean and --std"):
        train(five, tmp_path / "run", "--bands", 1, 2, 3, 4, 5, "--levels", 0, 5000)


@pytest.mark.parametrize(
    ("mask", "nodata", "message"),
    [
        (np.uint8([[0, 1, 255]]), None, "holds the value 255; 0 and 1"), (np.float32([[0, 1, 0.5]]), None, "fractions"),
        (np.uint8([[0, 0, 255]]), 255, r"pixels without data \(255\)"),
    ],
)  # fmt: skip
def test_masks_whose_values_are_no_classes_are_refused(tmp_path, mask, nodata, message):
    mask = mask.repeat(30, 0).repeat(10, 1)
    path = write_raster(tmp_path / "mask.tif", mask[None], crs=None, nodata=nodata)
    Image.new("RGB", (30, 30)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=message):
        read_pair(Pair(tmp_path / "image.png", path, "g", 2))


def test_every_image_is_used_or_counted(tmp_path, capsys):
    folder = with_classes(write_folder(tmp_path / "data", 4))
    for name in ("images", "masks"):
        (folder / name / "f3.png").rename(folder / name / "f3.bmp" if name == "masks" else folder / name / "f3.webp")
        (folder / name / "more").mkdir()
    (folder / "masks" / "f1.jpg").write_bytes(b"")
    parts, _ = find_folder_parts(folder, 0.25, 0)
    assert sorted(pair.image.name for part in parts.values() for pair in part) == [
        "f0.png", "f1.png", "f2.png", "f3.webp"
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert f"1 of the entries of {folder / 'images'}" in output and f"2 of the entries of {folder / 'masks'}" in output
    (folder / "train").mkdir()
    (folder / "images").rename(folder / "train" / "images")
    (folder / "masks").rename(folder / "train" / "masks")
    (folder / "val" / "image").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"no folder at {folder / 'val' / 'images'}"):
        find_folder_parts(folder, 0.25, 0)
