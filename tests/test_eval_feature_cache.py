"""The cache of features: extracted once, and again only if something changed."""

import random

import numpy as np
import pytest
import torch

from vicreg.common.random_streams import torch_rng
from vicreg.data.base import BaseDataset, InputSpec
from vicreg.engine import checkpoint
from vicreg.eval import feature_cache
from vicreg.eval.features import extract_features
from vicreg.models.backbones import create_backbone, load_backbone

CPU = torch.device("cpu")


class Toy(BaseDataset):
    """Eight noisy 8-pixel images of two colors, four places of two months."""

    def __init__(self, seed=0):
        self.labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        self.location_ids = np.array([0, 0, 1, 1, 2, 2, 3, 3])
        self.classes, self.mean, self.std, self.patch_size = ["dark", "bright"], [0.5] * 3, [0.2] * 3, 8
        noise = torch.randint(0, 60, (8, 3, 8, 8), generator=torch_rng(seed, "test"))
        self.pixels = (noise + 150 * self.labels[:, None, None, None]).to(torch.uint8)

    def __len__(self):
        return 8

    def images(self, indices):
        return self.pixels[list(indices)]


def test_features_are_extracted_once_and_again_only_where_something_changed(tmp_path, capsys, monkeypatch):
    (source,) = feature_cache.resolve_backbones(["random"], "test_resnet")
    cache = feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8)
    first = cache.get(source, Toy())
    assert "extracted and cached as float32" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "load_backbone", lambda *given: pytest.fail("the features were there"))
        again = feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8).get(source, Toy())
    assert torch.equal(first, again) and "cached features read" in capsys.readouterr().out
    other = Toy()
    other.pixels[7, 0, 0, 0] += 1
    assert feature_cache.dataset_digest(other) != feature_cache.dataset_digest(Toy())
    assert len({source.digest, feature_cache.resolve_backbones(["random"], "test_resnet", seed=1)[0].digest}) == 2
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])  # cut short by something else than us
    assert torch.equal(cache.get(source, Toy()), first)
    assert "cannot be read" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}


def test_half_precision_gives_the_same_features_at_both_starts(tmp_path):
    (source,) = feature_cache.resolve_backbones(["pixels"])
    cache = feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8, dtype="float16")
    first, again = (cache.get(source, Toy()) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.float32 and first.shape == (8, 192)
    assert np.load(next(tmp_path.glob("*.npy"))).dtype == np.float16


def test_get_refuses_features_that_are_not_finite(tmp_path):
    data = Toy()
    data.std = [1e-7] * 3  # too large for float16
    (source,) = feature_cache.resolve_backbones(["pixels"])
    with pytest.raises(ValueError, match=r"pixels: 8 of 8 features are not finite as float16"):
        feature_cache.FeatureCache(tmp_path, data, CPU, 8, dtype="float16").get(source, data)
    assert not list(tmp_path.glob("*.npy"))


def test_get_normalizes_every_data_set_by_the_training_set(tmp_path):
    """Features of the same images are the same, whatever the statistics of the list they are in."""
    (source,) = feature_cache.resolve_backbones(["pixels"])
    train, other = Toy(), Toy()
    other.mean, other.std = [0.1] * 3, [0.9] * 3
    cache = feature_cache.FeatureCache(tmp_path, train, CPU, 8)
    expected = cache.get(source, train)
    assert torch.equal(cache.get(source, other), expected)
    again = feature_cache.FeatureCache(tmp_path, other, CPU, 8)  # another training set: other features
    assert not torch.equal(again.get(source, train), expected)
    given = feature_cache.FeatureCache(tmp_path, train, CPU, 8, mean=[0.1] * 3, std=[0.9] * 3)
    assert torch.equal(given.get(source, train), again.get(source, train))


def test_names_are_the_runs_folders_or_the_files_and_never_twice_the_same(tmp_path):
    backbone = create_backbone("test_resnet")
    names = ["a/run/trained_model.pth", "b/run/trained_model.pth", "b/mine.pth", "b/other/trained_model.pth"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save_backbone(tmp_path / name, backbone, "test_resnet", 3, [0.5] * 3, [0.2] * 3, "test")
    found = feature_cache.resolve_backbones([*(tmp_path / name for name in names), "random", "stats"])
    shown = [source.name for source in found]
    assert shown[2:] == ["mine", "other", "random", "stats"] and len(set(shown)) == 6
    assert shown[0].endswith("a-run-trained_model") and shown[1].endswith("b-run-trained_model")
    assert found[4].arch == "test_resnet" and found[5].arch is None  # random weights of the files' architecture
    with pytest.raises(ValueError, match="twice"):
        feature_cache.resolve_backbones(["stats", "stats"])
    with pytest.raises(ValueError, match="--arch"):
        feature_cache.resolve_backbones(["stats", "random"])
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        feature_cache.resolve_backbones(["stats", tmp_path / "nothing.pth"])


def test_pixels_are_means_of_an_eighth_of_the_side():
    backbone, info = load_backbone("pixels")
    image = torch.arange(16.0).repeat_interleave(1)[None, None, :, None].expand(1, 3, 16, 16)  # each row its number
    found = backbone(image).view(3, 8, 8)
    assert info["arch"] == "pixels" and backbone.num_features == 192
    torch.testing.assert_close(found[2], (2 * torch.arange(8.0) + 0.5)[:, None].expand(8, 8))


@pytest.mark.parametrize("dtype", feature_cache.DTYPES)
def test_damaged_features_are_extracted_again(tmp_path, capsys, dtype):
    (source,) = feature_cache.resolve_backbones(["random"], "test_resnet")
    cache = feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8, dtype=dtype)
    first, flips = cache.get(source, Toy()), random.Random(0)
    (file,) = tmp_path.glob("*.npy")
    whole, detected = file.read_bytes(), 0
    for _ in range(50):
        damaged, bit = bytearray(whole), flips.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        capsys.readouterr()
        assert torch.equal(cache.get(source, Toy()), first)
        detected += "extracting again" in capsys.readouterr().out
    assert detected >= 40  # the others are in the padding of the header
    record = file.with_suffix(".json")
    record.write_text("{}")  # of an older version
    assert torch.equal(cache.get(source, Toy()), first) and "cached features read" in capsys.readouterr().out


def test_bands_are_selected_only_of_files_with_other_channels_than_the_images(tmp_path):
    for channels in (3, 5):
        state = create_backbone("test_resnet", channels).state_dict()
        torch.save({"arch": "test_resnet", "state_dict": state}, tmp_path / f"{channels}.pth")
    paths = [str(tmp_path / name) for name in ("3.pth", "5.pth")]
    specs = feature_cache.resolve_backbones([*paths, "stats"], bands=[5, 1, 2])
    assert specs[1].digest != feature_cache.resolve_backbones(paths, bands=[1, 2, 3])[1].digest
    cache = feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8, bands=[5, 1, 2])
    features = [cache.get(spec, Toy()) for spec in specs]
    spec = InputSpec(8, [0.5] * 3, [0.2] * 3)
    for path, bands, actual in zip(paths, (None, [5, 1, 2]), features[:2], strict=True):
        expected = extract_features(load_backbone(path, bands=bands)[0], Toy(), spec, CPU)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="5 channels, but these images have 3; .*--in-chans 3 and --weight-bands"):
        feature_cache.FeatureCache(tmp_path, Toy(), CPU, 8).get(feature_cache.resolve_backbones(paths)[1], Toy())
