"""Defaults of ``BaseDataset``: what a data set gets that has only images, labels and statistics."""

import json
import types

import numpy as np
import pytest
import torch

from vicreg.augmentations.presets import get_augmentation
from vicreg.data.base import BaseDataset
from vicreg.data.image_dataset import ImageDataset
from vicreg.engine.run_folder import RunFolder


class Constants(BaseDataset):
    """Image i has the value i in each of its two channels."""

    def __init__(self, count=6):
        self.labels = torch.arange(count) % 2
        self.classes, self.mean, self.std = ["even", "odd"], [0.5] * 2, [0.5] * 2

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 4, 4)


class Shifted(Constants):
    """The second image of a pair is ``sample_seed`` images further on."""

    def positive_index(self, index, sample_seed):
        return (index + sample_seed) % len(self)


def test_base_dataset_pairs_an_image_with_itself_and_loads_it_once():
    first, second = Constants().__getitems__([(3, 7), (1, 8)])
    assert first is second and first[:, 0, 0, 0].tolist() == [3, 1]


def test_base_dataset_pairs_an_image_with_its_positive():
    first, second = Shifted().__getitems__([(3, 7), (1, 2)])
    assert first[:, 0, 0, 0].tolist() == [3, 1] and second[:, 0, 0, 0].tolist() == [4, 3]
    assert [image[0, 0, 0].item() for image in Shifted()[(3, 7)]] == [3, 4]


def test_base_dataset_reads_size_and_channels_from_images_and_mean():
    dataset = Constants()
    assert (dataset.patch_size, dataset.num_channels) == (4, 2)
    dataset.patch_size = 9  # a data set that knows its size sets it
    assert dataset.patch_size == 9


def test_base_dataset_gives_each_sample_a_location_that_is_known_in_this_set_only():
    dataset = Constants()
    np.testing.assert_array_equal(dataset.location_ids, np.arange(6))
    assert dataset.location_keys() is None


def test_base_dataset_leaves_crops_to_the_batch_augmentation():
    views = get_augmentation("vicreg")
    dataset = Constants()
    assert dataset.set_views(views, 3) == views and not dataset.crops_in_loader
    with pytest.raises(NotImplementedError, match="Constants does not crop"):
        dataset.crop_images([0], [1], views[0], 3)


def test_base_dataset_refuses_device_memory():
    with pytest.raises(ValueError, match="cannot be copied to device memory"):
        Constants().to_device(torch.device("cpu"))


def test_content_bytes_change_with_the_pixels():
    dataset = Constants()
    assert dataset.content_bytes(range(2)) == dataset.content_bytes([0, 1]) != dataset.content_bytes([0, 2])


def test_names_and_first_pairs_are_those_of_the_asked_samples(tmp_path, monkeypatch):
    dataset = Shifted()
    assert dataset.sample_info([1]) == {}
    monkeypatch.setattr(dataset, "names", lambda: list("abcdef"))
    assert dataset.sample_info([4, 0]) == {"image": ["e", "a"]}
    RunFolder.write_first_pairs(types.SimpleNamespace(path=tmp_path), dataset, iter([[(3, 7), (1, 2)]]), 0)
    pairs = json.loads((tmp_path / "views.json").read_text())
    assert pairs == [[{"image": "d"}, {"image": "e"}], [{"image": "b"}, {"image": "d"}]]
    files = ImageDataset(["x/a/1.jpg", "x/a/2.jpg", "x/b/1.jpg"], [0, 0, 1], ["a", "b"])
    assert files.sample_info([2, 0]) == {"image": ["b/1.jpg", "a/1.jpg"]}
    monkeypatch.setattr(files, "names", None)  # a list of a million names takes seconds
    assert files.sample_info(np.array([1])) == {"image": ["a/2.jpg"]}
