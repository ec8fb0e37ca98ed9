"""Faster pixels of image folders: crops of JPEGs for pretraining, and squares that are decoded once."""

import json
import multiprocessing
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_data_image_dataset import RANDOM, dataset_of, noise
from vicreg import main_vicreg_unchanged
from vicreg.augmentations.presets import Augmentation
from vicreg.common import cli
from vicreg.data import image_pack
from vicreg.data.image_crops import read_crops
from vicreg.data.image_io import WHOLE
from vicreg.data.image_pack import PackedImages, pack_images
from vicreg.distributed import waiting

simplejpeg = pytest.importorskip("simplejpeg")


@pytest.fixture
def decoded(monkeypatch):
    """Shapes of what simplejpeg decodes."""
    shapes, decode = [], simplejpeg.decode_jpeg

    def watched(*args, **options):
        shapes.append((found := decode(*args, **options)).shape)
        return found

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return shapes


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [16, 64, 200])
def test_fast_crops_of_jpegs_differ_by_rounding(tmp_path, decoded, mode, size):
    noise(120, 160).convert(mode).save(tmp_path / "a.jpg", quality=95)
    crops = [(RANDOM, [3, 0]), (RANDOM, [3, 1])]
    pairs = zip(*(read_crops(tmp_path / "a.jpg", crops, size, fast=fast) for fast in (True, False)), strict=True)
    for found, expected in pairs:
        assert found.shape == expected.shape == (3, size, size) and found.dtype == np.uint8
        assert abs(found.astype(int) - expected).mean() < 0.5
    assert decoded == [(120, 160, 3)]


def test_fast_crops_of_one_pixel_are_that_pixel(tmp_path):
    noise(40, 40, cell=1).save(tmp_path / "a.jpg", quality=95)
    crops = [(Augmentation("resized", (1 / 1600, 1 / 1600), (1, 1)), seed) for seed in range(4)]
    for fast, slow in zip(
        *(read_crops(tmp_path / "a.jpg", crops, 8, fast=fast) for fast in (True, False)), strict=True
    ):
        assert np.ptp(fast, axis=(1, 2)).max() == 0 and abs(fast.astype(int) - slow).max() <= 8


def test_fast_crops_are_decoded_at_reduced_size_if_two_pixels_remain_per_pixel(tmp_path, decoded):
    noise(960, 1280, cell=80).save(tmp_path / "a.jpg", quality=98)
    crops = [(WHOLE, 0), (Augmentation("resized", (0.5, 1.0), (3 / 4, 4 / 3)), 1)]
    fast, slow = (read_crops(tmp_path / "a.jpg", crops, 64, fast=fast) for fast in (True, False))
    assert decoded == [(240, 320, 3)]
    whole, shifted = (abs(one.astype(int) - other).mean() for one, other in zip(fast, slow, strict=True))
    assert whole < 0.1 and shifted < 2  # the edges of a crop are whole pixels of the reduced image
    read_crops(tmp_path / "a.jpg", crops, 500, fast=True)
    assert decoded[1:] == [(960, 1280, 3)]


def test_other_files_are_cropped_as_before(tmp_path, decoded, monkeypatch):
    """PNGs, CMYK, rotated and truncated JPEGs, and all files where simplejpeg is not installed."""
    image, exif = noise(64, 96), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.save(tmp_path / "rotated.jpg", exif=exif)
    image.save(tmp_path / "plain.jpg")
    for name in ("a.png", "cmyk.jpg", "rotated.jpg"):
        pair = [read_crops(tmp_path / name, [(RANDOM, 5)], 32, fast=fast)[0] for fast in (True, False)]
        assert np.array_equal(*pair)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "plain.jpg").read_bytes()[:-400])
    with pytest.raises(ValueError, match="cut.jpg cannot be read"):
        read_crops(tmp_path / "cut.jpg", [(RANDOM, 5)], 32, fast=True)
    assert decoded == []
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    pair = [read_crops(tmp_path / "plain.jpg", [(RANDOM, 5)], 32, fast=fast)[0] for fast in (True, False)]
    assert np.array_equal(*pair)


def test_training_views_are_fast_and_evaluation_reads_exact_pixels(tmp_path, decoded):
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        noise(48, 64, number).save(path)
    dataset = dataset_of(paths)
    dataset.set_views((RANDOM, RANDOM), 16)
    dataset.images([0, 1]), dataset.crop_images([0], [5], RANDOM, 16)
    assert decoded == []
    dataset.__getitems__([(0, 7), (2, 8)])
    assert len(decoded) == 2


@pytest.fixture
def jpegs(tmp_path):
    """Twelve JPEGs of three classes, 40 to 56 pixels high and wider."""
    paths = [tmp_path / "images" / f"{number}.jpg" for number in range(12)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        noise(40 + 8 * (number % 3), 64, number).save(path)
    return paths


def test_pack_holds_the_center_squares_and_is_reused(tmp_path, jpegs, monkeypatch, capsys):
    dataset = dataset_of(jpegs)
    packed = pack_images(dataset, tmp_path / "new" / "pack", 32)
    assert packed.patch_size == 32 and len(packed) == 12 and packed.classes == ["a", "b", "c"]
    expected = dataset.crop_images([3, 5], [0, 0], WHOLE, 32)
    assert torch.equal(packed.images([3, 5]), expected)
    assert torch.equal(pickle.loads(pickle.dumps(packed)).images([3, 5]), expected)
    assert torch.equal(packed.labels, dataset.labels) and list(packed.location_ids) == list(dataset.location_ids)
    packed.to_device(torch.device("cpu"))
    assert torch.equal(packed.images([3, 5]), expected)
    assert "12 images as squares of 32 pixels in" in capsys.readouterr().out
    monkeypatch.setattr(image_pack, "_write", None)  # a second call writes nothing
    assert pack_images(dataset_of(jpegs), tmp_path / "new" / "pack", 32).digests() == packed.digests()


def test_images_replace_broken_files_in_a_pack(tmp_path, jpegs, capsys):
    jpegs[1].write_bytes(b"\xff\xd8\xff garbage")
    jpegs[6].unlink()
    dataset = dataset_of(jpegs)
    packed = pack_images(dataset, tmp_path / "pack", 32)
    assert torch.equal(packed.images([1, 6]), dataset.crop_images([2, 7], [0, 0], WHOLE, 32))
    assert "1.jpg cannot be read" in capsys.readouterr().err


def test_pack_is_refused_where_the_disk_has_too_little_space(tmp_path, jpegs, monkeypatch):
    needed = 12 * 3 * 32**2
    monkeypatch.setattr(image_pack.shutil, "disk_usage", lambda _: SimpleNamespace(free=0.9 * needed))
    with pytest.raises(ValueError, match="lower --pack-size"):
        pack_images(dataset_of(jpegs), tmp_path / "pack", 32)


def test_pack_is_no_larger_than_the_images_and_renewed_when_files_change(tmp_path, jpegs):
    dataset = dataset_of(jpegs)
    packed = pack_images(dataset, tmp_path / "pack", 500)
    assert packed.patch_size == 56
    noise(40, 64, 99, cell=4).save(jpegs[0])
    again = pack_images(dataset, tmp_path / "pack", 500)
    assert again.digests()["images"] != packed.digests()["images"]
    assert again.digests()["samples"] == packed.digests()["samples"] == dataset.digests()["samples"]
    assert not torch.equal(again.images([0]), packed.images([0]))


def test_what_a_killed_process_left_is_removed(tmp_path, jpegs, monkeypatch):
    def killed(images, path, shape):
        path.write_bytes(b"part")
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(image_pack, "_write", killed)
        process = multiprocessing.get_context("fork").Process(
            target=pack_images, args=(dataset_of(jpegs), tmp_path / "pack", 32)
        )
        process.start()
        process.join()
    assert process.exitcode == 9 and [*(tmp_path / "pack").rglob("*.partial.npy")]
    pack_images(dataset_of(jpegs), tmp_path / "pack", 32)
    assert [path.suffix for path in (tmp_path / "pack").iterdir()] == [".npy"]


def test_other_processes_end_with_a_message_if_the_main_process_writes_no_pack(tmp_path, jpegs, monkeypatch):
    monkeypatch.setattr(image_pack.process_group, "is_main", lambda: False)
    monkeypatch.setattr(image_pack.process_group, "timeout_seconds", lambda: 0.2)
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.05)
    with pytest.raises(ConnectionError, match="rank 0 has written nothing to .*pack"):
        pack_images(dataset_of(jpegs), tmp_path / "pack", 32)


def test_pack_that_does_not_fit_or_is_damaged_is_refused(tmp_path, jpegs, monkeypatch):
    dataset = dataset_of(jpegs)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="lower --pack-size"):
        patch.setattr(image_pack.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
        pack_images(dataset, tmp_path / "pack", 32)
    assert list((tmp_path / "pack").iterdir()) == []
    pack_images(dataset, tmp_path / "pack", 32)
    (file,) = (tmp_path / "pack").iterdir()
    with pytest.raises(ValueError, match="does not hold 3 images"):
        PackedImages(dataset_of(jpegs[:3], location_ids=None), file)
    file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged .*delete it"):
        pack_images(dataset, tmp_path / "pack", 32)


def test_script_pretrains_from_a_pack_and_resumes_with_it_alone(tmp_path, monkeypatch):
    for part, count in (("train", 8), ("val", 2)):
        for name in ("bee", "cat"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                noise(40, 48, number).save(tmp_path / "data" / part / name / f"{name}_{number}.jpg")
    words = (
        f"--data-dir {tmp_path}/data --exp-dir {tmp_path}/run --arch test_resnet --mlp 8-8 --batch-size 8 --workers 1"
    )
    words += " --image-size 16:32 --epochs 3 --max-steps 5 --device cpu --probe-every 1"

    def run(*more):
        main_vicreg_unchanged.main(cli.parse(main_vicreg_unchanged.get_parser(), [*words.split(), *more]))

    run("--pack", str(tmp_path / "pack"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["pack_size"] == 37 and config["plan"]["image_size"] == 32
    assert len(list((tmp_path / "pack").iterdir())) == 2
    for more, size in ((["--pack", str(tmp_path / "pack"), "--pack-size", "20"], "20"), ([], "None")):
        with pytest.raises(ValueError, match=f"holds a finished run with --pack-size 37, not {size}"):
            run(*more)
