"""Buildings found in images of any size: windows, positions on the ground, and the script. Needs Detectron2."""

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests.conftest import need_detectron2, write_tif

FOLDER = "downstream/detectron2_crowdai_detection_task"

need_detectron2()

from detectron2.structures import Boxes, Instances

from downstream.detectron2_crowdai_detection_task import (
    config,
    experiment,
    model,
    predict_crowdai,
    tiled_detection,
)
from vicreg.inference import polygons
from vicreg.models.backbones import load_backbone


def bright_spots(inputs):
    """Stands in for a model: every connected bright spot is a building, the larger the surer."""
    (sample,) = inputs
    numbers, count = ndimage.label(sample["image"][0].numpy() > 128)
    masks = [numbers == number for number in range(1, count + 1)]
    boxes = [(cut[1].start, cut[0].start, cut[1].stop, cut[0].stop) for cut in ndimage.find_objects(numbers)]
    found = Instances(numbers.shape)
    found.pred_masks = torch.tensor(np.array(masks).reshape(-1, *numbers.shape))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor([min(1.0, mask.sum() / 100) for mask in masks])
    return [{"instances": found}]


@pytest.fixture(scope="module")
def cfg(repo_root):
    """Settings with which windows of 32 pixels are not resized."""
    path = repo_root / FOLDER / "configs" / "smoke.yaml"
    return config.read(path, ["INPUT.MIN_SIZE_TEST", "32"])[0]


@pytest.fixture
def spots(tmp_path):
    """A GeoTIFF of 100 x 80 pixels of 10 m with five bright spots, and their (top, left) corners; each 8 x 6."""
    pixels, corners = np.zeros((3, 80, 100), np.uint8), [(0, 0), (20, 21), (40, 60), (27, 90), (72, 28)]
    for top, left in corners:
        pixels[:, top : top + 8, left : left + 6] = 255
    write_tif(tmp_path / "spots.tif", pixels, (500000, 6000000 - 800, 501000, 6000000))
    return tmp_path / "spots.tif", corners


def test_windows_cover_everything_and_end_where_it_ends():
    assert tiled_detection.starts(100, 32, 8) == [0, 24, 48, 68]
    assert tiled_detection.starts(32, 32, 8) == [0] and tiled_detection.starts(10, 32, 8) == [0]
    with pytest.raises(ValueError, match="must be smaller"):
        tiled_detection.starts(100, 32, 32)


def test_each_building_is_found_once_and_whole_wherever_windows_cut(spots, cfg):
    path, corners = spots
    found = tiled_detection.search(
        bright_spots, tiled_detection.open_picture(path), cfg, window=32, overlap=10, threshold=0.1
    )
    boxes = sorted((top, left, top + 8, left + 6) for top, left in corners)
    assert sorted((one.box[1], one.box[0], one.box[3], one.box[2]) for one in found) == boxes
    assert all(one.shape.bounds == one.box and one.shape.area == 48 for one in found)


def test_polygons_lie_where_the_raster_says(tmp_path, spots, cfg):
    path, corners = spots
    picture = tiled_detection.open_picture(path)
    found = tiled_detection.search(bright_spots, picture, cfg, window=32, overlap=10, threshold=0.1)
    tiled_detection.write_geojson(tmp_path / "spots.geojson", found, picture)
    table = geopandas.read_file(tmp_path / "spots.geojson")
    assert table.crs == "EPSG:4326"
    meters = sorted(tuple(round(v, 3) for v in shape.bounds) for shape in table.to_crs("EPSG:3857").geometry)
    assert meters == sorted(
        (500000 + 10 * left, 6000000 - 10 * (top + 8), 500000 + 10 * (left + 6), 6000000 - 10 * top)
        for top, left in corners
    )
    assert set(table.score) == {0.48}


def test_a_picture_smaller_than_a_window_keeps_its_scale(tmp_path, cfg):
    pixels = np.zeros((20, 12, 3), np.uint8)
    pixels[5:10, 3:9] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (found,) = tiled_detection.search(bright_spots, tiled_detection.open_picture(tmp_path / "a.png"), cfg, 32, 8, 0.1)
    assert found.box == (3, 5, 9, 10)


def test_masks_with_holes_and_parts_become_polygons_of_the_same_area():
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6], mask[3, 3], mask[7:9, 7] = True, False, True
    assert polygons.from_mask(mask).area == mask.sum() == 26


def test_drawing_changes_pixels_inside_a_shape_only():
    image = np.zeros((10, 10, 3), np.uint8)
    drawn = polygons.draw(image, [polygons.from_rings([[2, 2, 6, 2, 6, 6, 2, 6]])])
    assert drawn[4, 4].any() and not drawn[8:].any() and not image.any()


@pytest.mark.parametrize("bands, complaint", [(1, r"1 band\(s\) of uint8"), (3, "cannot be read")])
def test_rasters_that_the_model_cannot_see_are_refused(tmp_path, bands, complaint):
    write_tif(tmp_path / "a.tif", np.zeros((bands, 8, 8), np.uint8))
    if bands == 3:
        (tmp_path / "a.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(ValueError, match=complaint):
        tiled_detection.open_picture(tmp_path / "a.tif")


def test_the_script_draws_folders_and_writes_polygons_of_georeferenced_images(tmp_path, spots, cfg, run_script):
    backbone, info = load_backbone("random", "resnet18")
    cfg = cfg.clone()
    config.fit(cfg, {**info, "mean": [0.4] * 3, "std": [0.2] * 3}, 1, torch.device("cpu"), 1)
    run, images = tmp_path / "run", tmp_path / "images"
    images.mkdir(), run.mkdir()
    spots[0].rename(images / "spots.tif")
    Image.new("RGB", (40, 30)).save(images / "plain.jpg")
    state = {"model": model.build(cfg).state_dict(), "step": 1, "categories": [], "image_size": [48, 48]}
    experiment.checkpoint.save(state, run / "model.pth")
    (run / "config.yaml").write_text(cfg.dump())
    done = run_script(
        f"{FOLDER}/predict_crowdai.py", "--checkpoint", run, "--image", images, "--out", tmp_path / "out",
        "--threshold", "0", "--device", "cpu", "--precision", "bf16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plain.png", "spots.geojson", "spots.png"]
    assert Image.open(tmp_path / "out" / "spots.png").size == (100, 80)
    bounds = geopandas.read_file(tmp_path / "out" / "spots.geojson").total_bounds
    assert bounds == pytest.approx([4.4915, 47.35, 4.5005, 47.355], abs=0.01)


def test_a_missing_checkpoint_and_missing_images_are_said(tmp_path):
    for more, complaint in [([tmp_path], "no image at"), ([tmp_path / "a.png"], "no checkpoint at")]:
        words = ["--checkpoint", tmp_path, "--image", *more, "--out", tmp_path / "out"]
        with pytest.raises(FileNotFoundError, match=complaint):
            predict_crowdai.main(predict_crowdai.get_parser().parse_args(list(map(str, words))))
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
