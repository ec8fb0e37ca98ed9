"""The audit's subsets: identifiers are text, unreadable and hidden files do not count, no data is not compared."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from preprocessing.audit import compare, phash, samples
from tests.imagery_fixtures import ground, prepare, write_raster
from tests.test_preprocessing_audit_split import jpeg, save, texture
from vicreg.data.image_listing import list_images
from vicreg.data.rasters import quiet_georeference
from vicreg.data.sn7_format import read_patch_list


def write_list(list_file, **columns):
    """Write a list and an image, different from all others, for each row."""
    pd.DataFrame(columns).to_csv(list_file, index=False)
    for file in columns["path"]:
        save(list_file.parent / file, texture(int.from_bytes(file.encode(), "big"), 24))
    return samples.from_list(list_file)


def test_locations_are_text_so_that_numbers_in_one_list_equal_text_in_the_other(tmp_path):
    train = write_list(tmp_path / "train.csv", path=[f"t{n}.png" for n in range(6)], location=[*range(100, 106)])
    val = write_list(tmp_path / "val.csv", path=[f"v{n}.png" for n in range(6)], location=[*range(100, 105), "x"])
    found = compare.compare(train, val)["location"]
    assert (found["samples"], found["locations_shared"], found["locations"]) == (5, 5, 6)


def test_leading_zeros_tell_locations_apart(tmp_path):
    train = write_list(tmp_path / "train.csv", path=["a.png", "b.png"], location=["007", "08"])
    val = write_list(tmp_path / "val.csv", path=["c.png", "d.png"], location=["7", "08"])
    assert compare.compare(train, val, pixels=False)["location"]["samples"] == 1


@pytest.mark.parametrize("classes", [{}, {"class": ["port", "farm"]}])
def test_class_columns_do_not_hide_shared_locations(tmp_path, classes):
    columns = {"location": ["1", "2"], "class": ["port", "port"]}
    train = write_list(tmp_path / "train.csv", path=["a.png", "b.png"], **columns)
    val = write_list(tmp_path / "val.csv", path=["c.png", "d.png"], location=["3", "2"], **classes)
    assert compare.compare(train, val, pixels=False)["location"]["samples"] == 1


def test_rows_without_a_location_are_not_taken_for_one_location(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv: 2 of 3 rows have no location"):
        write_list(tmp_path / "a.csv", path=["a.png", "b.png", "c.png"], location=["", " ", "1"])


def test_a_list_from_a_spreadsheet_is_read(tmp_path):
    save(tmp_path / "a" / "x.png", texture(1, 24))
    (tmp_path / "val.csv").write_bytes(b"\xef\xbb\xbfpath;location\r\na\\x.png;5\r\n")
    subset = samples.from_list(tmp_path / "val.csv")
    assert subset.location_ids == [("5",)] and (subset.read(0) == texture(1, 24)).all()


def test_a_coco_file_with_a_byte_order_mark_is_read(tmp_path):
    save(tmp_path / "x.png", texture(1, 24))
    content = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    assert samples.from_coco(tmp_path / "a.json").samples == [str(tmp_path / "x.png")]


@pytest.mark.parametrize(
    "content",
    [
        [1], {"images": None}, {"images": [{"file_name": None}]}, {"images": [{}]},
        {"images": [{"file_name": "a"}], "categories": [{"name": "x"}]},
        {"images": [{"file_name": "a"}], "annotations": 1}, {"images": [{"file_name": "a"}], "annotations": None},
        {"images": [{"file_name": "a"}], "annotations": [{"category_id": [1]}]},
    ],
)  # fmt: skip
def test_a_malformed_coco_file_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="a.json: not a COCO file"):
        samples.from_coco(tmp_path / "a.json")


@pytest.mark.parametrize("meta", [[1], {"classes": ["one"], "source": "SN7"}])
def test_a_list_that_does_not_fit_its_meta_json_is_refused(sn7_prepared, tmp_path, meta):
    (tmp_path / "val.csv").write_bytes((sn7_prepared / "val.csv").read_bytes())
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="(meta.json|label . is not in 0 to 0).*again"):
        samples.from_list(tmp_path / "val.csv")


def test_samples_that_cannot_be_read_are_not_part_of_the_fractions(tmp_path):
    for number in range(4):
        save(tmp_path / "train" / f"{number}.png", texture(number))
    save(tmp_path / "val" / "equal.png", texture(0))
    save(tmp_path / "val" / "other.png", texture(9))
    for name in ("empty.png", "text.jpg"):
        (tmp_path / "val" / name).write_bytes(b"text"[: 4 * (name == "text.jpg")])
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert (found["val"]["samples"], found["val"]["unreadable"]) == (4, 2)
    assert found["exact"]["fraction"] == found["overlap"]["fraction"] == 0.5


def test_a_pipe_with_the_name_of_an_image_is_unreadable_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg cannot be read .not a regular file"):
        samples.open_image(tmp_path / "a.jpg")


def test_hidden_files_of_macos_and_windows_are_no_samples(tmp_path):
    for part, side in (("train", 64), ("val", 64)):
        for number in range(3):
            save(tmp_path / part / "a" / f"{number}.png", texture(number, side))
            (tmp_path / part / "a" / f"._{number}.png").write_bytes(b"\0\5\x16\7")
        save(tmp_path / part / ".ipynb_checkpoints" / "0.png", texture(0))
        save(tmp_path / part / "__MACOSX" / "a" / "0.png", texture(0))
        (tmp_path / part / "Thumbs.db").write_bytes(b"x")
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert (found["val"]["samples"], found["val"]["unreadable"], found["exact"]["fraction"]) == (3, 0, 1)


def test_linked_class_folders_are_entered_once_and_pgm_files_are_images(tmp_path):
    for number in range(2):
        save(tmp_path / "elsewhere" / f"{number}.png", texture(number))
        save(tmp_path / "train" / "b" / f"{number}.pgm", texture(10 + number)[..., 0])
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "b" / "up").symlink_to("..")
    (tmp_path / "train" / "b" / "self").symlink_to(".")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    subset = samples.from_folder(tmp_path / "train")
    assert [name.removeprefix(f"{tmp_path}/train/") for name in subset.samples] == [
        "a/0.png", "a/1.png", "b/0.pgm", "b/1.pgm",
    ]  # fmt: skip
    assert subset.classes == {"a": 2, "b": 2}
    assert list_images(tmp_path / "train").paths == subset.samples


def test_transparent_pixels_are_no_data_whatever_their_color(tmp_path):
    pixels = np.dstack([texture(1), np.full((64, 64), 255, np.uint8)])
    pixels[:20, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pixels[:20, :, :3] = 0
    Image.fromarray(pixels).save(tmp_path / "b.png")
    first, second = (samples.open_image(tmp_path / f"{name}.png") for name in "ab")
    assert (first == second).all() and (first[:20] == 0).all() and (first[20:] == texture(1)[20:]).all()


def test_16_bit_and_float_images_are_compared_by_their_relative_values(tmp_path):
    for part, numbers in (("train", range(6)), ("val", [0, 1, 20, 21])):
        for number in numbers:
            path, pixels = tmp_path / part / f"{number}.tif", texture(number).astype(np.uint16) * 12  # up to 3060
            path.parent.mkdir(exist_ok=True)
            dtype = "float32" if number == 1 else "uint16"
            profile = {"driver": "GTiff", "count": 3, "height": 64, "width": 64, "dtype": dtype}
            with quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
                raster.write((np.rot90(pixels) if part == "val" else pixels).transpose(2, 0, 1).astype(dtype))
    Image.fromarray(texture(3)[..., 0].astype(np.uint16) * 12).save(tmp_path / "val" / "gray.png")
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert (found["near"]["excluded_train"], found["val"]["unreadable"]) == (0, 0)
    assert sorted((v, t) for v, t, _ in found["near"]["pairs"]) == [(0, 0), (1, 1)]


def wedge(pixels, angle, share, value=0):
    """Blacken or whiten a share of an image behind a straight line, as at the edge of a rotated scene."""
    row, column = np.indices(pixels.shape[:2])
    depth = column * np.sin(np.radians(angle)) + row * np.cos(np.radians(angle))
    return np.where((depth < np.quantile(depth, share))[..., None], value, pixels).astype(np.uint8)


@pytest.mark.parametrize("kind", ["hot pixel", "color table", "white is 0"])
def test_copies_are_found_whatever_the_layout_of_the_file(tmp_path, kind):
    image = texture(1) if kind != "white is 0" else texture(1)[..., :1].repeat(3, 2)
    save(tmp_path / "train" / "a.png", image)
    (tmp_path / "val").mkdir()
    if kind == "color table":
        Image.fromarray(image).quantize(64).save(tmp_path / "val" / "a.tif")
    else:
        bands = np.moveaxis(image.astype(np.uint16) * 12, -1, 0)
        bands[:, 3, 3] = 65535
        white = kind == "white is 0"
        bands = 255 - image[None, ..., 0] if white else bands
        photometric = "MINISWHITE" if white else "MINISBLACK"
        write_raster(tmp_path / "val" / "a.tif", bands, crs=None, photometric=photometric)
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert found["overlap"]["samples"] == 1 and found["near"]["excluded_val"] == 0


def subset_of(images):
    return samples.Subset("s", ["s"] * len(images), images.__getitem__, {}, None)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("share", [0.15, 0.4])
@pytest.mark.parametrize("angle", [0, 15, 30, 45])
def test_unrelated_images_with_one_wedge_are_no_duplicates_and_copies_are(angle, share, value):
    seeds = range(100), range(100, 200)
    train, val = ([wedge(texture(seed), angle, share, value) for seed in part] for part in seeds)
    assert compare.compare(subset_of(train), subset_of(val))["near"]["samples"] == 0  # under 1 % of 100
    copies = [np.ascontiguousarray(np.rot90(image)) for image in train[:20]]
    pairs = compare.compare(subset_of(train), subset_of(copies))["near"]["pairs"]
    assert sorted((v, t) for v, t, _ in pairs) == [(n, n) for n in range(20)]


def test_unrelated_jpeg_files_with_a_wedge_and_rotated_frames_are_no_duplicates():
    def spoiled(seed):
        turned = Image.fromarray(texture(seed, 32)).rotate(10, Image.Resampling.BILINEAR)
        return jpeg(wedge(texture(seed, 32), 30, 0.3), 50) if seed % 2 else np.asarray(turned)

    train, val = ([spoiled(seed) for seed in range(start, start + 100)] for start in (0, 100))
    assert compare.compare(subset_of(train), subset_of(val))["near"]["samples"] == 0


def test_planted_leaks_of_every_kind_give_the_true_share(tmp_path):
    def deep(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {"driver": "GTiff", "count": 3, "height": 64, "width": 64, "dtype": "uint16", "nodata": 65535}
        pixels = np.where(pixels == 0, 65535, pixels.astype(np.uint16) * 12)  # the wedge has no data
        with quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
            raster.write(pixels.transpose(2, 0, 1).astype(np.uint16))

    images = [texture(seed) // 2 + 60 for seed in range(30)]
    for n in range(8):
        save(tmp_path / "elsewhere" / f"{n}.png", images[n])
    save(tmp_path / "train" / "b" / "wedge.png", wedge(images[8], 20, 0.3))
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")  # a class folder that is a link
    val = tmp_path / "val" / "a"
    save(val / "equal.bmp", images[0])
    deep(val / "deep.tif", images[1])
    deep(val / "deep_wedge.tif", wedge(images[8], 20, 0.3))
    save(val / "turned.png", np.rot90(images[2]))
    for n in range(4):
        save(val / f"new{n}.png", wedge(images[10 + n], 15 * n, 0.3))
        deep(val / f"new{n}.tif", wedge(images[20 + n], 15 * n, 0.3))
        (val / f"._new{n}.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "val" / "b").symlink_to("a")  # the same files are counted once
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert (found["train"]["samples"], found["val"]["samples"], found["val"]["unreadable"]) == (9, 12, 0)
    assert (found["exact"]["samples"], found["near"]["samples"]) == (1, 3)
    assert found["overlap"] == {"samples": 4, "fraction": 4 / 12}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_of_the_no_data_tag_of_a_tiff_are_black(tmp_path, dtype):
    pixels = texture(3, 24).transpose(2, 0, 1).clip(1, 254)
    pixels[:, :8] = 255
    profile = {"driver": "GTiff", "count": 3, "height": 24, "width": 24, "dtype": dtype, "nodata": 255}
    with quiet_georeference(), rasterio.open(tmp_path / "a.tif", "w", **profile) as raster:
        raster.write(pixels.astype(dtype))
    read = samples.open_image(tmp_path / "a.tif")
    assert (read[:8] == 0).all() and (read[8:].std() > 10)


def test_images_of_one_color_are_duplicates_only_if_they_are_equal(tmp_path):
    for name, value in {"train/a/0": 90, "train/a/1": 200, "val/a/0": 90, "val/a/1": 91, "val/a/2": 0}.items():
        save(tmp_path / f"{name}.png", np.full((24, 24, 3), value, np.uint8))
    found = compare.compare(samples.from_folder(tmp_path / "train"), samples.from_folder(tmp_path / "val"))
    assert (found["exact"]["samples"], found["near"]["samples"]) == (1, 0)


def test_lists_of_any_imagery_are_audited_with_their_locations_and_pixels(tmp_path):
    scenes = {name: ground(4, 64, 64, number) for number, name in enumerate(["2021-01-01", "2021-02-01", "2021-03-01"])}
    scenes["2021-04-01"] = scenes["2021-01-01"][:, :32]  # the same pixels under another date
    for date, pixels in scenes.items():
        write_raster(tmp_path / "in" / f"{date}.tif", pixels)
    prepare(tmp_path / "in", tmp_path / "csv", "--patch-size", 32, "--split", "none")
    table = pd.read_csv(tmp_path / "csv" / "all.csv")
    for part, dates in {"train": ["2021-01-01", "2021-02-01"], "val": ["2021-04-01", "2021-03-01"]}.items():
        table[table.date.isin(dates)].to_csv(tmp_path / "csv" / f"my_{part}.csv", index=False)
    train, val = (samples.from_list(tmp_path / "csv" / f"my_{part}.csv") for part in ("train", "val"))
    found = compare.compare(train, val)
    assert (found["train"]["samples"], found["val"]["samples"], found["exact"]["samples"]) == (8, 6, 2)
    assert (found["location"]["samples"], found["location"]["locations_shared"]) == (6, 4)
    stored = scenes["2021-04-01"][:3, :, :32].astype(float)
    image = val.read([name.startswith("2021-04") for name in val.samples].index(True)).transpose(2, 0, 1)
    low, high = np.percentile(stored, [1, 99])
    stretched = ((stored - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(image - stretched).max() <= 0.5
    other = samples.from_list(shutil.copytree(tmp_path / "csv", tmp_path / "other") / "my_val.csv")
    assert compare.compare(train, other, pixels=False)["location"]["samples"] == 0  # names of one folder only
    with pytest.raises(ValueError, match="columns missing: patch, aoi.*it is a list of make_imagery_csv.py"):
        read_patch_list(tmp_path / "csv" / "my_val.csv")


def test_no_data_is_black_large_and_at_the_border():
    pixels = np.full((50, 50, 3), 90, np.uint8)
    pixels[:10, :10] = 16  # at the border
    pixels[20:30, 20:30] = 0  # inside
    pixels[49, 49] = 0  # small, at the border
    pixels[40:, :10, 0] = 0  # not black in all channels
    mask = phash.nodata_mask(pixels)
    # with the pixels around it; beside a large area the small one at the border counts too
    assert mask[:11, :11].all() and mask.sum() == 11 * 11 + 4 and not phash.nodata_mask(pixels[12:]).any()


def test_a_bright_roof_at_the_border_is_data_and_a_white_corner_is_not():
    pixels = texture(1) // 2
    pixels[20:40, :12] = 255
    assert not phash.nodata_mask(pixels).any()
    pixels[-20:, -12:] = 255
    mask = phash.nodata_mask(pixels)
    assert mask[-20:, -12:].all() and not mask[:-22].any()
