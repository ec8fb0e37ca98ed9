"""Sizes of random crops at their limits, worked out by hand."""

import pytest
import torch

from vicreg.augmentations.functional import crop_resize
from vicreg.augmentations.presets import Augmentation
from vicreg.augmentations.random_crop import resized_crop_size, square_crop_side

RESIZED = Augmentation(crop="resized", scale=(0.01, 1.0), ratio=(0.25, 4.0))


@pytest.mark.parametrize(
    ("shape", "tries", "expected"),
    [
        ((10, 10), [(0.5, 2.0)], (5, 10, False)),  # as wide as the image
        ((10, 10), [(0.5, 0.5)], (10, 5, False)),  # as high as the image
        ((10, 10), [(0.01, 1.0)], (1, 1, False)),  # one pixel
        ((10, 10), [(0.72, 2.0), (0.25, 1.0)], (5, 5, False)),  # 6 x 12 does not fit, 5 x 5 does
        ((10, 10), [(0.72, 2.0)], (10, 10, True)),  # none fits: the whole image is within the aspect ratios
        ((2, 100), [(0.9, 1.0)], (2, 8, True)),  # 13 x 13 does not fit: the widest crop allowed, 4 times its height
        ((100, 2), [(0.9, 1.0)], (8, 2, True)),
    ],
)
def test_resized_crop_size_takes_the_first_try_that_fits(shape, tries, expected):
    assert tuple(value.item() for value in resized_crop_size(RESIZED, *shape, tries)) == expected


def test_square_crop_side_is_at_least_one_pixel():
    fixed = Augmentation(crop="fixed", fraction=0.25)
    assert [square_crop_side(fixed, *shape) for shape in [(1, 1), (8, 100), (100, 8)]] == [1, 2, 2]


def test_crop_resize_of_the_whole_image_flips_each_axis_of_its_own_samples():
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 4, 4]] * 3)
    horizontal, vertical = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    found = crop_resize(images, boxes, 4, horizontal, vertical)
    assert torch.equal(found, torch.stack([images[0].flip(2), images[1].flip(1), images[2]]))
