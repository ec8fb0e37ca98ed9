"""Buildings detected in images of any size: windows, positions on the ground, and the script. Needs Detectron2."""

import json
import re

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from scipy import ndimage
from shapely.geometry import box

from tests.conftest import call_script, need_detectron2, write_tif

FOLDER = "downstream/detectron2_crowdai_detection_task"

need_detectron2()

from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from downstream.detectron2_crowdai_detection_task import config, predict_crowdai, tiled_detection
from downstream.detectron2_crowdai_detection_task.model import autocast_backbone
from vicreg.common import checkpoint_io
from vicreg.data.images import open_reader
from vicreg.data.rasters import ImageReader
from vicreg.inference import polygons


def bright_spots(inputs):
    """Replace a model: every connected bright spot is a building, with a score of a hundredth of its pixels."""
    (sample,) = inputs
    labels, count = ndimage.label(sample["image"][0].numpy() > 128)
    masks = [labels == number for number in range(1, count + 1)]
    boxes = [(cut[1].start, cut[0].start, cut[1].stop, cut[0].stop) for cut in ndimage.find_objects(labels)]
    instances = Instances(labels.shape)
    instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, *labels.shape))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([min(1.0, mask.sum() / 100) for mask in masks])
    instances.pred_classes = torch.zeros(count, dtype=torch.int64)
    return [{"instances": instances}]


def build(repo_root, *opts):
    backbone = {"arch": "resnet18", "in_chans": 3, "mean": [0.4] * 3, "std": [0.2] * 3}
    smoke = repo_root / FOLDER / "configs" / "smoke.yaml"
    return config.build_config(smoke, list(opts), backbone, {"MODEL.ROI_HEADS.NUM_CLASSES": 1}, "cpu")


@pytest.fixture(scope="module")
def cfg(repo_root):
    """Configuration with which windows of 32 pixels are not resized."""
    return build(repo_root, "INPUT.MIN_SIZE_TEST", "32")


@pytest.fixture
def spots(tmp_path):
    """A GeoTIFF of 100 x 80 pixels of 10 m with five bright spots, and their (top, left) corners; each 8 x 6."""
    pixels, corners = np.zeros((3, 80, 100), np.uint8), [(0, 0), (20, 21), (40, 60), (27, 90), (72, 28)]
    for top, left in corners:
        pixels[:, top : top + 8, left : left + 6] = 255
    write_tif(tmp_path / "spots.tif", pixels, (500000, 6000000 - 800, 501000, 6000000))
    return tmp_path / "spots.tif", corners


def search(path, cfg):
    with open_reader(path) as reader:
        return tiled_detection.detect_tiled(bright_spots, reader, cfg, 32, 10 / 32, 0.1)


def test_detect_tiled_finds_each_building_once_and_whole(spots, cfg, monkeypatch):
    path, corners = spots
    seen = []
    monkeypatch.setattr(tiled_detection, "tqdm", lambda batches, name, total, **_: seen.append(total) or batches)
    detections = search(path, cfg)
    boxes = sorted((top, left, top + 8, left + 6) for top, left in corners)
    assert sorted((d.box[1], d.box[0], d.box[3], d.box[2]) for d in detections) == boxes
    assert all(d.shape.bounds == d.box and d.shape.area == 48 for d in detections)
    assert seen == [5 * 4]  # windows at 0, 22, 44, 66, 68 and 0, 22, 44, 48


def test_detect_tiled_ignores_pixels_without_data(spots, cfg, tmp_path):
    path, corners = spots
    with rasterio.open(path) as raster:
        pixels, profile = raster.read(), raster.profile
    alpha = np.full((1, 80, 100), 255, np.uint8)
    alpha[0, :, 50:] = 0
    with rasterio.open(tmp_path / "alpha.tif", "w", **profile | {"count": 4}) as raster:
        raster.write(np.concatenate([pixels, alpha]))
        raster.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("red", "green", "blue", "alpha")]
    found = sorted((d.box[1], d.box[0]) for d in search(tmp_path / "alpha.tif", cfg))
    assert found == sorted(corner for corner in corners if corner[1] < 50)


def test_detect_tiled_keeps_the_scale_of_small_images(tmp_path, cfg):
    pixels = np.zeros((20, 12, 3), np.uint8)
    pixels[5:10, 3:9] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (detection,) = search(tmp_path / "a.png", cfg)
    assert detection.box == (3, 5, 9, 10)


def test_detect_tiled_suppresses_duplicates_within_a_class(tmp_path, cfg):
    def three_of_two_classes(inputs):
        (output,) = bright_spots(inputs)
        instances = Instances.cat([output["instances"]] * 3)
        instances.pred_classes = torch.tensor([0, 1, 1])
        return [{"instances": instances}]

    write_tif(tmp_path / "a.tif", np.full((3, 32, 32), 255, np.uint8), (0, 0, 320, 320))
    with open_reader(tmp_path / "a.tif") as reader:
        detections = tiled_detection.detect_tiled(three_of_two_classes, reader, cfg, 32, 0, 0.1)
        tiled_detection.write_geojson(tmp_path / "a.geojson", detections, reader, ["building", "pool"])
    assert sorted(geopandas.read_file(tmp_path / "a.geojson")["class"]) == ["building", "pool"]


def test_detect_gives_boxes_of_models_without_masks(cfg):
    def without_masks(inputs):
        (output,) = bright_spots(inputs)
        output["instances"].remove("pred_masks")
        return [output]

    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 4:14, 6:16] = 255
    (detection,) = tiled_detection.detect(without_masks, image, cfg, 0.5)
    assert detection.shape.bounds == detection.box == (6, 4, 16, 14) and (detection.score, detection.label) == (1, 0)


def expected_meters(corners):
    return sorted(
        (500000 + 10 * left, 6000000 - 10 * (top + 8), 500000 + 10 * (left + 6), 6000000 - 10 * top)
        for top, left in corners
    )


@pytest.mark.parametrize("georeference", ["transform", "gcps"])
def test_write_geojson_places_polygons_on_the_ground(tmp_path, spots, cfg, georeference):
    path, corners = spots
    if georeference == "gcps":
        with rasterio.open(path) as raster:
            pixels, profile = raster.read(), raster.profile
        for key in ("crs", "transform"):
            profile.pop(key)
        points = [GroundControlPoint(r, c, 500000 + 10 * c, 6000000 - 10 * r) for r in (0, 80) for c in (0, 100)]
        path = tmp_path / "gcps.tif"
        with rasterio.open(path, "w", **profile, crs="EPSG:3857", gcps=points) as raster:
            raster.write(pixels)
    with open_reader(path) as reader:
        tiled_detection.write_geojson(tmp_path / "spots.geojson", search(path, cfg), reader, ["building"])
    table = geopandas.read_file(tmp_path / "spots.geojson")
    assert table.crs == "EPSG:4326"
    meters = sorted(tuple(round(v, 3) for v in shape.bounds) for shape in table.to_crs("EPSG:3857").geometry)
    assert meters == expected_meters(corners)
    assert set(table.score) == {0.48} and set(table["class"]) == {"building"}


def write_square(path, crs, transform):
    """Write one detection of 4 x 4 pixels."""
    reader = ImageReader(np.zeros((3, 8, 8), np.uint8))
    reader.crs, reader.transform = crs, transform
    tiled_detection.write_geojson(path, [polygons.Detection(1.0, (0, 0, 4, 4), box(0, 0, 4, 4), 0)], reader, ["a"])


@pytest.mark.parametrize(
    ("crs", "left"),
    [('LOCAL_CS["arbitrary",UNIT["metre",1]]', 0), ("EPSG:32631", 1e9), ("EPSG:3857", np.nan), ("EPSG:32633", 1e12)],
)
def test_write_geojson_reports_coordinates_that_cannot_be_converted(tmp_path, crs, left):
    with pytest.raises(ValueError, match="a.geojson: cannot convert"):
        write_square(tmp_path / "a.geojson", crs, rasterio.Affine.translation(left, 0))
    assert not (tmp_path / "a.geojson").exists()


def test_write_geojson_splits_polygons_at_the_antimeridian(tmp_path):
    left = 30 * 111319.4908 - 1000  # 180 degrees are 30 degrees east of the central meridian of EPSG:3832
    write_square(tmp_path / "a.geojson", "EPSG:3832", rasterio.Affine(1000, 0, left, 0, -1000, 4000))
    (shape,) = geopandas.read_file(tmp_path / "a.geojson").geometry
    west, east = sorted(part.bounds for part in shape.geoms)
    assert shape.is_valid and (west[0], east[2]) == (-180, 180)
    assert (west[2] + 180, 180 - east[0]) == pytest.approx((3 / 111.3194908, 1 / 111.3194908))


def test_masks_with_holes_and_parts_become_polygons_of_the_same_area():
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6], mask[3, 3], mask[7:9, 7] = True, False, True
    assert polygons.from_mask(mask).area == mask.sum() == 26


def test_drawing_changes_pixels_inside_a_shape_only():
    image = np.zeros((10, 10, 3), np.uint8)
    drawn = polygons.draw(image, [box(2, 2, 6, 6)])
    assert drawn[4, 4].any() and not drawn[8:].any() and not image.any()


@pytest.fixture
def trained(tmp_path, repo_root):
    """Run folder of a detector with random weights."""
    cfg, folder = build(repo_root), tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "run.json").write_text(json.dumps({"image_size": [48, 48], "classes": ["building"]}))
    (folder / "last_checkpoint").write_text("model_final.pth")
    torch.save({"model": build_model(cfg).state_dict(), "iteration": 0}, folder / "model_final.pth")
    return folder


def predict(trained, images, out, *more):
    words = ["--checkpoint", trained, "--image", images, "--out", out, "--threshold", "0", "--device", "cpu", *more]
    predict_crowdai.main(predict_crowdai.get_parser().parse_args(list(map(str, words))))


def test_script_draws_a_folder_and_writes_polygons_of_georeferenced_images(tmp_path, spots, trained):
    images = tmp_path / "images"
    images.mkdir()
    spots[0].rename(images / "spots.tif")
    Image.new("RGB", (40, 30)).save(images / "plain.jpg")
    done = call_script(
        f"{FOLDER}/predict_crowdai.py", "--checkpoint", trained, "--image", images, "--out", tmp_path / "out",
        "--threshold", "0", "--device", "cpu", "--precision", "bf16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plain.png", "spots.geojson", "spots.png"]
    assert Image.open(tmp_path / "out" / "spots.png").size == (100, 80)
    bounds = geopandas.read_file(tmp_path / "out" / "spots.geojson").total_bounds
    assert bounds == pytest.approx([4.4915, 47.35, 4.5005, 47.355], abs=0.01)
    assert re.search(r"spots.tif: \d+ building -> ", done.stdout)


@pytest.mark.parametrize(("window", "sizes"), [([], (48, 256, 1333)), (["--window", "96"], (96, 512, 2666))])
def test_script_enlarges_windows_as_the_training_images(tmp_path, trained, monkeypatch, window, sizes):
    def check(model, reader, cfg, side, *_):
        assert (side, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == sizes
        return []

    monkeypatch.setattr(tiled_detection, "detect_tiled", check)
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    predict(trained, tmp_path / "a.png", tmp_path / "out", *window)


def test_bf16_is_for_the_backbone_and_boxes_and_masks_stay_in_float32(repo_root):
    model, dtypes = build_model(build(repo_root)).eval(), []
    autocast_backbone(model)
    model.backbone.bottom_up.register_forward_hook(lambda module, given, found: dtypes.append(found["res2"].dtype))
    model.roi_heads.box_pooler.register_forward_pre_hook(lambda module, given: dtypes.append(given[0][0].dtype))
    model.roi_heads.mask_head.predictor.register_forward_hook(lambda module, given, found: dtypes.append(found.dtype))
    tiled_detection.detect(model, np.zeros((3, 48, 48), np.uint8), build(repo_root), 0.0)
    assert dtypes == [torch.bfloat16, torch.float32, torch.float32]


def test_script_takes_a_checkpoint_file(tmp_path, trained):
    (trained / "last_checkpoint").unlink()
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    predict(trained / "model_final.pth", tmp_path / "a.png", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").is_file()


def test_script_loads_a_run_of_the_earlier_version(tmp_path, trained):
    state = torch.load(trained / "model_final.pth", weights_only=True)
    state |= {"step": 1, "categories": [{"id": 100, "name": "building"}], "image_size": [48, 48], "backbone": {}}
    for name in ("model_final.pth", "last_checkpoint", "run.json"):
        (trained / name).unlink()
    checkpoint_io.save(state, trained / "model.pth")
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    predict(trained, tmp_path / "a.png", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "a.png").size == (48, 48)


def test_script_never_replaces_its_images(tmp_path, trained):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir(), out.mkdir()
    Image.new("RGB", (48, 48)).save(images / "a.png")
    before = (images / "a.png").read_bytes()
    with pytest.raises(ValueError, match="choose a folder outside"):
        predict(trained, images, images)
    with pytest.raises(ValueError, match=r"would replace the image"):
        predict(trained, images / "a.png", images)
    (out / "a.png").symlink_to(images / "a.png")
    with pytest.raises(ValueError, match="would replace the image"):
        predict(trained, images, out)
    Image.new("RGB", (48, 48)).save(images / "a.jpg")
    with pytest.raises(ValueError, match="both be written"):
        predict(trained, images, tmp_path / "other")
    assert (images / "a.png").read_bytes() == before and sorted(p.name for p in images.iterdir()) == ["a.jpg", "a.png"]


def test_script_continues_after_an_unreadable_image_and_fails_at_the_end(tmp_path, trained):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"\x89PNG and no more")
    Image.new("RGB", (48, 48)).save(images / "b.png")
    with pytest.raises(ValueError, match=r"1 of 2 images could not be processed: .*a.png"):
        predict(trained, images, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_script_refuses_missing_checkpoint_images_and_invalid_options(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match="no image or folder at"):
        predict(trained, tmp_path / "a.png", tmp_path / "out")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        predict(tmp_path / "none", tmp_path / "a.png", tmp_path / "out")
    for more, error in (
        (["--overlap", 1], "--overlap 1"),
        (["--window", 0], "--window 0"),
        (["--levels", 9, 1], "--levels"),
    ):
        with pytest.raises(ValueError, match=error):
            predict(trained, tmp_path / "a.png", tmp_path / "out", *more)
