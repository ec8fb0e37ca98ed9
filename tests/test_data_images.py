"""One reader of image files for all data sets: depth, bands, orientation, memory, drivers and statistics."""

import os
import struct
import zlib

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.enums import ColorInterp

from downstream.eurosat_landcover_clsf_task.dataset import Scenes
from preprocessing.audit.samples import open_image
from preprocessing.fmow.index import channel_statistics
from preprocessing.sn7.index import Mosaic
from preprocessing.sn7.reduce import reduce_mosaic
from vicreg.data.broken_files import find_broken
from vicreg.data.image_crops import read_crops, read_square
from vicreg.data.image_dataset import ImageDataset
from vicreg.data.image_folder import load_folder
from vicreg.data.image_io import MAX_PIXELS, WHOLE, ImageError, UnsupportedImage
from vicreg.data.images import image_size, load_rgb, open_reader
from vicreg.data.rasters import quiet_georeference
from vicreg.data.sn7_format import read_mosaic

CPU = torch.device("cpu")


def write_tiff(path, pixels, **profile):
    """Write an array (bands, height, width)."""
    bands, height, width = pixels.shape
    shape = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with quiet_georeference(), rasterio.open(path, "w", **shape, **profile) as raster:
        raster.write(pixels)
    return path


def write_tree(root, write):
    """Write <root>/<class>/<n>.tif, two images of two classes; ``write(path, level)`` with levels 0 to 3."""
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for n in range(2):
            write(root / name / f"{n}.tif", 2 * label + n)
    return root


def planes(level, dtype, low=0, high=3000):
    return np.full((3, 8, 8), low + (high - low) * level / 3).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint16", 0, 3000), ("float32", 0, 1), ("int32", -300, 900), ("int16", 0, 600)]
)
@pytest.mark.parametrize("check", [True, False])
def test_load_folder_needs_levels_for_deeper_images(tmp_path, dtype, low, high, check):
    tree = write_tree(tmp_path / "tree", lambda path, level: write_tiff(path, planes(level, dtype, low, high)))
    with pytest.raises(UnsupportedImage, match=rf"\.tif holds {dtype}, not 8-bit colors; .*--levels LOW HIGH"):
        load_folder(tree, 8, check)[0].images([0, 1])
    train, val, _ = load_folder(tree, 8, check, levels=(low, high))
    found = sorted(int(part.images([n])[0, 0, 0, 0]) for part in (train, val) for n in range(len(part)))
    assert found == [0, 85, 170, 255] and train.levels == (low, high)
    assert train.content_bytes([0]) != load_folder(tree, 8, check, levels=(low, high + 1))[0].content_bytes([0])


def test_16_bit_gray_png_is_refused_before_the_run(tmp_path):
    Image.fromarray(np.full((8, 8), 90 * 256, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedImage, match="a.png holds uint16.*from 2.304e.04 to 2.304e.04"):
        find_broken([tmp_path / "a.png"])
    assert (read_crops(tmp_path / "a.png", [(WHOLE, 0)], 4, levels=(0, 51200))[0] == 115).all()


def test_an_unsupported_image_is_not_replaced_by_another_and_its_message_survives_a_loader_process(tmp_path):
    write_tiff(tmp_path / "a.tif", planes(1, "uint16"))
    write_tiff(tmp_path / "b.tif", planes(1, "uint8", 0, 90))
    dataset = ImageDataset([tmp_path / "a.tif", tmp_path / "b.tif"], [0, 0], ["x"], side=8)
    with pytest.raises(UnsupportedImage, match="a.tif holds uint16"):
        dataset.images([0])
    text = (
        "Caught UnsupportedImage in DataLoader worker process 0.\nOriginal Traceback\n  x\na.b.UnsupportedImage: a.tif"
    )
    assert str(UnsupportedImage(text)) == "a.tif"


def test_bands_follow_their_colors_or_the_option(tmp_path):
    pixels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2) * 20 + 10
    path = write_tiff(tmp_path / "bgr.tif", pixels[:3])
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    for read in (lambda p: read_crops(p, [(WHOLE, 0)], 8)[0], lambda p: np.asarray(load_rgb(p)).transpose(2, 0, 1)):
        assert read(path)[:, 0, 0].tolist() == [50, 30, 10]
    assert open_image(path)[0, 0].tolist() == [50, 30, 10]
    assert read_mosaic(path)[:, 0, 0].tolist() == [50, 30, 10]
    reduce_mosaic(Mosaic(path, None, 8, 8, None, ()), tmp_path / "reduced.tif", 4)
    assert read_mosaic(tmp_path / "reduced.tif")[:, 0, 0].tolist() == [50, 30, 10]
    four = write_tiff(tmp_path / "four.tif", pixels, photometric="MINISBLACK", alpha="no")
    dataset = ImageDataset([four], [0], ["x"], side=8, bands=(4, 3, 2))
    assert dataset.images([0])[0, :, 0, 0].tolist() == [70, 50, 30]
    with pytest.raises(UnsupportedImage, match="four.tif has 4 band.s.; there are no bands 5 1 1"):
        find_broken([four], bands=(5, 1, 1))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_turns_images_upright(tmp_path, orientation, suffix):
    stored = np.random.default_rng(0).integers(1, 256, (6, 9, 3), dtype=np.uint8)
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1), 7: np.rot90(stored.swapaxes(0, 1), 2), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    assert image_size(path) == upright.shape[1::-1]
    assert np.array_equal(np.asarray(load_rgb(path)), upright) and np.array_equal(open_image(path), upright)
    with open_reader(path) as reader:
        found = reader.read(0, 0, reader.height, reader.width)[0]
        assert np.array_equal(found.transpose(1, 2, 0), upright) and reader.source_size == upright.shape[1::-1]
    square = upright[1:7] if orientation >= 5 else upright[:, 1:7]
    assert np.array_equal(read_square(path, 6).transpose(1, 2, 0), square)


def test_a_georeferenced_tiff_keeps_the_order_that_its_georeference_is_of(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    stored = np.random.default_rng(0).integers(1, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.tif", exif=exif)
    with rasterio.open(tmp_path / "a.tif", "r+") as raster:
        raster.crs, raster.transform = "EPSG:3857", rasterio.Affine(1, 0, 5, 0, -1, 9)
    with open_reader(tmp_path / "a.tif") as reader:
        assert np.array_equal(reader.read(0, 0, 6, 9)[0].transpose(1, 2, 0), stored) and reader.transform.c == 5


def test_ground_control_points_without_crs_are_no_georeference(tmp_path):
    path, exif = tmp_path / "a.tif", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 6)).save(path, exif=exif)
    points = "".join(f'<GCP Pixel="{x}" Line="{y}" X="{x}" Y="{y}"/>' for x, y in ((0, 0), (0, 6), (9, 0)))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset><GCPList>{points}</GCPList></PAMDataset>")
    with open_reader(path) as reader:
        assert reader.gcps is None and (reader.width, reader.height) == image_size(path) == (6, 9)
    reduce_mosaic(Mosaic(path, None, 9, 6, None, ()), tmp_path / "reduced.tif", 3)
    with rasterio.open(tmp_path / "reduced.tif") as reduced:
        assert reduced.gcps == ([], None)


def test_pixels_without_data_are_black_in_training(tmp_path):
    rgba = np.full((4, 8, 8), 90, np.uint8)
    rgba[3] = 255
    rgba[3, :, :4] = 0
    expected = np.where(np.arange(8) < 4, 0, 90)
    write_tiff(tmp_path / "alpha.tif", rgba, photometric="RGB", alpha="yes")
    Image.fromarray(rgba.transpose(1, 2, 0)).save(tmp_path / "alpha.png")
    colors = rgba[:3].transpose(1, 2, 0).copy()
    colors[:, :4] = 7, 8, 9
    Image.fromarray(colors).save(tmp_path / "key.png", transparency=(7, 8, 9))
    for name in ("alpha.tif", "alpha.png", "key.png"):
        assert np.array_equal(read_square(tmp_path / name, 8)[0], np.tile(expected, (8, 1))), name
        assert np.array_equal(np.asarray(load_rgb(tmp_path / name))[..., 1], np.tile(expected, (8, 1)))
    assert np.array_equal(read_mosaic(tmp_path / "alpha.tif")[2], np.tile(expected, (8, 1)))


def test_statistics_leave_black_pixels_out(tmp_path):
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    pixels[0, :, :2] = np.array([51, 102, 204])[:, None, None]
    pixels[0, 0, 0] = 0  # one channel of a pixel may be 0
    mean, std = Scenes(torch.from_numpy(pixels), torch.zeros(2, dtype=torch.int64), ["x"]).statistics()
    assert mean == [0.1, 0.4, 0.8] and std == [0.1, 0.001, 0.001]
    with pytest.raises(ValueError, match="all training images are black"):
        Scenes(torch.from_numpy(pixels[1:]), torch.zeros(1, dtype=torch.int64), ["x"]).statistics()
    paths = [tmp_path / f"{n}.png" for n in range(2)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    mean, std = channel_statistics(ImageDataset(paths, [0, 0], ["x"], side=4))
    assert mean == pytest.approx([0.1, 0.4, 0.8]) and std == pytest.approx([0.1, 1 / 255, 1 / 255])


def blank_png(path, side):
    """Write the header of a PNG of side x side pixels with compressed zeros for a few rows."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return path


def test_more_pixels_than_fit_into_memory_are_refused(tmp_path):
    path = blank_png(tmp_path / "bomb.png", 53_000)
    assert 53_000**2 > MAX_PIXELS
    for read in (open_reader, load_rgb, image_size, open_image, lambda p: read_square(p, 8)):
        with pytest.raises(ImageError, match="bomb.png cannot be read .53000 x 53000 pixels, and at most 268 million"):
            read(path)
    assert "53000 x 53000 pixels" in find_broken([path])[0]
    sparse = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "sparse_ok": True}
    with quiet_georeference(), rasterio.open(tmp_path / "large.tif", "w", height=20_000, width=20_000, **sparse):
        pass
    assert "20000 x 20000 pixels" in find_broken([tmp_path / "large.tif"])[0]
    with open_reader(tmp_path / "large.tif") as reader:  # windows are read
        assert reader.read(19_000, 19_000, 10, 10)[0].shape == (3, 10, 10)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        for read in (open_reader, load_rgb, lambda p: read_square(p, 8)):
            with pytest.raises(ImageError, match=rf"{name} cannot be read .not a regular file"):
                read(tmp_path / name)
    assert find_broken([tmp_path / "a.jpg"]) == {0: "not a regular file"}
    with pytest.raises(ImageError, match="cannot be read"):
        read_square("/vsicurl/http://localhost:9/a.tif", 8)


def test_a_vrt_is_not_followed_whatever_its_name(tmp_path):
    write_tiff(tmp_path / "real.tif", planes(3, "uint8", 0, 90))
    band = '<VRTRasterBand dataType="Byte" band="{}"><SimpleSource><SourceFilename relativeToVRT="1">real.tif'
    band += "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    text = f'<VRTDataset rasterXSize="8" rasterYSize="8">{"".join(band.format(n) for n in (1, 2, 3))}</VRTDataset>'
    for suffix in (".tif", ".jp2", ".png", ".jpg"):
        (tmp_path / f"fake{suffix}").write_text(text)
        for read in (open_reader, load_rgb, open_image, lambda p: read_square(p, 8), image_size):
            with pytest.raises(ValueError, match=rf"fake\{suffix} cannot be read"):
                read(tmp_path / f"fake{suffix}")
    with pytest.raises(ValueError, match="fake.tif cannot be read"):
        read_mosaic(tmp_path / "fake.tif")


def test_formats_are_known_by_their_content(tmp_path):
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    image.save(tmp_path / "jpeg.tif", "JPEG")
    image.save(tmp_path / "tiff.jpg", "TIFF")
    assert all((read_square(tmp_path / name, 8) == 90).all() for name in ("jpeg.tif", "tiff.jpg"))
