"""Reading images as 8-bit RGB (depth, bands, orientation, valid pixels) and writing labels where they lie."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling

from vicreg.data import raster_bands, resampling
from vicreg.data.image_crops import read_square
from vicreg.data.images import image_size, load_rgb, open_reader
from vicreg.data.rasters import NO_DATA, ImageReader, RasterReader, coarser, quiet_georeference
from vicreg.inference.image_files import check_outputs, find_images, process_images, raise_failures
from vicreg.inference.label_rasters import read_labels, write_label_png, write_label_raster

GRID = {"crs": "EPSG:32615", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5400000)}
PALETTE = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)


def write_tiff(path, pixels, interpretation=None, **profile):
    """Write an array (bands, height, width) as GeoTIFF."""
    bands, height, width = pixels.shape
    shape = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with quiet_georeference(), rasterio.open(path, "w", **shape, **profile) as raster:
        raster.write(pixels)
        if interpretation:
            raster.colorinterp = [ColorInterp[name] for name in interpretation]
    return path


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def whole(path, **options):
    with open_reader(path, **options) as reader:
        return reader.read(0, 0, reader.height, reader.width)


def corners(folder, orientation):
    """A JPEG of 32 x 16 pixels, black but for its stored top left quarter, with an EXIF orientation."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "photo.jpg", exif=exif, quality=100)
    return folder / "photo.jpg"


@pytest.mark.parametrize(
    ("orientation", "shape", "white"),
    [(1, (16, 32), (0, 0)), (3, (16, 32), (8, 16)), (6, (32, 16), (0, 8)), (8, (32, 16), (16, 0))],
)
def test_open_reader_turns_photographs_upright(tmp_path, orientation, shape, white):
    path = corners(tmp_path, orientation)
    pixels, _ = whole(path)
    expected = np.zeros(shape)
    expected[white[0] : white[0] + shape[0] // 2, white[1] : white[1] + shape[1] // 2] = 255
    assert pixels.shape[1:] == shape and image_size(path) == shape[::-1]
    assert np.abs(pixels.astype(int) - expected).mean() < 1
    assert np.abs(np.asarray(load_rgb(path, (8, 8))).mean(2).mean() - expected.mean()) < 2
    small = load_rgb(path, (shape[1] / 4, shape[0] / 4))
    assert small.size == (shape[1] // 4, shape[0] // 4)  # decoded at a quarter of its size


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_deeper_than_8_bits_needs_levels(tmp_path, suffix):
    values = noise(16, 24, high=4000, dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    if suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        write_tiff(path, np.stack([values] * 3))
    for read in (open_reader, load_rgb, lambda p: read_square(p, 8)):
        with pytest.raises(ValueError, match=rf"deep{suffix} holds uint16, not 8-bit colors; .*--levels"):
            read(path)
    expected = np.clip((values - 1000.0) * 255 / 2000, 0, 255).round()
    assert np.array_equal(whole(path, levels=(1000, 3000))[0], [expected] * 3)
    assert np.array_equal(np.asarray(load_rgb(path, levels=(1000, 3000))).transpose(2, 0, 1), [expected] * 3)
    assert np.array_equal(read_square(path, 16, levels=(1000, 3000)), [expected[:, 4:20]] * 3)


def test_16_bit_rgb_png_is_not_cut_to_its_upper_byte(tmp_path):
    values = noise(3, 8, 8, high=3000, dtype=np.uint16)
    with (
        quiet_georeference(),
        rasterio.open(tmp_path / "rgb.png", "w", driver="PNG", count=3, height=8, width=8, dtype="uint16") as raster,
    ):
        raster.write(values)
    with pytest.raises(ValueError, match="rgb.png holds uint16"):
        open_reader(tmp_path / "rgb.png")
    assert np.array_equal(whole(tmp_path / "rgb.png", levels=(0, 2550))[0], (values / 10).clip(0, 255).round())


@pytest.mark.parametrize(("dtype", "levels"), [("float32", (0.0, 1.0)), ("int32", (-50, 205)), ("int16", (0, 100))])
def test_every_deeper_type_is_scaled_by_its_levels(tmp_path, dtype, levels):
    low, high = levels
    values = (low + (high - low) * np.arange(6).reshape(1, 2, 3) / 5).repeat(3, 0).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", values)
    with pytest.raises(ValueError, match=f"a.tif holds {dtype}"):
        open_reader(path)
    expected = ((values.astype(float) - low) * 255 / (high - low)).round()
    assert np.abs(whole(path, levels=levels)[0] - expected).max() <= 1e-6


def test_8_bits_are_used_as_they_are_whatever_the_levels(tmp_path):
    pixels = noise(3, 8, 8)
    path = write_tiff(tmp_path / "a.tif", pixels)
    assert np.array_equal(whole(path, levels=(0, 2750))[0], pixels)


def test_bands_follow_the_color_interpretation(tmp_path):
    pixels = noise(3, 8, 8)
    path = write_tiff(tmp_path / "bgr.tif", pixels, ["blue", "green", "red"])
    assert np.array_equal(whole(path)[0], pixels[::-1])
    assert np.array_equal(whole(path, bands=(1, 2, 3))[0], pixels)
    with pytest.raises(ValueError, match=r"bgr.tif has 3 band\(s\); there are no bands 4 2 1"):
        open_reader(path, bands=(4, 2, 1))


def test_bands_that_are_not_used_are_noted_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(raster_bands, "_noted", set())
    pixels = noise(4, 8, 8)
    for name in ("a.tif", "b.tif"):
        path = write_tiff(tmp_path / name, pixels, ["undefined"] * 4, photometric="MINISBLACK")
        assert np.array_equal(whole(path)[0], pixels[:3])
    assert capsys.readouterr().out.count("a.tif has 4 bands; 1 2 3 are used as red, green, blue") == 1
    whole(write_tiff(tmp_path / "near_infrared.tif", pixels, ["red", "green", "blue", "alpha"]))  # GDAL's default tags
    assert "near_infrared.tif has a band that is tagged as alpha and is no mask" in capsys.readouterr().out
    pixels[3] = 255 * (pixels[3] > 99)
    whole(write_tiff(tmp_path / "alpha.tif", pixels, ["red", "green", "blue", "alpha"]))
    assert "note" not in capsys.readouterr().out


def test_gray_is_repeated_and_two_bands_or_a_color_table_are_refused(tmp_path):
    gray = noise(1, 8, 8)
    assert np.array_equal(whole(write_tiff(tmp_path / "gray.tif", gray))[0], gray.repeat(3, 0))
    with pytest.raises(ValueError, match="two.tif has 2 bands; one .gray. or three"):
        open_reader(write_tiff(tmp_path / "two.tif", noise(2, 8, 8), photometric="MINISBLACK", alpha="no"))
    path = write_tiff(tmp_path / "table.tif", gray % 2)
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})
    with pytest.raises(ValueError, match="table.tif has a color table"):
        open_reader(path)


def test_a_vrt_named_tif_is_not_followed(tmp_path):
    write_tiff(tmp_path / "real.tif", noise(3, 8, 8))
    band = '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">real.tif'
    band += "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    (tmp_path / "fake.tif").write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</VRTDataset>')
    with pytest.raises(ValueError, match="fake.tif cannot be read"):
        open_reader(tmp_path / "fake.tif")


def test_valid_is_false_for_alpha_nodata_and_not_finite(tmp_path):
    pixels = noise(4, 8, 8) | 1
    pixels[3] = 255
    pixels[3, :, :3] = 0
    valid = whole(write_tiff(tmp_path / "alpha.tif", pixels, ["red", "green", "blue", "alpha"]))[1]
    assert not valid[:, :3].any() and valid[:, 3:].all()
    pixels[:3, :2], pixels[0, 5] = 0, 0  # nodata is a matter of the pixel, not of one band
    valid = whole(write_tiff(tmp_path / "nodata.tif", pixels[:3], nodata=0))[1]
    assert not valid[:2].any() and valid[2:].all()
    values = noise(3, 8, 8).astype(np.float32)
    values[1, 4, 4], values[0, 5, 5] = np.nan, np.inf
    found, valid = whole(write_tiff(tmp_path / "nan.tif", values), levels=(0, 255))
    assert np.argwhere(~valid).tolist() == [[4, 4], [5, 5]] and found[:, 4, 4].tolist() == [0, 0, 0]
    rgba = noise(8, 8, 4)
    rgba[..., 3] = np.arange(8)[:, None] > 3
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found, valid = whole(tmp_path / "a.png")
    assert not valid[:4].any() and valid[4:].all() and np.array_equal(found, rgba[..., :3].transpose(2, 0, 1))


def test_windows_are_read_at_the_working_size(tmp_path):
    pixels = noise(3, 40, 60)
    with open_reader(write_tiff(tmp_path / "a.tif", pixels), scale=lambda size: 30 / size[0]) as reader:
        assert (reader.height, reader.width, reader.source_size) == (20, 30, (60, 40))
        means = pixels.reshape(3, 20, 2, 30, 2).mean((2, 4))
        assert np.abs(reader.read(4, 6, 10, 12)[0] - means[:, 4:14, 6:18]).max() <= 0.5
        assert reader.preview(15).shape == (3, 10, 15)


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_pixels_with_data_are_averaged_whatever_overviews_and_masks_say(tmp_path, scale):
    pixels = np.full((4, 16, 16), 100, np.uint8)
    pixels[0, ::2], pixels[3, ::2] = 0, 0
    path = write_tiff(tmp_path / "nodata.tif", pixels[:3], nodata=0)  # red is 0, and no pixel is without data
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.nearest)
    found, valid = whole(path, scale=scale)
    assert valid.all() and (found.transpose(1, 2, 0) == (50, 100, 100)).all()
    found, valid = whole(write_tiff(tmp_path / "alpha.tif", pixels, photometric="RGB", alpha="yes"), scale=scale)
    assert valid.all() and (found == 100).all()  # half of each block holds data
    pixels[:3, :, :8] = 0
    found, valid = whole(write_tiff(tmp_path / "gap.tif", pixels[:3], nodata=0), scale=scale)
    assert valid.tolist() == [([False] * 8 + [True] * 8)[:: int(1 / scale)]] * int(16 * scale)


def test_parts_of_pixels_are_averaged_in_strips(tmp_path, monkeypatch):
    values = noise(3, 30, 30).astype(np.float32)
    values[1, 4, 4] = np.nan
    path = write_tiff(tmp_path / "a.tif", values)
    means, valid = whole(path, scale=0.1, levels=(0, 255))
    blocks = np.where(np.isfinite(values).all(0), values, np.nan).reshape(3, 3, 10, 3, 10)
    assert valid.all() and np.abs(means - np.nanmean(blocks, (2, 4))).max() <= 0.5
    with open_reader(path, scale=0.7, levels=(0, 255)) as reader:
        expected, _ = reader.read(0, 0, 21, 21)
        monkeypatch.setattr(resampling, "_STRIP_PIXELS", 100)
        assert np.array_equal(reader.read(0, 0, 21, 21)[0], expected)
        assert np.array_equal(reader.read(5, 7, 9, 11)[0], expected[:, 5:14, 7:18])
    part = values[0, 10:12, 10:12]  # pixel 7 covers positions 10 to 11 3/7
    assert expected[0, 7, 7] == round((np.outer([7, 3], [7, 3]) * part).sum() / 100)


def test_a_truncated_raster_is_named(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise(3, 200, 200))
    path.write_bytes(path.read_bytes()[:60000])
    with pytest.raises(ValueError, match="a.tif cannot be read"), open_reader(path) as reader:
        reader.read(0, 0, 200, 200)


def labeled(path, reader, step=(1, 1)):
    """Write a label raster of a reader's shape divided by ``step``: class 1 everywhere."""
    shape = reader.height // step[0], reader.width // step[1]
    write_label_raster(path, reader, [(0, 0, np.ones(shape, np.uint8))], shape, step, ["a", "b"], PALETTE)
    return path


def test_labels_keep_the_grid_and_get_colors_and_names(tmp_path):
    source = write_tiff(tmp_path / "a.tif", noise(3, 20, 30), **GRID)
    with open_reader(source) as reader, rasterio.open(labeled(tmp_path / "b.tif", reader, (5, 10))) as found:
        assert found.crs == GRID["crs"] and found.bounds == (500000, 5399800, 500300, 5400000)
        assert found.res == (100, 50) and found.nodata == NO_DATA and found.read(1).tolist() == [[1] * 3] * 4
        assert found.colormap(1)[1] == (0, 255, 0, 255) and found.tags()["CLASSES"] == "a,b"
        assert found.tags(1)["class_1"] == "b"
    assert read_labels(tmp_path / "b.tif", (2, 3)).tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("profile", [{}, {"crs": "EPSG:3857"}])
def test_no_georeference_is_invented(tmp_path, capsys, profile):
    source = write_tiff(tmp_path / "a.tif", noise(3, 20, 30), **profile)
    with quiet_georeference(), open_reader(source, scale=0.5) as reader:
        assert reader.crs is None and reader.transform is None
        with rasterio.open(labeled(tmp_path / "b.tif", reader, (2, 2))) as found:
            assert found.crs is None and found.transform.is_identity
    assert ("has a CRS but no geotransform" in capsys.readouterr().out) == bool(profile)


def test_ground_control_points_are_scaled(tmp_path):
    points = [GroundControlPoint(row, column, 500000 + 10 * column, 5400000 - 10 * row)
              for row, column in ((0, 0), (0, 30), (20, 0), (20, 30))]  # fmt: skip
    source = write_tiff(tmp_path / "a.tif", noise(3, 20, 30), gcps=points, crs="EPSG:32615")
    with quiet_georeference(), open_reader(source) as reader:
        assert reader.transform is None
        with rasterio.open(labeled(tmp_path / "b.tif", reader, (5, 10))) as found:
            gcps, crs = found.gcps
    assert crs == "EPSG:32615"
    assert [(p.row, p.col, p.x, p.y) for p in gcps] == [(p.row / 5, p.col / 10, p.x, p.y) for p in points]


def test_label_pngs_have_the_size_of_the_file_and_transparent_gaps(tmp_path):
    labels = np.array([[0, 1], [NO_DATA, 1]], np.uint8)
    reader = ImageReader(np.zeros((3, 2, 2), np.uint8), source_size=(4, 6))
    write_label_png(tmp_path / "a.png", reader, [(0, 0, labels)], PALETTE)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.mode, image.size) == ("P", (4, 6))
        assert np.array_equal(np.asarray(image), labels.repeat(3, 0).repeat(2, 1))
        assert image.getpalette()[:6] == PALETTE.ravel().tolist()
        assert np.array_equal(np.asarray(image.convert("RGBA"))[..., 3] == 0, np.asarray(image) == NO_DATA)


def test_a_failed_write_leaves_no_file(tmp_path):
    def blocks():
        yield 0, 0, np.zeros((1, 2), np.uint8)
        raise ValueError("the source ends here")

    with pytest.raises(ValueError, match="the source ends here"):
        write_label_raster(tmp_path / "a.tif", ImageReader(np.zeros((3, 2, 2), np.uint8)), blocks(), (2, 2), (1, 1),
                           ["a", "b"], PALETTE)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_coarser_grid_begins_where_the_raster_does_however_it_is_turned():
    turned = rasterio.Affine(3.0, -4.0, 100.0, 4.0, 3.0, 200.0)
    grid = coarser(turned, 2, 5)
    for column, row in [(0, 0), (1, 0), (0, 1), (7, 3)]:
        assert rasterio.transform.xy(grid, row, column, offset="ul") == pytest.approx(
            rasterio.transform.xy(turned, 5 * row, 2 * column, offset="ul")
        )


def test_find_images_skips_hidden_files_and_refuses_its_own_results(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt", "deep/c.tif"):
        (folder / name).touch()
    assert [path.name for path in find_images([folder], tmp_path / "out")] == ["a.jpg", "b.PNG"]
    found = find_images([folder / "a.jpg", folder], tmp_path / "out", recursive=True)
    assert [path.name for path in found] == ["a.jpg", "b.PNG", "c.tif"]
    with pytest.raises(ValueError, match="--out .* is in the folder of images"):
        find_images([folder], folder)
    with pytest.raises(ValueError, match="--out .* is in the folder of images"):
        find_images([folder], folder / "deep" / "results", recursive=True)
    assert find_images([folder], folder / "results")  # not searched
    with pytest.raises(FileNotFoundError, match="no image or folder at .*gone"):
        find_images([tmp_path / "gone"], tmp_path / "out")


def test_check_outputs_refuses_to_replace_images_and_results(tmp_path):
    images = [tmp_path / name for name in ("a.png", "b.png")]
    check_outputs(images, lambda path: [tmp_path / "out" / path.name])
    with pytest.raises(ValueError, match=r"a\.png would replace the image .*a\.png; choose another --out"):
        check_outputs(images, lambda path: [tmp_path / "out" / ".." / path.name])
    with pytest.raises(ValueError, match=r"a\.png and .*b\.png would both be written to .*x\.png"):
        check_outputs(images, lambda path: [tmp_path / "out" / "x.png"])


def test_process_images_goes_on_after_a_failure(capsys):
    def process(path):
        if path == "b":
            raise ValueError("b cannot be read")
        done.append(path)

    done = []
    failures = process_images(["a", "b", "c"], process)
    assert done == ["a", "c"] and "skipped: b cannot be read" in capsys.readouterr().out
    with pytest.raises(ValueError, match="1 of 3 images could not be processed: b cannot be read"):
        raise_failures(failures, 3)
    raise_failures([], 3)


def test_readers_close_their_file(tmp_path):
    with RasterReader(write_tiff(tmp_path / "a.tif", noise(3, 8, 8))) as reader:
        pass
    assert reader._source.closed
