"""Image files as a data set: crops, decoding, pairs, and replacement of broken files."""

import dataclasses
import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from vicreg.augmentations import batch, presets
from vicreg.augmentations.functional import crop_resize
from vicreg.augmentations.presets import Augmentation
from vicreg.common.random_streams import torch_rng
from vicreg.data import image_dataset
from vicreg.data.base import InputSpec
from vicreg.data.image_crops import read_crops
from vicreg.data.image_dataset import ImageDataset, decode_size
from vicreg.data.image_io import WHOLE, sample_crop_box
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.data.subsets import LabeledSubset
from vicreg.eval.features import extract_features

RANDOM = Augmentation("resized", (0.08, 1.0), (3 / 4, 4 / 3))


def test_imagenet_normalization_is_that_of_timm():
    constants = image_dataset.IMAGENET_MEAN, image_dataset.IMAGENET_STD
    assert constants == (list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))


def noise(height, width, seed=0, cell=8):
    """A smooth colored image: noise of 1/8 of the size, enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (height // cell, width // cell, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    """Twelve images of all shapes in three classes and four locations."""
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    for n, path in enumerate(paths):
        noise(32 + 8 * (n % 3), 40 + 8 * (n % 4), n).save(path)
    return paths


def dataset_of(files, **options):
    options = {"side": 24, "location_ids": np.arange(len(files)) // 3, **options}
    return ImageDataset(files, np.arange(len(files)) // 4, ["a", "b", "c"], **options)


def test_training_alone_decodes_the_fast_way_whose_pixels_differ_a_little(files, monkeypatch):
    fast = []
    read = image_dataset.read_crops
    monkeypatch.setattr(image_dataset, "read_crops", lambda *a, **k: (fast.append(k["fast"]), read(*a, **k))[1])
    dataset = dataset_of(files[:1], location_ids=None)
    dataset.crop_images([0], [1], RANDOM, 16), dataset.images([0])
    assert not any(fast) and fast
    fast.clear()
    dataset.set_views((RANDOM, RANDOM), 16)
    dataset.__getitems__([(0, 1)])
    assert all(fast) and fast


def test_decode_size_leaves_the_view_as_center_crop_of_seven_eighths():
    assert decode_size() == decode_size(224) == 256
    assert all(round(decode_size(size) * 7 / 8) == size for size in range(1, 600))


def test_crop_box_is_inside_the_image_with_area_and_aspect_in_range():
    areas, lefts = [], []
    for seed in range(500):
        left, top, right, bottom = sample_crop_box(RANDOM, 300, 400, np.random.default_rng(seed))
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        areas.append((right - left) * (bottom - top) / 120_000)
        lefts.append(left / max(1, 400 - right + left))
        assert 0.74 < (right - left) / (bottom - top) < 1.35
    assert 0.078 < min(areas) < 0.1 and max(areas) > 0.85
    assert 0.4 < np.mean(lefts) < 0.6


def test_crop_box_distribution_equals_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(3, 90, 140)
    theirs = [torchvision.transforms.RandomResizedCrop.get_params(image, (0.2, 1), (3 / 4, 4 / 3)) for _ in range(2000)]
    random = np.random.default_rng(0)
    ours = [sample_crop_box(Augmentation("resized", (0.2, 1.0), (3 / 4, 4 / 3)), 90, 140, random) for _ in range(2000)]
    ours = np.array([(top, left, bottom - top, right - left) for left, top, right, bottom in ours])
    for n in range(4):
        quartiles = [np.quantile(boxes[:, n], [0.25, 0.5, 0.75]) for boxes in (ours, np.array(theirs))]
        assert abs(quartiles[0] - quartiles[1]).max() < 5


@pytest.mark.parametrize(
    ("height", "width", "box"), [(100, 10, (0, 43, 10, 56)), (10, 100, (43, 0, 56, 10)), (30, 31, (0, 0, 31, 30))]
)
def test_crop_box_falls_back_to_torchvisions_center_crop(height, width, box):
    never = Augmentation("resized", (3.0, 3.0), (3 / 4, 4 / 3))  # larger than the image: no try fits
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    top, left, h, w = get_params(torch.empty(3, height, width), never.scale, never.ratio)
    assert sample_crop_box(never, height, width, np.random.default_rng(0)) == box == (left, top, left + w, top + h)


def test_crop_box_of_fixed_and_center_is_a_fraction_of_the_short_side():
    boxes = {
        sample_crop_box(Augmentation("fixed", fraction=0.5), 40, 60, np.random.default_rng(seed)) for seed in range(50)
    }
    assert len(boxes) > 40 and {(r - x, b - y) for x, y, r, b in boxes} == {(20, 20)}
    assert sample_crop_box(Augmentation("center", fraction=0.5), 40, 60, None) == (20, 10, 40, 30)
    assert sample_crop_box(WHOLE, 40, 60, None) == (10, 0, 50, 40)


def test_read_crops_equals_pils_crop_and_bicubic_resize(tmp_path):
    image = noise(96, 120)
    image.save(tmp_path / "a.png")
    for seed in range(5):
        box = sample_crop_box(RANDOM, 96, 120, np.random.default_rng(seed))
        expected = np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.array_equal(read_crops(tmp_path / "a.png", [(RANDOM, seed)], 32)[0], expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 144), (200, 80)])
def test_images_are_short_side_resized_and_center_cropped(tmp_path, height, width):
    noise(height, width).save(tmp_path / "a.png")
    found = ImageDataset([tmp_path / "a.png"], [0], ["a"], side=64).images([0])
    transforms = torchvision.transforms
    steps = transforms.Resize(64, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(64)
    expected = transforms.Compose([*steps, transforms.PILToTensor()])(Image.open(tmp_path / "a.png"))
    assert found.dtype == torch.uint8 and found.shape == (1, 3, 64, 64)
    assert (found[0].float() - expected.float()).abs()[:, 2:-2, 2:-2].max() <= 2  # edges: pixels beyond the crop


def test_read_crops_decodes_large_jpegs_at_reduced_size(tmp_path, monkeypatch):
    from PIL import JpegImagePlugin

    noise(960, 1280, cell=80).save(tmp_path / "a.jpg", quality=98)
    sizes, draft = [], JpegImagePlugin.JpegImageFile.draft

    def watched(self, mode, size):
        found = draft(self, mode, size)
        sizes.append(self.size)
        return found

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", watched)
    crops = [(WHOLE, 0), (Augmentation("resized", (0.5, 1.0), (3 / 4, 4 / 3)), 1)]
    reduced = read_crops(tmp_path / "a.jpg", crops, 64)
    assert sizes == [(320, 240)]  # a fourth: at least twice 64 pixels remain of each crop
    assert read_crops(tmp_path / "a.jpg", [(WHOLE, 0)], 400)[0].shape == (3, 400, 400) and len(sizes) == 1
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    for one, other in zip(reduced, read_crops(tmp_path / "a.png", crops, 64), strict=True):
        assert abs(one.astype(int) - other).mean() < 1


def test_read_crops_of_a_reduced_jpeg_stay_inside_the_image(tmp_path):
    Image.new("RGB", (1999, 1999), (200, 200, 200)).save(tmp_path / "a.jpg")  # 1999 * (500 / 1999) rounds above 500
    assert (read_crops(tmp_path / "a.jpg", [(WHOLE, 0)], 224)[0] == 200).all()


MODES = {  # made how, saved as what -> the color to find
    "L": (Image.new("L", (8, 8), 90), "png", (90, 90, 90)),
    "1": (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
    "LA": (Image.new("LA", (8, 8), (90, 7)), "png", (90, 90, 90)),
    "P": (Image.new("RGB", (8, 8), (200, 100, 0)).quantize(4), "png", (200, 100, 0)),
    "P with alpha": (Image.new("RGBA", (8, 8), (200, 100, 0, 255)).quantize(4), "png", (200, 100, 0)),
    "RGBA": (Image.new("RGBA", (8, 8), (200, 100, 0, 9)), "png", (200, 100, 0)),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", (255, 0, 0)),
    "P with a hole": (Image.new("RGBA", (8, 8), (200, 100, 0, 0)).quantize(4), "png", (0, 0, 0)),
    "transparent": (Image.new("RGBA", (8, 8), (200, 100, 0, 0)), "png", (0, 0, 0)),
    "PNG named JPEG": (Image.new("RGB", (8, 8), (1, 2, 3)), "png", (1, 2, 3)),
}


@pytest.mark.parametrize("mode", MODES)
def test_read_crops_converts_every_mode_to_8_bit_rgb(tmp_path, mode):
    image, kind, color = MODES[mode]
    path = tmp_path / ("a.JPEG" if "named" in mode else f"a.{kind}")
    image.save(path, kind)
    (found,) = read_crops(path, [(RANDOM, 0)], 4)
    assert found.dtype == np.uint8 and abs(found.reshape(3, -1).T.astype(int) - color).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_crops_undoes_exif_rotation_before_cropping(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(64, 96).save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert upright.size == ((96, 64) if orientation < 5 else (64, 96))
    upright.save(tmp_path / "upright.png", exif=Image.Exif())
    for crop in (WHOLE, RANDOM):
        found = [read_crops(tmp_path / name, [(crop, 5)], 32)[0] for name in ("a.png", "upright.png")]
        assert np.array_equal(*found)


def test_read_crops_ignores_a_broken_exif_block(tmp_path):
    noise(16, 16).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert read_crops(tmp_path / "a.jpg", [(WHOLE, 0)], 8)[0].shape == (3, 8, 8)


def test_image_dataset_decodes_an_image_once_for_both_crops(files, monkeypatch):
    dataset = dataset_of(files)
    dataset.set_views((RANDOM, RANDOM), 16)
    opened = []
    monkeypatch.setattr(
        image_dataset,
        "read_crops",
        lambda path, *args, **options: opened.append(path) or read_crops(path, *args, **options),
    )
    first, second = dataset.__getitems__([(3, 11), (8, 12)])
    assert sorted(opened) == sorted([files[3], files[8]])
    assert first.shape == second.shape == (2, 3, 16, 16) and first.dtype == torch.uint8
    assert not torch.equal(first, second)
    (expected,) = read_crops(files[8], [(RANDOM, [12, 1])], 16)
    assert np.array_equal(second[1].numpy(), expected)


def test_image_dataset_pair_depends_on_its_key_alone(files):
    dataset = dataset_of(files, positives="temporal")
    dataset.set_views((RANDOM, RANDOM), 16)
    together = dataset.__getitems__([(3, 11), (8, 2**62 + 5), (8, 4)])
    alone = dataset[(8, 2**62 + 5)]
    assert all(torch.equal(many[1], one) for many, one in zip(together, alone, strict=True))
    assert not torch.equal(together[0][1], together[0][2])  # another sample_seed, another crop


def test_image_dataset_temporal_pairs_show_one_location_at_two_times(files):
    dataset = dataset_of(files, positives="temporal", months=[0, 1, 20] * 4, max_months_apart=2)
    first, second = dataset.__getitems__([(index, 3) for index in range(12)])
    assert torch.equal(first, dataset.images(list(range(12))))  # whole images, before any crop is asked for
    assert torch.equal(second, dataset.images([index + (1, -1, -1)[index % 3] for index in range(12)]))


@pytest.mark.parametrize(
    ("workers", "context"), [(1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_image_dataset_batches_do_not_depend_on_loader_processes(files, workers, context):
    dataset = dataset_of(files, positives="temporal")
    dataset.set_views((RANDOM, RANDOM), 16)
    batches = ResumableBatchSampler(len(dataset), 4, seed=1, steps=6)
    here = list(build_loader(dataset, batches, 0, torch.device("cpu")))
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, multiprocessing_context=context, collate_fn=list
    )
    for one, other in zip(here, loader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_broken_file_is_replaced_by_the_next_of_its_class_with_one_warning(files, capsys):
    dataset = dataset_of(files, location_ids=None)
    files[1].write_bytes(files[1].read_bytes()[:60])
    files[2].write_bytes(b"")
    found = dataset.images([1, 2, 0])
    assert torch.equal(found, dataset.images([3, 3, 0]))
    dataset.images([1])
    said = capsys.readouterr().err
    assert said.count(str(files[1])) == said.count(str(files[2])) == 1
    files[7].unlink()
    assert torch.equal(dataset.images([7]), dataset.images([4]))  # round again to the first of the class


def test_substitute_image_shows_the_same_location_if_possible(files):
    files[4].write_bytes(b"")
    dataset = dataset_of(files)  # places of three, classes of four
    assert torch.equal(dataset.images([4]), dataset.images([5]))


def test_image_dataset_raises_if_no_file_can_be_read(files):
    dataset = dataset_of(files)
    for path in files[:4]:
        path.unlink()
    with pytest.raises(ValueError, match="0.png cannot be read, and no image that could replace it"):
        dataset.images([0])


def test_digest_of_images_is_that_of_file_sizes_and_options(files):
    dataset, other = dataset_of(files), dataset_of(files, bands=[3, 2, 1])
    before = dataset.digests()
    assert before == dataset_of(files).digests() and before["images"] != other.digests()["images"]
    noise(80, 80).save(files[5])
    changed = dataset.digests()
    assert changed["samples"] == before["samples"] and changed["images"] != before["images"]
    files[5].unlink()  # another image replaces it
    assert dataset.digests()["images"] != changed["images"]


def test_image_dataset_location_ids_default_to_one_per_image(files):
    assert dataset_of(files, location_ids=None).location_ids.tolist() == list(range(12))
    assert dataset_of(files, location_ids=["x", "y"] * 6).location_ids.tolist() == [0, 1] * 6
    assert [dataset_of(files).path(n) for n in (0, 11)] == [files[0], files[11]]


def test_image_dataset_refuses_invalid_arguments(files):
    for arguments, words in [
        (([], [], []), "0 image files"),
        ((files, [0], ["a"]), "12 image files and 1 labels"),
        ((files, [0] * 12, ["a"], [0] * 3, [1] * 3, "temporal"), "one location"),
    ]:
        with pytest.raises(ValueError, match=words):
            ImageDataset(*arguments)
    with pytest.raises(ValueError, match="--cache-on-device"):
        dataset_of(files).to_device("cpu")


def left_is_red(path):
    """Three squares side by side; the left one is red, the others are black."""
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, :16, 0] = 255
    Image.fromarray(pixels).save(path)
    return ImageDataset([path], [0], ["a"], side=16)


def test_labeled_subset_and_features_crop_the_whole_image(tmp_path):
    dataset = left_is_red(tmp_path / "a.png")
    assert dataset.images([0]).sum() == 0
    labeled = LabeledSubset(dataset, np.array([0]), presets.PROBE_VIEW, 16)
    images, labels = labeled.__getitems__([(0, sample_seed) for sample_seed in range(40)])
    assert (images[:, 0].flatten(1).max(1).values > 128).sum() > 5 and labels.tolist() == [0] * 40
    assert labeled.view == dataclasses.replace(presets.PROBE_VIEW, crop="center", fraction=1.0)

    class Mean(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.mean((2, 3))

    given = dataset, InputSpec(14, [0.0] * 3, [1.0] * 3), torch.device("cpu"), [0] * 40
    random = torch_rng(0, "test")
    assert extract_features(Mean(), *given).sum() == 0
    assert (extract_features(Mean(), *given, view=presets.PROBE_VIEW, generator=random)[:, 0] > 0.1).sum() > 5


def test_without_crop_keeps_flips_and_the_whole_image():
    images = torch.rand(6, 3, 8, 8)
    view = presets.without_crop(presets.get_augmentation("vicreg")[0])
    numbers = batch.sample_params(view, 6, 8, 8, torch_rng(1, "test"))
    assert set(numbers["flip"].tolist()) == {True, False}
    found = crop_resize(images, numbers["boxes"], 8, numbers["flip"])
    for image, out, flipped in zip(images, found, numbers["flip"], strict=True):
        assert torch.equal(out, image.flip(-1) if flipped else image)


def test_crop_resize_of_whole_images_equals_resampling():
    images = torch.rand(4, 3, 8, 8)
    flips = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    whole = torch.tensor([[0.0, 0, 8, 8]] * 4)
    longer = torch.cat([images, images[:1]])  # one smaller box: none of them takes the short cut
    boxes = torch.cat([whole, torch.tensor([[0.0, 0, 4, 4]])])
    resampled = crop_resize(longer, boxes, 8, *(torch.cat([flip, flip[:1]]) for flip in flips))[:4]
    torch.testing.assert_close(crop_resize(images, whole, 8, *flips), resampled, rtol=0, atol=1e-6)


@pytest.mark.real_data
def test_image_dataset_reads_imagenet_files_as_pil_does(real_data):
    paths = sorted(real_data.glob("imagenette_mini/train/*/*.JPEG"))[::40]
    dataset = ImageDataset(paths, [0] * len(paths), ["a"], side=224)
    for path, found in zip(paths, dataset.images(list(range(len(paths)))), strict=True):
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        assert image.size == (224, 224) and np.array_equal(found.numpy(), np.asarray(image).transpose(2, 0, 1))
