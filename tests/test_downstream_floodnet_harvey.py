"""Harvey tiles as patches: masks laid on the image, whole tiles held out, folders that appear whole or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from downstream.FloodNet_segmentation_task import make_harvey_patches
from downstream.FloodNet_segmentation_task.floodnet import find_parts
from downstream.FloodNet_segmentation_task.harvey import find_tiles, patch_corners, read_tile, split_tiles
from tests.conftest import call_script
from tests.floodnet_fixtures import write_harvey, write_raster, write_tile


def make(data_dir, out_dir, *more):
    words = [
        "--data-dir",
        str(data_dir),
        "--out-dir",
        str(out_dir),
        "--patch-size",
        "32",
        "--workers",
        "1",
        *map(str, more),
    ]
    make_harvey_patches.main(make_harvey_patches.get_parser().parse_args(words))
    return json.loads((out_dir / "meta.json").read_text())


def test_the_script_cuts_tiles_into_patches_of_their_own_part(tmp_path):
    out = tmp_path / "patches"
    ran = call_script(
        "downstream/FloodNet_segmentation_task/make_harvey_patches.py", "--data-dir", write_harvey(tmp_path / "harvey"),
        "--out-dir", out, "--patch-size", 32, "--val-fraction", 0.25,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    meta = json.loads((out / "meta.json").read_text())
    assert "18 patches of 32 px" in ran.stdout and meta["counts"]["train"]["patches"] == 18  # 3 tiles of 3 x 2
    tiles = {part: {p.name.rpartition("__")[0] for p in (out / part / "image").iterdir()} for part in ("train", "val")}
    assert tiles["train"].isdisjoint(tiles["val"])
    assert tiles == {part: set(meta["split"][part]) for part in tiles}
    assert sorted(path.name for path in out.iterdir()) == ["meta.json", "train", "val"]


@pytest.mark.parametrize("georeference", [True, False])
def test_every_patch_pixel_has_the_label_of_its_ground(tmp_path, georeference):
    tile = tmp_path / "harvey" / "east" / "t1"
    labels = write_tile(tile, np.random.default_rng(1), georeference=georeference)
    meta = make(tmp_path / "harvey", tmp_path / "out", "--val-fraction", "0")
    on_image = labels.repeat(2, 0).repeat(2, 1)  # 1 m on 0.5 m
    found = {kind: np.zeros_like(on_image) for kind in ("building", "flooded")}
    for kind, whole in found.items():
        for path in (tmp_path / "out" / "train" / kind).iterdir():
            top, left = map(int, path.stem.rpartition("__")[2].split("_"))
            whole[top : top + 32, left : left + 32] = np.asarray(Image.open(path))
    assert np.array_equal(found["building"], on_image > 0)
    assert np.array_equal(found["flooded"], on_image == 1)
    assert meta["counts"]["train"]["building"] == pytest.approx((labels > 0).mean())


def test_a_mask_with_a_georeference_is_laid_by_it_whatever_its_extent(tmp_path):
    labels = write_tile(tmp_path, np.random.default_rng(2))
    wider = np.pad((labels > 0).astype(np.uint8), ((3, 2), (5, 9)))
    write_raster(tmp_path / "buildings1m.tif", wider[None], 1.0, left=250000.0 - 5, top=3300000.0 + 3)
    _, masks = read_tile(tmp_path)
    assert np.array_equal(masks["building"], (labels > 0).repeat(2, 0).repeat(2, 1))


def test_a_mask_in_other_coordinates_is_laid_on_the_image(tmp_path):
    from rasterio import warp

    write_tile(tmp_path, np.random.default_rng(2))
    left, bottom, right, top = warp.transform_bounds("EPSG:32615", "EPSG:32614", 249900, 3299900, 250150, 3300100)
    border = round((right - left) * 0.45)  # meters from the left, in the mask's own coordinates
    half = np.zeros((1, round(top - bottom), round(right - left)), np.uint8)
    half[:, :, :border] = 1
    write_raster(tmp_path / "flooded1m.tif", half, 1.0, left=left, top=top, crs="EPSG:32614")
    _, masks = read_tile(tmp_path)
    rows, columns = np.mgrid[:64, :96] + 0.5
    x, _ = warp.transform("EPSG:32615", "EPSG:32614", (250000 + columns.ravel() / 2), (3300000 - rows.ravel() / 2))
    expected = (np.array(x) < left + border).reshape(64, 96)
    assert 0.1 < expected.mean() < 0.9
    assert (masks["flooded"] == expected).mean() > 0.99


def test_a_mask_of_other_ground_is_refused(tmp_path):
    write_tile(tmp_path, np.random.default_rng(2))
    write_raster(tmp_path / "flooded1m.tif", np.zeros((1, 32, 48), np.uint8), 1.0, left=250010.0)
    with pytest.raises(ValueError, match=r"flooded1m\.tif covers 79% of .*vhr\.tif by their georeferences"):
        read_tile(tmp_path)


def test_a_mask_of_another_shape_without_georeference_is_refused_with_both_sizes(tmp_path):
    write_tile(tmp_path, np.random.default_rng(2), georeference=False)
    write_raster(tmp_path / "flooded1m.tif", np.zeros((1, 32, 40), np.uint8))
    with pytest.raises(ValueError, match=r"flooded1m\.tif is 40 x 32 pixels and .*vhr\.tif 96 x 64"):
        read_tile(tmp_path)

    image, masks = read_tile(tmp_path, stretch=True)
    assert masks["flooded"].shape == image.shape[1:] and image.any(0).all()


def test_an_image_in_degrees_takes_masks_in_meters_and_is_black_where_they_end(tmp_path):
    """As the published tiles are: 960 x 960 pixels of 1 m beside an image of another shape."""
    from rasterio import Affine, transform, warp
    from rasterio import open as open_raster

    write_tile(tmp_path, np.random.default_rng(2))
    square = np.zeros((1, 48, 48), np.uint8)
    square[:, :24] = 1  # the northern half
    for name in ("buildings1m.tif", "flooded1m.tif"):
        write_raster(tmp_path / name, square, 1.0)
    left, bottom, right, top = warp.transform_bounds("EPSG:32615", "EPSG:4326", 250000, 3299952, 250048, 3300000)
    grid = Affine((right - left) / 98, 0, left, 0, (bottom - top) / 113, top)
    profile = {"driver": "GTiff", "width": 98, "height": 113, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    with open_raster(tmp_path / "vhr.tif", "w", transform=grid, **profile) as raster:
        raster.write(np.full((3, 113, 98), 90, np.uint8))
    image, masks = read_tile(tmp_path)
    rows, columns = np.mgrid[:113, :98]
    x, y = transform.xy(grid, rows.ravel(), columns.ravel())
    x, y = (np.array(values).reshape(113, 98) for values in warp.transform("EPSG:4326", "EPSG:32615", x, y))
    inside = (x >= 250000) & (x < 250048) & (y > 3299952) & (y <= 3300000)
    assert 0.9 < inside.mean() < 1
    assert (image.any(0) == inside).mean() > 0.995
    assert ((masks["building"] == 1) == (inside & (y > 3299976))).mean() > 0.99


def test_no_data_in_a_mask_is_no_building(tmp_path):
    labels = write_tile(tmp_path, np.random.default_rng(2))
    with rasterio.open(tmp_path / "buildings1m.tif") as raster:
        profile = raster.profile
    values = np.where(labels > 0, 1, 0).astype(np.int16)
    values[0] = -9999
    with rasterio.open(tmp_path / "buildings1m.tif", "w", **(profile | {"dtype": "int16"})) as raster:
        raster.write(values[None])
    _, masks = read_tile(tmp_path)
    assert not masks["building"][:2].any()
    assert np.array_equal(masks["building"][2:], (labels > 0).repeat(2, 0).repeat(2, 1)[2:])


@pytest.mark.parametrize("values, wrong", [((0, 1, 7), 7), ((0, 1, 255), 255), ((3, 4), 3)])
def test_a_mask_with_other_values_is_refused_with_the_value(tmp_path, values, wrong):
    write_tile(tmp_path, np.random.default_rng(2))
    pixels = np.resize(np.array(values, np.uint8), (1, 32, 48))
    write_raster(tmp_path / "buildings1m.tif", pixels, 1.0)
    with pytest.raises(ValueError, match=rf"buildings1m\.tif holds the value {wrong}; 0 and 1"):
        read_tile(tmp_path)


def test_a_damaged_or_two_band_image_is_refused_by_name(tmp_path):
    write_tile(tmp_path, np.random.default_rng(2))
    whole = (tmp_path / "vhr.tif").read_bytes()
    (tmp_path / "vhr.tif").write_bytes(whole[:3000])
    with pytest.raises(ValueError, match=r"vhr\.tif cannot be read"):
        read_tile(tmp_path)
    write_raster(tmp_path / "vhr.tif", np.zeros((2, 64, 96), np.uint8), 0.5)
    with pytest.raises(ValueError, match=r"vhr\.tif has 2 bands; one .gray. or three"):
        read_tile(tmp_path)


def test_missing_files_and_empty_folders_are_named(tmp_path):
    (write_harvey(tmp_path / "harvey") / "region0" / "tile0" / "flooded1m.tif").unlink()
    with pytest.raises(FileNotFoundError, match="1 file.s. missing: .*region0/tile0/flooded1m.tif"):
        find_tiles(tmp_path / "harvey")
    with pytest.raises(ValueError, match="holds no <region>/<tile>/vhr.tif"):
        find_tiles(tmp_path / "harvey" / "region0")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        find_tiles(tmp_path / "nowhere")


def test_links_to_tiles_and_regions_are_no_further_tiles(tmp_path):
    data = write_harvey(tmp_path / "harvey")
    before = find_tiles(data)
    (data / "a_region").symlink_to(before[0].parent)
    before[-1].with_name("a_tile").symlink_to(before[-1])
    assert len({tile.resolve() for tile in find_tiles(data)}) == len(find_tiles(data)) == len(before)


def test_a_mask_of_several_bands_is_refused(tmp_path):
    write_tile(tmp_path / "east" / "t1", np.random.default_rng(1))
    write_raster(tmp_path / "east" / "t1" / "flooded1m.tif", np.ones((3, 48, 32), np.uint8))
    with pytest.raises(ValueError, match="flooded1m.tif cannot be read .3 bands or pages; a mask has one"):
        read_tile(find_tiles(tmp_path)[0])


def test_whole_tiles_are_held_out_by_the_seed():
    tiles = [Path(str(number)) for number in range(10)]
    parts = split_tiles(tiles, 0.3, 5)
    assert (len(parts["train"]), len(parts["val"])) == (7, 3)
    assert sorted(tile.name for part in parts.values() for tile in part) == [str(n) for n in range(10)]
    assert split_tiles(tiles, 0.3, 5) == parts
    assert any(split_tiles(tiles, 0.3, seed) != parts for seed in range(3))
    assert split_tiles(tiles, 0, 5) == {"train": tiles}
    with pytest.raises(ValueError, match="nothing is left to train on"):
        split_tiles(tiles[:1], 0.2, 0)
    with pytest.raises(ValueError, match="--val-fraction 1"):
        split_tiles(tiles, 1, 0)


def test_patches_cover_an_image_to_its_border():
    assert patch_corners(64, 100, 32, 32) == [(top, left) for top in (0, 32) for left in (0, 32, 64, 68)]
    seen = np.zeros((2263, 1973), bool)
    for top, left in patch_corners(2263, 1973, 512, 256):
        seen[top : top + 512, left : left + 512] = True
    assert seen.all()


def test_transparent_and_nodata_pixels_become_black_without_a_building(tmp_path):
    """A white collar with alpha 0 is not ground, and neither is one that the nodata value marks."""
    labels = write_tile(tmp_path, np.random.default_rng(2)).repeat(2, 0).repeat(2, 1)
    with rasterio.open(tmp_path / "vhr.tif") as raster:
        colors, profile = raster.read(), raster.profile
    collar = np.zeros((64, 96), bool)
    collar[:, :40] = True
    assert labels[collar].any()
    alpha = np.where(collar, 0, 255).astype(np.uint8)[None]
    with rasterio.open(tmp_path / "vhr.tif", "w", **(profile | {"count": 4})) as raster:
        raster.write(np.concatenate([np.where(collar, 255, colors).astype(np.uint8), alpha]))
        raster.colorinterp = [*raster.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    with_alpha = read_tile(tmp_path)
    with rasterio.open(tmp_path / "vhr.tif", "w", **(profile | {"nodata": 255})) as raster:
        raster.write(np.where(collar, 255, colors.clip(0, 254)).astype(np.uint8))
    with_nodata = read_tile(tmp_path)
    for image, masks in (with_alpha, with_nodata):
        assert not image[:, collar].any() and image[:, ~collar].any(0).all()
        assert np.array_equal(masks["building"], (labels > 0) & ~collar)


def test_deeper_images_need_levels(tmp_path):
    tile = tmp_path / "harvey" / "east" / "t1"
    write_tile(tile, np.random.default_rng(2))
    with rasterio.open(tile / "vhr.tif") as raster:
        colors, profile = raster.read(), raster.profile
    with rasterio.open(
        tmp_path / "harvey" / "east" / "t1" / "vhr.tif", "w", **(profile | {"dtype": "uint16"})
    ) as raster:
        raster.write(colors.astype(np.uint16) * 8)
    with pytest.raises(ValueError, match="vhr.tif holds uint16, not 8-bit colors; .*--levels"):
        make(tmp_path / "harvey", tmp_path / "out", "--val-fraction", 0)
    make(tmp_path / "harvey", tmp_path / "out", "--val-fraction", 0, "--levels", 0, 2040)
    patch = np.asarray(Image.open(tmp_path / "out" / "train" / "image" / "east__t1__00000_00000.png"))
    assert np.array_equal(patch.transpose(2, 0, 1), colors[:, :32, :32])


def test_black_patches_are_left_out(tmp_path):
    folder = tmp_path / "harvey" / "east" / "t1"
    write_tile(folder, np.random.default_rng(1))
    image = np.full((3, 64, 96), 90, np.uint8)
    image[:, :, :32] = 0
    write_raster(folder / "vhr.tif", image, 0.5)
    counts = make(tmp_path / "harvey", tmp_path / "out", "--val-fraction", "0")["counts"]["train"]
    assert (counts["patches"], counts["empty"]) == (4, 2)


def test_a_finished_folder_is_replaced_only_when_asked_and_a_failure_leaves_it(tmp_path):
    harvey, out = write_harvey(tmp_path / "harvey"), tmp_path / "out"
    make(harvey, out)
    with pytest.raises(ValueError, match="holds finished patches; --overwrite"):
        make(harvey, out)
    before = sorted(out.rglob("*"))
    broken = harvey / "region1" / "tile3" / "vhr.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="tile3/vhr.tif cannot be read"):
        make(harvey, out, "--overwrite")
    assert sorted(out.rglob("*")) == before
    broken.write_bytes(whole)
    assert make(harvey, out, "--overwrite", "--val-fraction", "0")["counts"]["train"]["patches"] == 24
    assert not (out / "val").exists()
    shutil.rmtree(out)
    broken.write_bytes(whole[:2000])
    with pytest.raises(ValueError):
        make(harvey, out)
    assert not out.exists()


def test_patches_larger_than_a_tile_and_gaps_are_refused(tmp_path):
    harvey = write_harvey(tmp_path / "harvey")
    with pytest.raises(ValueError, match=r"tile\d is 96 x 64 pixels; lower --patch-size 80"):
        make(harvey, tmp_path / "out", "--patch-size", "80")
    with pytest.raises(ValueError, match="--stride 40 leaves gaps"):
        make(harvey, tmp_path / "out", "--stride", "40")


def test_patches_of_which_none_were_held_out_are_split_by_whole_tiles(tmp_path):
    make(write_harvey(tmp_path / "harvey"), tmp_path / "out", "--val-percent", 0, "--stride", 8)
    for seed in range(3):
        parts, words = find_parts(tmp_path / "out", "building", 0.5, seed)
        train, val = ({pair.image.name[:17] for pair in parts[part]} for part in ("train", "val"))
        assert len(train) == len(val) == 2 and not train & val and "50 % of the tiles of each group held out" in words
    make(write_harvey(tmp_path / "one", tiles=1), tmp_path / "single", "--val-percent", 0)
    with pytest.raises(ValueError, match="cannot be split into training and validation; two tiles"):
        find_parts(tmp_path / "single", "building")


def test_patches_are_found_with_the_mask_of_their_task(tmp_path):
    make(write_harvey(tmp_path / "harvey"), tmp_path / "out")
    parts, _ = find_parts(tmp_path / "out", "flooded")
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 18, "val": 6}
    assert all(pair.mask.parent.name == "flooded" and pair.classes == 2 for pair in parts["train"])
    with pytest.raises(ValueError, match="have --task building and --task flooded only"):
        find_parts(tmp_path / "out", "floodnet")
