"""Batched image operations equal those of torchvision on each image alone."""

import itertools
import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from vicreg.augmentations import color, functional

ORDERS = list(itertools.permutations(range(4)))


def random_images(n, channels=3, height=12, width=None, seed=0):
    """Random pixels in [0, 1], as far apart as they can be."""
    return torch.rand(n, channels, height, width or height, generator=torch.Generator().manual_seed(seed))


def assert_equal_per_sample(found, expected):
    assert found.shape == torch.stack(expected).shape
    assert (found - torch.stack(expected)).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [5, 8, 20, 40], ids="to {}".format)
@pytest.mark.parametrize("channels", [1, 3, 4], ids="{} channels".format)
def test_crop_resize_equals_torchvisions_antialiased_bicubic(channels, size):
    images = random_images(6, channels, 16, 13)
    # the whole image, its four corners, a single pixel; shrunk and enlarged, each axis by its own factor
    boxes = [(0, 0, 16, 13), (0, 0, 4, 9), (9, 0, 7, 13), (0, 8, 16, 5), (11, 5, 5, 8), (15, 12, 1, 1)]
    found = functional.crop_resize(images, torch.tensor(boxes, dtype=torch.float32), size)
    expected = [
        reference.resized_crop(image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        for image, box in zip(images, boxes, strict=True)
    ]
    assert_equal_per_sample(found, expected)


def test_crop_resize_clips_bicubic_overshoot():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    found = functional.crop_resize(edge, torch.tensor([[0.0, 0, 8, 8]]), 16)
    raw = reference.resize(edge, [16, 16], InterpolationMode.BICUBIC, antialias=True)
    assert raw.min() < 0 and raw.max() > 1
    assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize("size", [7, 40])
def test_crop_resize_flips_each_sample_by_its_own_flags(size):
    images, boxes = random_images(4, height=9), torch.tensor([[1.0, 2, 6, 4]]).repeat(4, 1)
    horizontal, vertical = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    found = functional.crop_resize(images, boxes, size, horizontal, vertical)
    expected = []
    for image, across, down in zip(images, horizontal, vertical, strict=True):
        view = reference.resized_crop(image, 1, 2, 6, 4, [size] * 2, InterpolationMode.BICUBIC, antialias=True)
        view = view.clamp(0, 1)
        view = reference.horizontal_flip(view) if across else view
        expected.append(reference.vertical_flip(view) if down else view)
    assert_equal_per_sample(found, expected)


def test_crop_resize_without_resizing_returns_the_pixels():
    images = torch.randint(0, 256, (3, 3, 12, 12), generator=torch.Generator().manual_seed(0)).float() / 255
    whole = functional.crop_resize(images, torch.tensor([[0.0, 0, 12, 12]]).repeat(3, 1), 12)
    assert torch.equal(whole, images)
    parts = functional.crop_resize(images, torch.tensor([[0.0, 0, 7, 7], [5, 5, 7, 7], [2, 4, 7, 7]]), 7)
    expected = [images[0, :, :7, :7], images[1, :, 5:, 5:], images[2, :, 2:9, 4:11]]
    assert torch.equal(parts, torch.stack(expected))
    flipped = functional.crop_resize(images, torch.tensor([[0.0, 0, 12, 12]]).repeat(3, 1), 12, torch.ones(3).bool())
    assert torch.equal(flipped, images.flip(3))


@pytest.mark.parametrize("side", [12, 40])
def test_gaussian_blur_with_three_taps_equals_torchvisions(side):
    images, sigma = random_images(4, height=side), torch.tensor([0.1, 0.5, 1.3, 2.0])
    expected = [reference.gaussian_blur(x, [3, 3], [s, s]) for x, s in zip(images, sigma.tolist(), strict=True)]
    assert_equal_per_sample(functional.gaussian_blur(images, sigma, 3), expected)


@pytest.mark.parametrize("channels", [1, 3, 4], ids="{} channels".format)
@pytest.mark.parametrize("side", [20, 40])
def test_gaussian_blur_equals_torchvisions_with_four_sigma_to_each_side(channels, side):
    images, sigma = random_images(4, channels, side), torch.tensor([0.1, 0.7, 1.1, 2.0])
    taps = [2 * math.ceil(4 * s) + 1 for s in sigma.tolist()]
    expected = [
        reference.gaussian_blur(x, [k, k], [s, s]) for x, k, s in zip(images, taps, sigma.tolist(), strict=True)
    ]
    assert_equal_per_sample(functional.gaussian_blur(images, sigma), expected)


def test_gaussian_blur_does_not_depend_on_the_sigma_of_other_images():
    images, sigma = random_images(2, height=30), torch.tensor([1.75, 4.0])
    alone = functional.gaussian_blur(images[:1], sigma[:1])
    together = functional.gaussian_blur(images, sigma)[:1]
    assert (alone - together).abs().max() <= 1e-6


def test_gaussian_blur_wider_than_the_image_reflects_once():
    images = random_images(2, height=5)
    expected = [reference.gaussian_blur(x, [9, 9], [3.0, 3.0]) for x in images]
    assert_equal_per_sample(functional.gaussian_blur(images, torch.tensor([3.0, 3.0])), expected)


def test_grayscale_equals_torchvisions():
    images = random_images(2)
    assert_equal_per_sample(color.grayscale(images), [reference.rgb_to_grayscale(x) for x in images])


def test_solarize_equals_torchvisions_and_inverts_the_threshold():
    images = random_images(2)
    images[0, 0, 0, :3] = torch.tensor([0.5, 0.75, 1.0])
    assert_equal_per_sample(color.solarize(images), [reference.solarize(x, 0.5) for x in images])
    raised = color.solarize(images, 0.75)
    assert_equal_per_sample(raised, [reference.solarize(x, 0.75) for x in images])
    assert raised[0, 0, 0, :3].tolist() == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("turns", [-0.5, -0.21, -1 / 6, 0.0, 0.05, 1 / 3, 0.5], ids="{:.2f} turns".format)
def test_shift_hue_equals_torchvisions_on_random_pure_and_gray_pixels(turns):
    images = random_images(2)
    pure = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))  # black, white, the six pure colors
    tied = torch.tensor([[0.5, 0.5, 0.5], [0.7, 0.7, 0.2], [0.2, 0.6, 0.6], [0.9, 0.1, 0.9]])
    images[0, :, 0, :8], images[0, :, 1, :4] = pure.T, tied.T
    expected = [reference.adjust_hue(x, turns) for x in images]
    assert_equal_per_sample(color.shift_hue(images, torch.full((2,), turns)), expected)


def test_shift_hue_by_a_third_turns_red_to_green_and_green_to_blue():
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[:, :, None, None]
    found = color.shift_hue(colors, torch.full((3,), 1 / 3))
    assert (found - colors[[1, 2, 0]]).abs().max() <= 1e-5


@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_color_jitter_equals_torchvisions_in_every_order(strength):
    images = random_images(24)
    random = torch.Generator().manual_seed(1)
    spread = 0.2 if strength == "weak" else 0.8  # strong: clipping on the way
    factors = [1 + spread * (2 * torch.rand(24, generator=random) - 1) for _ in range(3)]
    hue = spread * (torch.rand(24, generator=random) - 0.5)
    found = color.color_jitter(images, torch.tensor(ORDERS), *factors, hue)
    operations = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    expected = []
    for sample, (image, order) in enumerate(zip(images, ORDERS, strict=True)):
        for which in order:
            image = operations[which](image, [*factors, hue][which][sample].item())
        expected.append(image)
    assert_equal_per_sample(found, expected)
    assert (found - images).abs().amax((1, 2, 3)).min() > 0.01  # every sample did change


def test_color_jitter_does_not_change_its_input():
    images = random_images(24)
    before = images.clone()
    half = torch.full((24,), 0.5)
    color.color_jitter(images, torch.tensor(ORDERS), half, half, half, half)
    assert torch.equal(images, before)
