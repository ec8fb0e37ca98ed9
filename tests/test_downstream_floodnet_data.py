"""FloodNet on disk: both layouts, the split, masks that do not fit their images, and what is wrong by name."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.FloodNet_segmentation_task.cached_dataset import CachedPairs, RandomCrops, default_side
from downstream.FloodNet_segmentation_task.floodnet import FLOODNET, Pair, find_parts, label_map, match
from downstream.FloodNet_segmentation_task.image_mask_io import read_pair, same_shape
from tests.floodnet_fixtures import paint, write_labeled, write_pair, write_supervised


def test_the_challenges_layout_is_found_from_three_folders_and_split_by_group(tmp_path):
    write_labeled(tmp_path, flooded=5, dry=10)
    for start in (tmp_path, tmp_path / "Train", tmp_path / "Train" / "Labeled"):
        parts, words = find_parts(start, "floodnet", 0.2, seed=1)
        assert [pair.group for pair in parts["val"]] == ["Flooded"] + ["Non-Flooded"] * 2
        assert len(parts["train"]) == 12 and "12 train, 3 val" in words
    names = {part: {pair.image.name for pair in pairs} for part, pairs in parts.items()}
    assert len(names["train"] | names["val"]) == 15
    assert all(pair.mask.name == f"{pair.image.stem}_lab.png" for pair in parts["train"])


def test_the_split_follows_from_the_seed(tmp_path):
    write_labeled(tmp_path, flooded=5, dry=10)
    chosen = [str(find_parts(tmp_path, "floodnet", 0.2, seed)[0]["val"]) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_the_supervised_layout_brings_its_own_parts(tmp_path):
    parts, words = find_parts(write_supervised(tmp_path), "floodnet")
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 4, "val": 2, "test": 2}
    assert parts["test"][0].image == tmp_path / "test" / "test-org-img" / "test0.jpg"
    assert parts["test"][0].mask == tmp_path / "test" / "test-label-img" / "test0_lab.png"


def test_folders_of_splits_may_have_other_names(tmp_path):
    folder = write_supervised(tmp_path)
    for old, new in {"val": "Validation", "train": "TRAIN", "test": "Test"}.items():
        (folder / old).rename(folder / new)
    parts, _ = find_parts(folder, "floodnet")
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 4, "val": 2, "test": 2}
    assert parts["val"][0].mask == folder / "Validation" / "val-label-img" / "val0_lab.png"
    (folder / "valid").mkdir()
    with pytest.raises(ValueError, match="Validation and .*valid: two folders of one split"):
        find_parts(folder, "floodnet")


def test_the_supervised_layout_without_val_is_split(tmp_path):
    parts, words = find_parts(write_supervised(tmp_path, (("train", 5),)), "floodnet")
    assert (len(parts["train"]), len(parts["val"])) == (4, 1)
    assert "held out" in words


def test_a_mask_at_another_resolution_takes_the_nearest_values_and_the_image_its_means(tmp_path):
    labels = np.repeat([[1, 1, 5, 5], [9, 9, 5, 5]], 2, 0).astype(np.uint8)  # 4 x 4
    write_pair(tmp_path / "i", tmp_path / "m", "a", labels.repeat(16, 0).repeat(16, 1), np.random.default_rng(0))
    (pair,) = match(tmp_path / "i", tmp_path / "m", "")
    found = read_pair(pair, image_size=4)
    assert found.shape == (4, 4, 4)
    assert found[3].tolist() == labels.tolist()
    assert read_pair(pair, scale=0.5).shape == (4, 32, 32)
    assert read_pair(pair, image_size=1000).shape == (4, 64, 64)  # never enlarged


def known_case(tmp_path):
    """Ground of 230 x 154 pixels (as 4592 x 3072), whose mask covers the top-left 200 x 150 (as 4000 x 3000)."""
    ground = np.full((154, 230), 9, np.uint8)
    ground[:, 100:115] = 5
    ground[70:90] = 1
    images, masks = tmp_path / "i", tmp_path / "m"
    images.mkdir(), masks.mkdir()
    Image.fromarray(paint(ground, np.random.default_rng(0))).save(images / "a.png")
    Image.fromarray(ground[:150, :200].repeat(4, 0).repeat(4, 1)).save(masks / "a_lab.png")
    return match(images, masks, "")[0], ground


def test_a_mask_that_covers_the_top_left_of_its_photograph_is_laid_there_and_not_stretched(tmp_path):
    pair, ground = known_case(tmp_path)
    found = read_pair(pair)
    assert found.shape == (4, 150, 200)
    from_colors = np.abs(found[:3, ..., None].astype(int) - paint_of_classes()).sum(0).argmin(-1)
    assert (from_colors == found[3]).mean() > 0.98
    stretched = np.asarray(Image.open(pair.mask).resize((230, 154), Image.Resampling.NEAREST))
    assert (stretched == ground).mean() < 0.9


def paint_of_classes():
    from tests.floodnet_fixtures import COLORS

    return COLORS.T[:, None, None].astype(int)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photograph_is_turned_upright_under_its_mask(tmp_path, orientation):
    labels = np.kron(np.array([[1, 5], [9, 2]]), np.ones((16, 32))).astype(np.uint8)
    images, masks = tmp_path / "i", tmp_path / "m"
    write_pair(images, masks, "a", labels, np.random.default_rng(0), times=1)
    (images / "a.jpg").unlink()
    upright = Image.fromarray(paint(labels, np.random.default_rng(0)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    upright.transpose(stored).save(images / "a.png", exif=exif)
    found = read_pair(match(images, masks, "")[0])
    from_colors = np.abs(found[:3, ..., None].astype(int) - paint_of_classes()).sum(0).argmin(-1)
    assert np.array_equal(found[3], labels) and (from_colors == labels).mean() > 0.98


def test_images_deeper_than_8_bits_need_levels(tmp_path):
    images, masks = tmp_path / "i", tmp_path / "m"
    labels = np.zeros((32, 32), np.uint8)
    write_pair(images, masks, "a", labels, np.random.default_rng(0), times=1)
    (images / "a.jpg").unlink()
    values = np.random.default_rng(0).integers(0, 2750, (32, 32)).astype(np.uint16)
    Image.fromarray(values).save(images / "a.png")
    pair = match(images, masks, "")[0]
    with pytest.raises(ValueError, match=r"a\.png holds uint16, not 8-bit colors; .*--levels"):
        read_pair(pair)
    expected = (values * (255 / 2750)).round()
    assert np.array_equal(read_pair(pair, levels=(0, 2750))[:3], [expected] * 3)
    files = [
        CachedPairs([pair], tmp_path / "copies", "floodnet", levels=levels).files for levels in ((0, 2750), (0, 9))
    ]
    assert files[0] != files[1]


def test_other_shapes_are_refused_with_both_sizes(tmp_path):
    images, masks = tmp_path / "i", tmp_path / "m"
    write_pair(images, masks, "a", np.zeros((48, 64), np.uint8), np.random.default_rng(0))
    Image.fromarray(np.zeros((100, 160), np.uint8)).save(masks / "a_lab.png")
    with pytest.raises(ValueError, match=r"a\.jpg is 64 x 48 pixels.*a_lab\.png 160 x 100: not the same part"):
        read_pair(match(images, masks, "")[0])


@pytest.mark.parametrize(
    "one, other, same",
    [((1000, 750), (4000, 3000), True), ((1000, 668), (4000, 3000), False), ((1000, 668), (4592, 3072), True),
     ((1000, 749), (4000, 3000), True), ((1000, 747), (4000, 3000), False), ((3000, 4000), (4000, 3000), False)],
)  # fmt: skip
def test_shapes_agree_but_for_a_pixel_of_rounding(one, other, same):
    assert same_shape(one, other) is same
    assert same_shape(other, one) is same


def pair_with_mask(tmp_path, values, classes=10):
    write_pair(tmp_path / "i", tmp_path / "m", "a", np.zeros((8, 8), np.uint8), np.random.default_rng(0))
    Image.fromarray(values).save(tmp_path / "m" / "a_lab.png")
    return match(tmp_path / "i", tmp_path / "m", "", classes)[0]


def test_a_value_that_is_no_class_is_named_with_its_file(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[3, 4] = 17
    with pytest.raises(ValueError, match=r"a_lab\.png holds the value 17; 0 to 9 are the classes"):
        read_pair(pair_with_mask(tmp_path, values))
    with pytest.raises(ValueError, match=r"a_lab\.png holds the value 17; 0 and 1 \(or 255\)"):
        read_pair(pair_with_mask(tmp_path, values, classes=2))


def test_masks_of_two_values_may_be_255(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[0] = 255
    assert read_pair(pair_with_mask(tmp_path, values, classes=2))[3].tolist() == [[1] * 8] + [[0] * 8] * 7


def test_a_colored_mask_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a_lab\.png has 3 channels: a color rendering of the mask"):
        read_pair(pair_with_mask(tmp_path, np.zeros((8, 8, 3), np.uint8)))


def test_a_file_without_its_other_half_is_named(tmp_path):
    group = write_labeled(tmp_path) / "Train" / "Labeled" / "Flooded"
    (group / "mask" / "F1_lab.png").unlink()
    with pytest.raises(ValueError, match=r"image: 1 of 4 files have no mask: F1\.jpg"):
        find_parts(tmp_path, "floodnet")
    (group / "image" / "F1.jpg").unlink()
    (group / "image" / "F2.jpg").unlink()
    with pytest.raises(ValueError, match=r"mask: 1 of 3 files have no image: F2_lab\.png"):
        find_parts(tmp_path, "floodnet")
    shutil.rmtree(group / "mask")
    with pytest.raises(FileNotFoundError, match="no folder at .*Flooded/mask"):
        find_parts(tmp_path, "floodnet")


def test_folders_that_hold_nothing_are_refused_with_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match="none of the layouts known here: Train/Labeled"):
        find_parts(tmp_path, "floodnet")
    with pytest.raises(FileNotFoundError, match="no folder at .*nowhere"):
        find_parts(tmp_path / "nowhere", "floodnet")
    (tmp_path / "meta.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match="was not written by make_harvey_patches"):
        find_parts(tmp_path, "building")


def test_a_corrupt_image_is_named(tmp_path):
    pairs = match(*(write_labeled(tmp_path) / "Train" / "Labeled" / "Flooded" / what for what in ("image", "mask")), "")
    for number, path in enumerate((pairs[0].image, pairs[1].mask)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
            CachedPairs(pairs[number : number + 1], tmp_path / "copies", "floodnet")


def test_the_two_building_classes_are_buildings_and_one_of_them_flooded():
    names = np.array(FLOODNET)
    assert set(names[label_map("building", 10) == 1]) == {"building flooded", "building non-flooded"}
    assert set(names[label_map("flooded", 10) == 1]) == {"building flooded"}
    assert label_map("flooded", 2).tolist() == [0, 1]


def test_copies_are_made_once_and_again_when_a_file_or_the_size_has_changed(tmp_path):
    pairs = find_parts(write_labeled(tmp_path), "floodnet")[0]["train"]
    first = CachedPairs(pairs, tmp_path / "copies", "floodnet", image_size=32)
    made = {file: file.stat().st_mtime_ns for file in first.files}
    again = CachedPairs(pairs, tmp_path / "copies", "building", image_size=32)
    assert {file: file.stat().st_mtime_ns for file in again.files} == made
    assert first.sizes[0] == (24, 32) and first.scale == 0.5
    assert set(np.unique(again.labels(0))) == {0, 1}
    assert set(CachedPairs(pairs, tmp_path / "copies", "floodnet", image_size=48).files).isdisjoint(made)
    Image.fromarray(np.zeros((96, 128), np.uint8)).save(pairs[0].mask)
    first.files[1].write_bytes(first.files[1].read_bytes()[:500])  # spoilt
    now = CachedPairs(pairs, tmp_path / "copies", "floodnet", image_size=32)
    assert not now.labels(0).any()
    assert now.files[1].stat().st_size == now.files[2].stat().st_size
    assert not list((tmp_path / "copies").glob(".*partial*"))


def test_squares_move_image_and_mask_alike_and_follow_from_their_number(tmp_path):
    labels = np.zeros((48, 64), np.uint8)
    labels[12:34, 20:47] = 1  # every square shows some of it
    images, masks = tmp_path / "i", tmp_path / "m"
    images.mkdir(), masks.mkdir()
    Image.fromarray(labels[..., None].repeat(3, 2) * 255).save(images / "a.png")
    Image.fromarray(labels).save(masks / "a.png")
    copies = CachedPairs([Pair(images / "a.png", masks / "a.png", "", 2)], tmp_path / "copies", "building")
    squares = RandomCrops(copies, 32, repeats=3)
    assert len(squares) == 3
    seen, truth = squares.__getitems__([(0, draw) for draw in range(60)])
    assert seen.shape == (60, 3, 32, 32) and seen.dtype == torch.uint8 and truth.shape == (60, 32, 32)
    agree = ((seen.float().mean(1) > 110) == truth.bool()).float().mean((1, 2))
    assert agree.min() > 0.93 and agree.mean() > 0.97  # but for the blurred edges of enlarged squares
    again = squares.__getitems__([(2, draw) for draw in range(60)])
    assert torch.equal(again[0], seen) and torch.equal(again[1], truth)
    assert len(truth.unique(dim=0)) > 50


def test_the_side_of_the_squares_fits_into_the_smallest_image():
    assert default_side([(188, 250), (163, 218)]) == 160
    assert default_side([(3000, 4000)]) == 512


@pytest.mark.real_data
def test_real_masks_of_the_668_rows_explain_the_colors_better_where_they_are_laid_than_stretched(real_data):
    folder = real_data / "floodnet" / "Train" / "Labeled" / "Flooded"
    pairs = match(folder / "image", folder / "mask", "Flooded")
    chosen = [pair for pair in pairs if Image.open(pair.image).size == (1000, 668)][4:20:5]
    for pair in chosen:
        found = read_pair(pair, image_size=400)
        assert found.shape == (4, 261, 348)
        stretched = np.asarray(Image.open(pair.image).resize((348, 261), Image.Resampling.BOX)).transpose(2, 0, 1)
        assert explained(found[:3], found[3]) > 1.3 * explained(stretched, found[3])


def explained(image, labels):
    """Share of the variance of colors that lies between the classes."""
    image = image.reshape(3, -1).astype(float)
    means = {n: image[:, labels.ravel() == n].mean(1) for n in np.unique(labels)}
    between = np.stack([means[n] for n in labels.ravel()], 1)
    return between.var(1).sum() / image.var(1).sum()
