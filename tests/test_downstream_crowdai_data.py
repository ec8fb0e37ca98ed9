"""CrowdAI's json: boxes from polygons, what is dropped, and what is refused. Needs no Detectron2."""

import json
import sys

import pytest
from PIL import Image

from downstream.detectron2_crowdai_detection_task import coco, detectron2_setup


def square(left, top, side):
    """A ring [x, y, x, y, …] around a square."""
    right, bottom = left + side, top + side
    return [left, top, right, top, right, bottom, left, bottom, left, top]


def write(folder, content):
    """One part of a data set: its json and a 64 x 48 image for each that it names."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in content.get("images", []):
        Image.new("RGB", (64, 48)).save(folder / "images" / image["file_name"])
    (folder / "annotation.json").write_text(json.dumps(content))
    return folder


def content(*annotations):
    """Json with one image and the annotations given as changes of a good one."""
    good = {"image_id": 7, "category_id": 100, "segmentation": [square(10, 20, 5)], "bbox": [20, 20, 5, 5]}
    listed = [{"id": number, **good, **changes} for number, changes in enumerate(annotations or [{}])]
    image = {"id": 7, "file_name": "a.jpg", "height": 48, "width": 64}
    return {"images": [image], "annotations": listed, "categories": [{"id": 100, "name": "building"}]}


def test_boxes_come_from_polygons_and_wrong_ones_are_counted(tmp_path):
    split = coco.read_split(write(tmp_path, content({}, {"bbox": [10, 20, 5, 5]})))
    assert [found["bbox"] for found in split.records[0]["annotations"]] == [[10, 20, 15, 25]] * 2
    assert split.counts["boxes_corrected"] == 1


def test_category_100_becomes_the_first_class_and_is_called_building_where_the_file_does_not_say(tmp_path):
    bare = content()
    del bare["categories"]
    split = coco.read_split(write(tmp_path, bare))
    assert split.records[0]["annotations"][0]["category_id"] == 0
    assert split.categories == [{"id": 100, "name": "building"}]


@pytest.mark.parametrize("ring, why", [
    ([10, 10, 20, 20], "fewer than three points"), ([10, 10, 20, 20, 30, 30], "no area"),
    ([10, 10, 20, 20, 30], "fewer than three points"), (square(70, 10, 5), "outside its image"),
    ([10, 10, float("nan"), 20, 30, 0], "fewer than three points"),
])  # fmt: skip
def test_polygons_that_are_no_areas_are_dropped_and_counted(tmp_path, ring, why):
    split = coco.read_split(write(tmp_path, content({}, {"segmentation": [ring]})))
    assert split.counts["polygons"] == 1 and split.counts["dropped"] == {why: 1}
    assert why in coco.describe("train", split.counts)


def test_boxes_end_at_the_edge_of_the_image(tmp_path):
    split = coco.read_split(write(tmp_path, content({"segmentation": [square(60, 40, 20)]})))
    assert split.records[0]["annotations"][0]["bbox"] == [60, 40, 64, 48]


def test_the_corrected_json_has_what_pycocotools_wants(tmp_path):
    split = coco.read_split(write(tmp_path, content({"id": 0}, {"segmentation": [square(1, 2, 3)]})))
    corrected = coco.ground_truth(split)["annotations"]
    assert [found["id"] for found in corrected] == [1, 2]
    assert [found["bbox"] for found in corrected] == [[10, 20, 5, 5], [1, 2, 3, 3]]
    assert [(found["area"], found["iscrowd"], found["category_id"]) for found in corrected] == [
        (25, 0, 100),
        (9, 0, 100),
    ]


def test_an_unknown_category_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"category 5, which .* it lists 100 \(building\)"):
        coco.read_split(write(tmp_path, content({"category_id": 5})))


@pytest.mark.parametrize("text, complaint", [
    ("", "not readable as json"), ('{"images": [1', "not readable as json"), ("[]", 'no list of "images"'),
    ('{"images": [], "annotations": []}', '"images" is empty'), ('{"images": [{"id": 1}]}', 'no list of "annotations"'),
    ('{"images": [{"id": 1}], "annotations": [1]}', "without file_name, height, width"),
])  # fmt: skip
def test_json_that_is_no_coco_is_refused(tmp_path, text, complaint):
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        coco.read_split(tmp_path)


def test_missing_images_are_listed_without_opening_any(tmp_path):
    folder = write(tmp_path, content())
    (folder / "images" / "a.jpg").write_text("no picture, and nobody looks")
    assert coco.read_split(folder).counts["images"] == 1
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not in .*: a.jpg"):
        coco.read_split(folder)


def test_no_json_and_no_usable_polygon_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold train/ and val/"):
        coco.read_split(tmp_path)
    with pytest.raises(ValueError, match="no usable polygon"):
        coco.read_split(write(tmp_path, content({"image_id": 8})))
    with pytest.raises(ValueError, match="run-length"):
        coco.read_split(write(tmp_path, content({"segmentation": {"counts": "", "size": [48, 64]}})))


def test_missing_detectron2_names_the_script_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", None)
    with pytest.raises(ValueError, match="install_detectron2.sh"):
        detectron2_setup.need()


@pytest.mark.real_data
def test_every_box_of_the_real_copy_is_wrong_and_is_corrected(real_data):
    split = coco.read_split(real_data / "crowdai" / "train")
    assert split.counts["images"] == 20 and split.counts["polygons"] == 187
    assert split.counts["boxes_corrected"] == 187 and split.counts["dropped"] == {"no area": 1}
