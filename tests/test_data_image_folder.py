"""Folders of images: listing, broken files, and the validation split."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vicreg.data.broken_files import find_broken
from vicreg.data.image_folder import split_image_folder
from vicreg.data.image_listing import list_images
from vicreg.data.name_lists import choose_files


def write_tree(folder, classes=("bee", "ant", "cat"), images=10):
    """Write <folder>/<class>/<class>_<n>.JPEG, each of one color."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for n in range(images):
            Image.new("RGB", (8, 8), (20 * n, 80 * label, 7)).save(folder / name / f"{name}_{n}.JPEG")
    return folder


@pytest.mark.parametrize("which", ["", "train"])
def test_split_image_folder_accepts_the_root_or_its_train_folder(tmp_path, which):
    write_tree(tmp_path / "train")
    write_tree(tmp_path / "val", images=2)
    train, val, line = split_image_folder(tmp_path / which)
    assert train.classes == val.classes == ["ant", "bee", "cat"]
    assert [len(part.paths) for part in (train, val)] == [30, 6] and "val" in line
    assert train.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert train.paths[10].endswith("train/bee/bee_0.JPEG") and val.paths[5].endswith("val/cat/cat_1.JPEG")


def test_split_image_folder_uses_val_next_to_a_link_not_next_to_its_target(tmp_path):
    write_tree(tmp_path / "elsewhere" / "train")
    write_tree(tmp_path / "elsewhere" / "val", images=5)
    write_tree(tmp_path / "here" / "val", images=2)
    (tmp_path / "here" / "train").symlink_to(tmp_path / "elsewhere" / "train")
    assert len(split_image_folder(tmp_path / "here")[1].paths) == 6


def test_split_image_folder_without_val_holds_out_the_same_tenth_of_each_class(tmp_path):
    write_tree(tmp_path / "EuroSAT")
    write_tree(tmp_path / "val", ["something", "else"])  # beside it, but of another data set
    train, val, line = split_image_folder(tmp_path / "EuroSAT")
    assert "3 of 30" in line and "no val/" in line
    assert np.bincount(val.labels).tolist() == [1, 1, 1] and len(train.paths) == 27
    names = [path.rpartition("/")[2] for path in val.paths]
    assert names == ["ant_9.JPEG", "bee_4.JPEG", "cat_2.JPEG"]  # in every version, or evaluations see training images
    assert not set(train.paths) & set(val.paths)
    assert split_image_folder(tmp_path / "EuroSAT")[1].paths == val.paths


def test_list_images_skips_hidden_files_and_other_suffixes(tmp_path):
    write_tree(tmp_path, ["bee"], 1)
    for name in ("._bee_0.JPEG", ".DS_Store", "Thumbs.db", "notes.txt", "no_suffix"):
        (tmp_path / "bee" / name).write_text("x")
    for name in ("B.PNG", "b.Tif"):
        Image.new("L", (4, 4)).save(tmp_path / "bee" / name)
    for name in (".cache", "__MACOSX", "bee/.hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_text("x")
    (tmp_path / "loose.jpg").write_text("x")
    (tmp_path / "bee" / "deeper").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "bee" / "deeper" / "a.jpg")
    found = list_images(tmp_path)
    assert found.classes == ["bee"]
    assert [path[len(str(tmp_path)) :] for path in found.paths] == [
        "/bee/B.PNG", "/bee/b.Tif", "/bee/bee_0.JPEG", "/bee/deeper/a.jpg",
    ]  # fmt: skip


def test_split_image_folder_refuses_other_folders_with_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        split_image_folder(tmp_path / "nowhere")
    train = write_tree(tmp_path / "train")
    (train / "dog").mkdir()
    with pytest.raises(ValueError, match="no image in .*/dog; remove empty class folders"):
        split_image_folder(tmp_path)
    (train / "dog").rmdir()
    (tmp_path / "val").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match=r"no class folders in .*/val \(1 loose images\)"):
        split_image_folder(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    write_tree(tmp_path / "val" / "x")
    with pytest.raises(ValueError, match="val holds one folder of folders; .*/x is perhaps the folder"):
        split_image_folder(tmp_path)
    shutil.rmtree(tmp_path / "val")
    write_tree(tmp_path / "val", ["x"])
    with pytest.raises(ValueError, match="ant, bee, cat only in .*/train; x only in .*/val"):
        split_image_folder(tmp_path)


def test_split_image_folder_refuses_one_image_per_class_without_val(tmp_path):
    write_tree(tmp_path / "train", images=1)
    with pytest.raises(ValueError, match="one image per class"):
        split_image_folder(tmp_path)


def test_find_broken_reports_broken_files_and_keeps_unusual_good_ones(tmp_path):
    good = tmp_path / "good.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(good)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    jpeg, png = good.read_bytes(), (tmp_path / "good.png").read_bytes()
    contents = {
        "truncated.jpg": jpeg[: len(jpeg) // 2], "truncated.png": png[: len(png) // 2], "empty.jpg": b"",
        "text.jpg": b"<html>not found</html>", "one.jpg": b"\xff",
        "trailing.jpg": jpeg + b"\0\0camera data", "trailing.png": png + b"\n", "png_inside.jpg": png,
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(pixels).save(tmp_path / "good.webp")
    paths = sorted(map(str, tmp_path.iterdir()))
    broken = {paths[index][len(str(tmp_path)) + 1 :]: what for index, what in find_broken(paths).items()}
    assert set(broken) == {"truncated.jpg", "truncated.png", "empty.jpg", "text.jpg", "one.jpg"}
    assert broken["empty.jpg"] == "empty file (zero bytes)" and "truncated" in broken["truncated.jpg"]


def test_find_broken_keeps_indices_over_many_chunks(tmp_path):
    for name in ("good", "bad"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    paths = [str(tmp_path / ("bad.png" if n in (0, 255, 256, 999) else "good.png")) for n in range(1000)]
    assert sorted(find_broken(paths, workers=3)) == [0, 255, 256, 999]


def test_choose_files_returns_the_indices_of_a_list_of_names(tmp_path):
    listing = list_images(write_tree(tmp_path / "train"))
    (tmp_path / "1percent.txt").write_text("cat_3.JPEG\nant_0.JPEG\n\nbee/bee_9.JPEG\nant_0.JPEG\n")
    chosen = choose_files(listing, tmp_path / "1percent.txt")
    assert [listing.paths[index].split("/")[-1] for index in chosen] == ["ant_0.JPEG", "bee_9.JPEG", "cat_3.JPEG"]


def test_choose_files_refuses_missing_and_ambiguous_names(tmp_path):
    listing = list_images(write_tree(tmp_path / "train"))
    names = tmp_path / "names.txt"
    with pytest.raises(FileNotFoundError, match="--train-files"):
        choose_files(listing, names)
    names.write_text("\n")
    with pytest.raises(ValueError, match="no names in it"):
        choose_files(listing, names)
    names.write_text("ant_0.JPEG\nant_77.JPEG\n")
    with pytest.raises(ValueError, match="1 of 2 names are not among the training images: ant_77.JPEG"):
        choose_files(listing, names)
    Image.new("L", (4, 4)).save(tmp_path / "train" / "bee" / "ant_0.JPEG")
    names.write_text("ant_0.JPEG\n")
    with pytest.raises(ValueError, match="in several class folders"):
        choose_files(list_images(tmp_path / "train"), names)


def test_listing_without_renumbers_the_subset_and_keeps_every_class(tmp_path):
    listing = list_images(write_tree(tmp_path, images=3))
    kept, chosen = listing.without([0, 4], np.array([0, 1, 5]))
    assert len(kept.paths) == 7 and kept.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert [kept.paths[index] for index in chosen] == [listing.paths[1], listing.paths[5]]
    with pytest.raises(ValueError, match="no readable image of bee"):
        listing.without([3, 4, 5])
    with pytest.raises(ValueError, match="none of the chosen files"):
        listing.without([0], np.array([0]))


def test_listing_without_accepts_a_held_out_part_that_has_no_image_of_a_class(tmp_path):
    held_out = list_images(write_tree(tmp_path, images=3)).take(np.arange(5))  # no cat
    kept, _ = held_out.without([0])
    assert kept.labels.tolist() == [0, 0, 1, 1] and kept.classes == ["ant", "bee", "cat"]
