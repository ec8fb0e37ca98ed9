"""The bands and the depth that readers return: chosen bands, all bands of a file, alpha bands, and 16 bits."""

import numpy as np
import pytest
from PIL import Image

from tests.imagery_fixtures import ground, write_raster
from vicreg.data.image_crops import read_square
from vicreg.data.image_io import UnsupportedImage
from vicreg.data.images import open_reader
from vicreg.data.raster_bands import resolve_bands
from vicreg.data.raster_pack.scenes import read_scene
from vicreg.data.rasters import display_rgb, stack_images
from vicreg.data.resampling import resize


def test_bands_of_a_network_are_chosen_or_all_of_the_file():
    assert resolve_bands(None, 3) is None and resolve_bands(None, 13) == 13
    assert resolve_bands([8, 4, 3, 2], 4) == [8, 4, 3, 2]
    with pytest.raises(ValueError, match="--bands 1 2: the network takes 3 channels, so 3 numbers are needed"):
        resolve_bands([1, 2], 3)
    with pytest.raises(ValueError, match="--bands 0 1 2: bands are counted from 1"):
        resolve_bands([0, 1, 2], 3)


def test_bands_come_in_the_order_that_is_asked_for(tmp_path):
    pixels = ground(6, 20, 30, high=250).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", pixels)
    for bands, expected in ((6, pixels), ((6, 1, 1, 3, 2), pixels[[5, 0, 0, 2, 1]])):
        with open_reader(path, bands=bands) as reader:
            assert np.array_equal(reader.read(2, 3, 10, 20)[0], expected[:, 2:12, 3:23])
            assert reader.preview().shape == (3, 20, 30)
    with pytest.raises(UnsupportedImage, match=r"has 6 band\(s\), 13 are needed; choose them with --bands"):
        open_reader(path, bands=13)
    with pytest.raises(UnsupportedImage, match=r"has 6 band\(s\); there are no bands 7"):
        open_reader(path, bands=(7,))


def test_a_band_tagged_as_alpha_that_is_asked_for_is_no_mask(tmp_path):
    pixels = ground(4, 16, 16, high=250).astype(np.uint8)
    pixels[3, :8] = 0
    path = write_raster(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    with open_reader(path, bands=4) as reader:
        found, valid = reader.read(0, 0, 16, 16)
    assert np.array_equal(found, pixels) and valid.all()
    with open_reader(path) as reader:
        assert not reader.read(0, 0, 16, 16)[1][:8].any()


def test_deep_readers_keep_sixteen_bits_and_map_the_levels_to_the_whole_range(tmp_path):
    pixels = ground(5, 16, 16)
    path = write_raster(tmp_path / "a.tif", pixels)
    with open_reader(path, bands=5, levels=(0, 65535), deep=True) as reader:
        assert np.array_equal(reader.read(0, 0, 16, 16)[0], pixels)
    found = read_square(path, 16, 5, (1000, 6000), deep=True)
    assert found.dtype == np.uint16
    np.testing.assert_allclose(found, ((pixels.astype(float) - 1000) / 5000).clip(0, 1) * 65535, atol=1)
    assert read_square(path, 16, 5, (1000, 6000)).dtype == np.uint8
    with pytest.raises(UnsupportedImage, match="--levels"):
        read_square(path, 16, 5, deep=True)


def test_images_of_both_depths_stack_as_sixteen_bits():
    narrow, wide = np.full((2, 4, 4), 255, np.uint8), np.full((2, 4, 4), 7, np.uint16)
    assert stack_images([narrow, narrow]).dtype == np.uint8
    both = stack_images([narrow, wide])
    assert both.dtype == np.uint16 and (both[0] == 65535).all() and (both[1] == 7).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_many_bands_resizes_each_as_an_image(dtype):
    pixels = (80 + ground(5, 40, 60, high=90)).astype(dtype)  # PIL clips 8 bits after each axis
    for box in (None, (0, 0, 30.5, 20)):
        resized = resize(pixels, (10, 20), box)
        assert resized.dtype == dtype and resized.shape == (5, 10, 20)
        for band, found in zip(pixels.astype(np.uint8), resized, strict=True):
            expected = np.asarray(Image.fromarray(band).resize((20, 10), Image.Resampling.BICUBIC, box))
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_display_colors_are_the_first_three_bands_and_stretch_sixteen_bits():
    assert display_rgb(ground(1, 4, 4, high=250).astype(np.uint8)).shape == (3, 4, 4)
    shown = display_rgb(ground(5, 40, 40, high=3000))
    assert shown.dtype == np.uint8 and shown.shape == (3, 40, 40) and shown.max() == 255 and 100 < shown.mean() < 150


@pytest.mark.parametrize(
    ("profile", "match"),
    [
        ({"photometric": "MINISWHITE"}, "0 for white"), ({"nbits": 4}, "4 bits per value"),
        ({"count": 3, "photometric": "CIELAB", "interleave": "pixel"}, "colors in CIELAB"),
        ({"dtype": "complex64"}, "holds complex64"),
    ],
)  # fmt: skip
def test_values_that_are_no_colors_are_refused(tmp_path, profile, match):
    path = write_raster(tmp_path / "a.tif", np.ones((profile.get("count", 1), 16, 16), np.uint8), **profile)
    for levels in (None, (0, 255)):
        with pytest.raises(UnsupportedImage, match=match):
            open_reader(path, levels=levels)
    with pytest.raises(ValueError, match=match.replace("holds", "of type")):
        read_scene(str(path), path.name)


def test_a_tiff_of_several_pages_is_refused_since_the_first_alone_would_be_read(tmp_path):
    pages = [Image.fromarray(np.full((16, 16), value, np.uint8)) for value in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for bands in (None, 4):
        with pytest.raises(UnsupportedImage, match="4 pages"):
            read_square(tmp_path / "a.tif", 16, bands)
    with pytest.raises(ValueError, match="it has 4 pages"):
        read_scene(str(tmp_path / "a.tif"), "a.tif")


def test_portable_pixmaps_are_not_cut_to_8_bits(tmp_path):
    values = np.arange(0, 3600, 300).reshape(2, 2, 3)
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n2 2\n4095\n" + values.astype(">u2").tobytes())
    with pytest.raises(UnsupportedImage, match="holds uint16"):
        read_square(path, 2)
    found = read_square(path, 2, levels=(0, 3300))
    np.testing.assert_allclose(found, values.transpose(2, 0, 1) * (255 / 3300), atol=1)
    path.write_bytes(b"P6\n2 2\n255\n" + (values // 300).astype(np.uint8).tobytes())
    assert np.array_equal(read_square(path, 2), (values // 300).transpose(2, 0, 1))
