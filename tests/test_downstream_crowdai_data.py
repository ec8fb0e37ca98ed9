"""CrowdAI annotations: corrected boxes, dropped polygons, classes by name, and refused files. Needs no Detectron2."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from downstream.detectron2_crowdai_detection_task import coco, dataset, detectron2_setup


def square(left, top, side):
    """A ring [x, y, x, y, …] around a square."""
    right, bottom = left + side, top + side
    return [left, top, right, top, right, bottom, left, bottom, left, top]


def write(folder, content):
    """One split: its JSON file and a 64 x 48 image for each that it names."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in content.get("images", []):
        Image.new("RGB", (64, 48)).save(folder / "images" / image["file_name"])
    (folder / "annotation.json").write_text(json.dumps(content))
    return folder


def content(*annotations, categories=({"id": 100, "name": "building"},)):
    """A COCO dictionary with one image and annotations given as changes of a valid one."""
    valid = {"image_id": 7, "category_id": 100, "segmentation": [square(10, 20, 5)], "bbox": [20, 20, 5, 5]}
    listed = [{"id": number, **valid, **changes} for number, changes in enumerate(annotations or [{}])]
    image = {"id": 7, "file_name": "a.jpg", "height": 48, "width": 64}
    return {"images": [image], "annotations": listed, "categories": list(categories)}


def test_load_split_computes_boxes_from_polygons_and_counts_wrong_ones(tmp_path):
    split = coco.load_split(write(tmp_path, content({}, {"bbox": [10, 20, 5, 5]})))
    assert [annotation["bbox"] for annotation in split.coco["annotations"]] == [[10, 20, 5, 5]] * 2
    assert split.counts["boxes_corrected"] == 1


@pytest.mark.parametrize(
    "bbox", [None, "10 20 5 5", [10, 20, 5], [10, None, 5, 5], ["10", "20", "5", "5"], [1e400, 2, 3, 4]]
)
def test_load_split_replaces_invalid_boxes(tmp_path, bbox):
    split = coco.load_split(write(tmp_path, content({"bbox": bbox})))
    assert split.coco["annotations"][0]["bbox"] == [10, 20, 5, 5] and split.counts["boxes_corrected"] == 1


def test_load_split_writes_what_pycocotools_needs(tmp_path):
    split = coco.load_split(write(tmp_path, content({"id": 0}, {"segmentation": [square(1, 2, 3)], "iscrowd": 1})))
    assert [(a["id"], a["area"], a["iscrowd"], a["category_id"]) for a in split.coco["annotations"]] == [
        (1, 25, 0, 1),  # pycocotools takes an id of 0 for "no match"
        (2, 9, 1, 1),
    ]
    assert split.image_size == [48, 64]


def test_load_split_takes_building_without_categories(tmp_path):
    without = content()
    del without["categories"]
    split = coco.load_split(write(tmp_path, without))
    assert split.classes == ["building"] and split.coco["categories"] == [{"id": 1, "name": "building"}]


@pytest.mark.parametrize("ring, reason", [
    ([10, 10, 20, 20], "fewer than three points"), ([10, 10, 20, 20, 30, 30], "no area"),
    ([10, 10, 20, 20, 30], "fewer than three points"), (square(70, 10, 5), "outside the image"),
    ([-10, 5, -10, -10, 5, -10], "outside the image"),  # its bounding box is not
    ([-10, 5, 0, 5, 0, 20, -10, 20], "outside the image"),
    ([10, 10, float("nan"), 20, 30, 0], "coordinates not finite"),
    (square(0, 0, float("inf")), "coordinates not finite"),
    (square(10, 10, 1e9), "coordinates far outside the image"),
    (square(-1e9, 10, 1e9 + 20), "coordinates far outside the image"),
    (square(10, 10, 10**400), "coordinates far outside the image"),
])  # fmt: skip
def test_load_split_drops_and_counts_unusable_polygons(tmp_path, ring, reason):
    split = coco.load_split(
        write(tmp_path, content({}, {"segmentation": [ring]}, {"segmentation": [ring, square(1, 2, 3)]}))
    )
    assert [annotation["bbox"] for annotation in split.coco["annotations"]] == [[10, 20, 5, 5], [1, 2, 3, 3]]
    assert split.counts["polygons"] == 2 and split.counts["dropped"] == {reason: 2}
    assert reason in coco.describe("train", split.counts)


@pytest.mark.parametrize("ring, bbox", [
    (square(60, 40, 20), [60, 40, 4, 8]),
    ([-5, 5, 5, 5, 5, 10, -5, 10, -5, 7, 20, 7, -5, 7], [0, 5, 20, 5]),  # it crosses itself
])  # fmt: skip
def test_load_split_clips_boxes_to_the_image(tmp_path, ring, bbox):
    split = coco.load_split(write(tmp_path, content({"segmentation": [ring]})))
    assert split.coco["annotations"][0]["bbox"] == bbox


def test_load_split_matches_classes_by_name(tmp_path):
    names = {"building": 1, "pool": 2}
    for name, ids in (("train", names), ("val", {"building": 2, "pool": 1})):
        categories = [{"id": number, "name": label} for label, number in ids.items()]
        annotations = [
            {"category_id": ids["building"], "segmentation": [square(1, 1, 4)]},
            {"category_id": ids["pool"], "segmentation": [square(9, 9, 4)]},
        ]
        write(tmp_path / name, content(*annotations, categories=categories))
    json_names = {"train": "annotation.json", "val": "annotation.json"}
    splits = dataset.prepare_splits(tmp_path, json_names, tmp_path / "run")
    for name in json_names:
        corrected = json.loads((tmp_path / "run" / f"ground_truth_{name}.json").read_text())
        labels = {category["id"]: category["name"] for category in corrected["categories"]}
        found = [(labels[a["category_id"]], a["category_id"], a["bbox"][0]) for a in corrected["annotations"]]
        assert found == [("building", 1, 1), ("pool", 2, 9)]
        assert splits[name].classes == ["building", "pool"]


def test_load_split_refuses_classes_that_training_does_not_have(tmp_path):
    folder = write(tmp_path, content(categories=[{"id": 100, "name": "pool"}]))
    with pytest.raises(ValueError, match="category pool is not in training, which has building"):
        coco.load_split(folder, classes=["building"])


@pytest.mark.parametrize("categories, error", [
    ([{"name": "building"}], "integer"), ([None], "integer"), ("building", "integer"), ([{"id": "1"}], "integer"),
    ([{"id": 100, "name": "a"}, {"id": 100, "name": "b"}], "same id or name"),
    ([{"id": 100, "name": "a"}, {"id": 101, "name": "a"}], "same id or name"),
])  # fmt: skip
def test_load_split_refuses_malformed_categories(tmp_path, categories, error):
    with pytest.raises(ValueError, match=error):
        coco.load_split(write(tmp_path, {**content(), "categories": categories}))


@pytest.mark.parametrize("changes, error", [
    ({"category_id": 5}, r"category 5, which .* it lists 100 \(building\)"), ({"category_id": [1]}, r"category \[1\]"),
    ({"segmentation": {"counts": "", "size": [48, 64]}}, "run-length"), ({"segmentation": None}, "no list of polygons"),
    ({"segmentation": [[[10, 10], [20, 10], [20, 20]]]}, "not a list of numbers"),
    ({"segmentation": [[10, None, 20, 10, 20, 20]]}, "not a list of numbers"),
    ({"segmentation": ["10 10 20 10 20 20"]}, "list"), ({"segmentation": [[1, "1", 20, 1, 20, 20]]}, "list of numbers"),
    ({"image_id": 8}, "no usable polygon"), ({"image_id": [7]}, "no usable polygon"),
    ({"iscrowd": 1}, "no usable polygon"),
])  # fmt: skip
def test_load_split_refuses_malformed_annotations_in_one_line(tmp_path, changes, error):
    with pytest.raises(ValueError, match=error) as caught:
        coco.load_split(write(tmp_path, content(changes)))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


IMAGE = '{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}'


@pytest.mark.parametrize("text, error", [
    ("", "not readable as JSON"), ('{"images": [1', "not readable as JSON"), ("[" * 100000, "not readable as JSON"),
    ("[]", 'no list of "images"'), ('{"images": [], "annotations": []}', '"images" is empty'),
    ('{"images": [{"id": 1}]}', 'no list of "annotations"'),
    ('{"images": null, "annotations": [1]}', 'no list of "images"'),
    ('{"images": [{"id": 1}], "annotations": [1]}', "without a valid file_name, height, width"),
    ('{"images": [1], "annotations": [1]}', "not a JSON object"),
    (f'{{"images": [{IMAGE.replace("4", "null")}], "annotations": [1]}}', "without a valid height, width"),
    (f'{{"images": [{IMAGE.replace("4", "0")}], "annotations": [1]}}', "is 0 pixels high"),
    (f'{{"images": [{IMAGE}, {IMAGE}], "annotations": [1]}}', "two images with the id 1"),
    (f'{{"images": [{IMAGE}, {IMAGE.replace("1", "2")}], "annotations": [1]}}', "1 files are listed as two images"),
])  # fmt: skip
def test_load_split_refuses_files_that_are_not_coco(tmp_path, text, error):
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(ValueError, match=error):
        coco.load_split(tmp_path)


def test_load_split_refuses_null_annotations(tmp_path):
    with pytest.raises(ValueError, match=r"annotations\[0\] is not a JSON object"):
        coco.load_split(write(tmp_path, {**content(), "annotations": [None]}))


def test_load_split_reads_a_byte_order_mark(tmp_path):
    path = write(tmp_path, content()) / "annotation.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert coco.load_split(tmp_path).counts["polygons"] == 1


def test_load_split_lists_missing_images_without_opening_any(tmp_path):
    folder = write(tmp_path, content())
    (folder / "images" / "a.jpg").write_text("not an image")
    assert coco.load_split(folder).counts["images"] == 1
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not in .*: a.jpg"):
        coco.load_split(folder)
    with pytest.raises(FileNotFoundError, match="must hold train/ and val/"):
        coco.load_split(tmp_path / "none")


def prepared(tmp_path):
    """Splits of one image each, of the same pixels."""
    for name in ("train", "val"):
        write(tmp_path / name, content())
    return dataset.prepare_splits(tmp_path, {"train": "annotation.json", "val": "annotation.json"}, tmp_path / "run")


def test_folders_of_splits_may_have_other_names(tmp_path):
    before = prepared(tmp_path)
    (tmp_path / "train").rename(tmp_path / "Train")
    (tmp_path / "val").rename(tmp_path / "VALIDATION")
    names = {"train": "annotation.json", "val": "annotation.json"}
    after = dataset.prepare_splits(tmp_path, names, tmp_path / "run")
    assert after["val"].counts == before["val"].counts and Path(after["val"].image_dir).parent.name == "VALIDATION"


def test_report_measures_the_overlap_of_pixels(tmp_path, capsys):
    splits = prepared(tmp_path)
    assert dataset.report(splits)["overlap"]["exact_duplicates"] == 1
    assert "100.0% equal a training sample" in capsys.readouterr().out
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "val" / "images" / "a.jpg")
    assert dataset.report(splits)["overlap"]["exact_duplicates"] == 0


@pytest.mark.parametrize("damage, error", [
    (lambda path: path.write_bytes(path.read_bytes()[:300]), "a.jpg cannot be read"),
    (lambda path: Image.new("RGB", (48, 64)).save(path), "a.jpg is 48 x 64 pixels, the annotations have 64 x 48"),
])  # fmt: skip
def test_report_names_images_that_cannot_be_used(tmp_path, damage, error):
    splits = prepared(tmp_path)
    damage(tmp_path / "val" / "images" / "a.jpg")
    with pytest.raises(ValueError, match=error):
        dataset.report(splits)


def test_require_names_the_installation_script(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", None)
    with pytest.raises(ValueError, match="install_detectron2.sh"):
        detectron2_setup.require()


@pytest.mark.real_data
def test_load_split_corrects_every_box_of_the_real_copy(real_data):
    split = coco.load_split(real_data / "crowdai" / "train")
    assert split.counts["images"] == 20 and split.counts["polygons"] == 187
    assert split.counts["boxes_corrected"] == 187 and split.counts["dropped"] == {"no area": 1}
    assert split.image_size == [300, 300]


def test_coordinates_that_are_fractions_of_the_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="all coordinates are 1 or less, fractions of the image"):
        coco.load_split(write(tmp_path, content({"segmentation": [square(0.1, 0.2, 0.5)]})))
