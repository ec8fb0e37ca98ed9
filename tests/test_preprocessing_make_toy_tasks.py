"""The toy data sets have the layouts that the downstream tasks read, and labels that fit their pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from downstream.FloodNet_segmentation_task.floodnet import FLOODNET, find_parts
from preprocessing.make_toy_tasks import SIDE, get_parser, main
from preprocessing.sn7.synthetic import COVERS


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "toy"
    main(get_parser().parse_args(["--out", str(folder), "--size", "512"]))
    return folder


def pixels(path):
    return np.asarray(Image.open(path)).astype(float)


def test_every_land_cover_is_a_class_of_64_pixel_images(toy):
    folders = sorted((toy / "EuroSAT").iterdir())
    assert [folder.name for folder in folders] == sorted(cover.capitalize() for cover in COVERS)
    for folder in folders:
        images = list(folder.iterdir())
        assert len(images) == 16 and all(Image.open(path).size == (64, 64) for path in images)


def test_flood_masks_have_the_classes_of_floodnet_and_floods_look_alike(toy):
    parts, _ = find_parts(toy / "FloodNet", "floodnet")
    values, mud, dry = set(), [], []
    for pair in parts["train"] + parts["val"]:
        mask, image = pixels(pair.mask), pixels(pair.image)
        assert mask.shape == image.shape[:2] == (SIDE, SIDE)
        values |= set(np.unique(mask).astype(int))
        mud.append(image[mask == FLOODNET.index("road flooded")])
        dry.append(image[mask == FLOODNET.index("road non-flooded")])
    assert values == {1, 2, 3, 4, 5, 6, 9}
    mud, dry = np.concatenate(mud), np.concatenate(dry)
    assert mud.std(0).max() < 0.6 * dry.std(0).max()


def test_buildings_are_polygons_in_their_boxes_on_roofs_of_one_color(toy):
    roofs, elsewhere = [], []
    for part in ("train", "val"):
        content = json.loads((toy / "crowdai" / part / "annotation.json").read_text())
        images = [pixels(toy / "crowdai" / part / "images" / image["file_name"]) for image in content["images"]]
        first = content["images"][0]["id"]
        assert {annotation["image_id"] for annotation in content["annotations"]} == {
            image["id"] for image in content["images"]
        }
        for annotation in content["annotations"]:
            ring, (x, y, width, height) = np.reshape(annotation["segmentation"][0], (4, 2)), annotation["bbox"]
            assert (ring >= (x - 0.1, y - 0.1)).all() and (ring <= (x + width + 0.1, y + height + 0.1)).all()
            assert 0 <= x < x + width <= SIDE + 0.1 and 0 <= y < y + height <= SIDE + 0.1
            image, (column, row) = images[annotation["image_id"] - first], ring.mean(0).astype(int)
            if min(width, height) > 8 and column > 16:
                roofs.append(image[row - 1 : row + 2, column - 1 : column + 2].std((0, 1)).mean())
                elsewhere.append(image[row - 1 : row + 2, : column - 4][:, -9:].std((0, 1)).mean())
    assert len(roofs) > 20 and np.median(roofs) < 0.3 * np.median(elsewhere)


@pytest.mark.parametrize("size", [0, 100, 300])
def test_a_size_that_cannot_be_cut_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=f"--size {size}: choose a multiple of 256"):
        main(get_parser().parse_args(["--out", str(tmp_path / "toy"), "--size", str(size)]))


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="exists; delete it or choose another --out"):
        main(get_parser().parse_args(["--out", str(tmp_path)]))
