"""Presets have their documented parameters, and views depend on (seed, step, view) alone."""

import dataclasses
import functools
import math

import pytest
import torch
import torchvision
from torchvision.transforms.v2 import functional as reference

from vicreg.augmentations import batch, color, functional, presets
from vicreg.augmentations.batch import apply, augment_pair, normalize, sample_params, seed_step
from vicreg.augmentations.presets import PLAIN, PRESETS, PROBE_VIEW, Augmentation, get_augmentation
from vicreg.common.random_streams import torch_rng

MANY = 20_000
RESIZED = {"crop": "resized", "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
FIXED = {"crop": "fixed", "fraction": 224 / 256}
PATCH = {"crop": "resized", "scale": (0.3, 1.0), "vertical_flip": 0.5}
OVERHEAD = {"crop": "resized", "scale": (0.2, 1.0), "vertical_flip": 0.5, "quarter_turns_p": 0.75}
MULTISPECTRAL = {"rgb": False, "band_jitter": (0.1, 0.1), "band_jitter_p": 0.8, "band_drop_p": 0.05}
TABLE = {  # crop, flip, jitter, jitter_p, gray_p, blur_p, kernel, solarize_p of the first and second view
    "vicreg": [
        (RESIZED, 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0, 0.0),
        (RESIZED, 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0, 0.2),
    ],
    "sn7": [
        (FIXED, 0.5, (0.6, 0.6, 0.4, 0.2), 0.8, 0.3, 1.0, 3, 0.0),
        (FIXED, 0.5, (0.6, 0.6, 0.4, 0.2), 0.8, 0.2, 0.1, 3, 0.3),
    ],
    "temporal": [
        (FIXED, 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 3, 0.0),
        (FIXED, 0.5, (0.4, 0.4, 0.4, 0.1), 0.4, 0.1, 0.1, 3, 0.0),
    ],
    "fmow": [
        (
            {"crop": "resized", "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)},
            0.5,
            (0.4, 0.4, 0.4, 0.1),
            0.8,
            0.2,
            0.5,
            0,
            0.0,
        )
    ]
    * 2,  # fmt: skip
    "patch_weak": [
        (PATCH, 0.5, (0.1, 0.1, 0.1, 0.0), 0.8, 0.0, 0.0, 3, 0.0),
        (PATCH, 0.5, (0.1, 0.1, 0.1, 0.0), 0.4, 0.0, 0.0, 3, 0.0),
    ],
    "patch_medium": [
        (PATCH, 0.5, (0.2, 0.2, 0.2, 0.05), 0.8, 0.1, 0.0, 3, 0.0),
        (PATCH, 0.5, (0.2, 0.2, 0.2, 0.05), 0.4, 0.1, 0.0, 3, 0.0),
    ],
    "patch_strong": [(PATCH | {"scale": (0.2, 1.0)}, 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.0, 3, 0.0)] * 2,
    "overhead": [
        (OVERHEAD, 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0, 0.0),
        (OVERHEAD, 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0, 0.2),
    ],
    "multispectral": [
        (OVERHEAD | MULTISPECTRAL, 0.5, (0.4, 0.4, 0.0, 0.0), 0.8, 0.2, 0.5, 0, 0.0),
        (OVERHEAD | MULTISPECTRAL, 0.5, (0.4, 0.4, 0.0, 0.0), 0.8, 0.2, 0.1, 0, 0.0),
    ],
    "crop": [(RESIZED, 0.5, None, 0.0, 0.0, 0.0, None, 0.0)] * 2,
    "none": [({"crop": "center", "fraction": 224 / 256}, 0.0, None, 0.0, 0.0, 0.0, None, 0.0)] * 2,
}


def photographs(n, channels=3, height=16, width=16):
    return torch.randint(0, 256, (n, channels, height, width), generator=torch_rng(9, "test"), dtype=torch.uint8)


def assert_probability(happened, p):
    """The count of a fixed seed is within five standard deviations of the binomial's mean."""
    assert abs(happened.double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / len(happened))


@pytest.mark.parametrize("which", [0, 1], ids=["first view", "second view"])
@pytest.mark.parametrize("name", TABLE)
def test_preset_has_its_documented_parameters(name, which):
    view = PRESETS[name][which]
    crop, flip, jitter, jitter_p, gray_p, blur_p, kernel, solarize_p = TABLE[name][which]
    assert {key: getattr(view, key) for key in crop} == crop
    assert view.flip == flip
    off = {"vertical_flip": 0.0, "quarter_turns_p": 0.0, "band_jitter_p": 0.0, "band_drop_p": 0.0, "rgb": True} | crop
    assert {key: getattr(view, key) for key in off} == off
    assert (view.jitter_p, view.gray_p, view.blur_p, view.solarize_p) == (jitter_p, gray_p, blur_p, solarize_p)
    if jitter is not None:
        assert (view.jitter, view.blur_kernel, view.blur_sigma) == (jitter, kernel, (0.1, 2.0))


def test_presets_are_all_documented():
    assert set(PRESETS) == set(TABLE)


@pytest.mark.parametrize("which", [0, 1], ids=["first view", "second view"])
@pytest.mark.parametrize("name", ["vicreg", "sn7", "temporal", "overhead"])
def test_sample_params_follow_probabilities_and_ranges(name, which):
    view = PRESETS[name][which]
    p = sample_params(view, MANY, 256, 256, torch_rng(0, "test", which))
    for key in ("flip", "vertical_flip"):
        assert_probability(p[key], getattr(view, key))
    for key, probability in {"jittered": "jitter_p", "gray": "gray_p", "blurred": "blur_p"}.items():
        assert_probability(p[key], getattr(view, probability))
    assert_probability(p["solarized"], view.solarize_p)
    for key, x in zip(("brightness", "contrast", "saturation", "hue"), view.jitter, strict=True):
        middle = 0 if key == "hue" else 1
        assert middle - x <= p[key].min() <= middle - 0.99 * x
        assert middle + 0.99 * x <= p[key].max() <= middle + x
        assert_probability(p[key] < middle, 0.5)
    assert 0.1 <= p["sigma"].min() < 0.11 and 1.99 < p["sigma"].max() <= 2.0
    orders = p["order"] @ torch.tensor([64, 16, 4, 1])
    assert len(orders.unique()) == 24 and (p["order"].sort(1).values == torch.arange(4)).all()
    for order in orders.unique():
        assert_probability(orders == order, 1 / 24)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (96, 128)], ids=str)
def test_resized_crops_are_inside_the_image_with_area_and_aspect_in_range(height, width):
    view = Augmentation(scale=(0.2, 0.6))
    top, left, box_height, box_width = sample_params(view, MANY, height, width, torch_rng(0, "test"))["boxes"].unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (box_height > 0).all() and (box_width > 0).all()
    assert (top + box_height <= height).all() and (left + box_width <= width).all()
    for values in (top, left, box_height, box_width):
        assert torch.equal(values, values.round())
    # exact before the sides were rounded to whole pixels, each by half a pixel at most
    assert ((box_height + 0.5) * (box_width + 0.5) >= 0.2 * height * width).all()
    assert ((box_height - 0.5) * (box_width - 0.5) <= 0.6 * height * width).all()
    assert ((box_width + 0.5) / (box_height - 0.5) >= 3 / 4).all()
    assert ((box_width - 0.5) / (box_height + 0.5) <= 4 / 3).all()
    if height == width:
        assert_probability(box_width < box_height, (box_width != box_height).double().mean().item() / 2)
        area = box_height * box_width / (height * width)
        assert area.mean().item() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (33, 34)], ids=str)
def test_resized_crop_falls_back_to_torchvisions_center_crop(height, width):
    view = Augmentation(scale=(3.0, 3.0))  # larger than the image: no try fits
    boxes = sample_params(view, 50, height, width, torch_rng(0, "test"))["boxes"]
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    assert (boxes == torch.tensor(get_params(torch.empty(3, height, width), view.scale, view.ratio))).all()


def test_fixed_crops_are_224_of_256_pixels_at_uniform_positions():
    boxes = sample_params(PRESETS["sn7"][0], MANY, 256, 256, torch_rng(0, "test"))["boxes"]
    assert (boxes[:, 2:] == 224).all()
    for start in boxes[:, :2].T:
        assert set(start.tolist()) == set(range(33))
        for value in (0, 16, 32):
            assert_probability(start == value, 1 / 33)


def test_center_crop_is_constant():
    boxes = sample_params(PLAIN, 5, 256, 258, torch_rng(0, "test"))["boxes"]
    assert (boxes == torch.tensor([16.0, 17, 224, 224])).all()


def test_preset_none_returns_the_center_pixels():
    images = photographs(4)
    for view in PRESETS["none"]:
        made = apply(images, sample_params(view, 4, 16, 16, torch_rng(0, "test")), 14, view)
        assert torch.equal(made, images[:, :, 1:15, 1:15].float() / 255)


def test_probe_view_is_a_random_resized_crop_and_a_flip():
    assert dataclasses.asdict(PROBE_VIEW) == dataclasses.asdict(PLAIN) | {"crop": "resized", "flip": 0.5}


@pytest.mark.parametrize("name", ["vicreg", "sn7", "temporal"])
def test_apply_maps_uint8_to_float_in_0_to_1(name):
    images = photographs(40)
    for view in PRESETS[name]:
        made = apply(images, sample_params(view, 40, 16, 16, torch_rng(1, "test")), 14, view)
        assert made.dtype == torch.float32 and made.shape == (40, 3, 14, 14)
        assert made.min() >= 0 and made.max() <= 1
        assert (made.amax((1, 2, 3)) > made.amin((1, 2, 3))).all()


@pytest.mark.parametrize(("channels", "rgb"), [(1, True), (4, True), (3, False)])
def test_apply_treats_images_that_are_not_rgb_band_by_band(channels, rgb):
    images = photographs(8, channels)
    view = dataclasses.replace(PRESETS["sn7"][1], jitter_p=1.0, solarize_p=1.0, gray_p=0.0, blur_p=0.0, rgb=rgb)
    p = sample_params(view, 8, 16, 16, torch_rng(2, "test"), channels)
    made = apply(images, p, 14, view)
    for index, (image, box, flipped) in enumerate(zip(images, p["boxes"].long().tolist(), p["flip"], strict=True)):
        part = image[:, box[0] : box[0] + 14, box[1] : box[1] + 14].float() / 255
        part = (part.flip(2) if flipped else part)[:, None]  # one grayscale image for each band
        for operation in p["order"][index].tolist():
            if operation == 0:
                part = reference.adjust_brightness(part, p["brightness"][index].item())
            if operation == 1:
                part = reference.adjust_contrast(part, p["contrast"][index].item())
        torch.testing.assert_close(made[index], part[:, 0], rtol=0, atol=1e-5)
    gray = apply(images, p | {"gray": torch.ones(8, dtype=torch.bool)}, 14, view)
    torch.testing.assert_close(gray, made.mean(1, keepdim=True).expand_as(made), rtol=0, atol=1e-6)
    blurred = apply(images, p | {"blurred": torch.ones(8, dtype=torch.bool)}, 14, view)
    assert ((blurred - made).abs().amax((1, 2, 3)) > 0)[p["sigma"] > 0.5].all()


def test_apply_scales_uint16_as_uint8():
    images, view = photographs(6, 5), PRESETS["multispectral"][0]
    p = sample_params(view, 6, 16, 16, torch_rng(1, "test"), 5)
    deep = (images.int() * 257).to(torch.uint16)  # 255 * 257 = 65535
    torch.testing.assert_close(apply(deep, p, 14, view), apply(images, p, 14, view), rtol=0, atol=1e-6)


def test_band_parameters_follow_probabilities_and_ranges():
    view = dataclasses.replace(PRESETS["multispectral"][0], band_jitter=(0.1, 0.3), band_drop_p=0.2)
    p = sample_params(view, MANY, 16, 16, torch_rng(0, "test"), 4)
    for turns in range(4):
        assert_probability(p["turns"] == turns, 0.25)
    assert_probability(p["band_jittered"], 0.8)
    for name, x in (("band_brightness", 0.1), ("band_contrast", 0.3)):
        assert p[name].shape == (MANY, 4)
        assert 1 - x <= p[name].min() < 1 - 0.99 * x and 1 + 0.99 * x < p[name].max() <= 1 + x
    assert abs(torch.corrcoef(p["band_brightness"].T)[0, 1]) < 0.05
    for band in range(
        4
    ):  # all four would be dropped with probability 0.2 ** 4; then the band of the largest draw stays
        assert_probability(p["band_dropped"][:, band], 0.2 - 0.2**4 / 4)
    everything = sample_params(dataclasses.replace(view, band_drop_p=1.0), MANY, 16, 16, torch_rng(0, "test"), 4)
    assert (everything["band_dropped"].sum(1) == 3).all()


def test_band_parameters_leave_the_others_unchanged():
    plain = dataclasses.replace(PRESETS["multispectral"][0], quarter_turns_p=0.0, band_jitter_p=0.0, band_drop_p=0.0)
    few, many = (sample_params(v, 9, 16, 16, torch_rng(4, "test")) for v in (plain, PRESETS["multispectral"][0]))
    assert all(torch.equal(few[key], many[key]) for key in few)


def test_apply_rotates_jitters_and_drops_bands_of_their_own_samples():
    images, view = photographs(4, 4), dataclasses.replace(PLAIN, fraction=1.0)
    p = sample_params(view, 4, 16, 16, torch_rng(3, "test"), 4)
    unit = images.float() / 255
    turned = apply(images, p | {"turns": torch.arange(4)}, 16, view)
    for k in range(4):
        assert torch.equal(turned[k], reference.rotate(unit[k], 90 * k))
    factors = torch.rand(4, 4, generator=torch_rng(5, "test")) + 0.5
    mask = torch.tensor([True, False, True, True])
    jitter = {"band_jittered": mask, "band_brightness": factors, "band_contrast": factors.flip(0)}
    made = apply(
        images, p | jitter | {"order": torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 2, 3], [3, 1, 2, 0]])}, 16, view
    )
    for index in range(4):
        for band in range(4):
            one = unit[index, band][None]
            changes = [reference.adjust_brightness, reference.adjust_contrast]
            values = [factors[index, band].item(), factors.flip(0)[index, band].item()]
            order = (0, 1) if index == 0 else (1, 0)
            for which in order if mask[index] else ():
                one = changes[which](one, values[which])
            torch.testing.assert_close(made[index, band], one[0], rtol=0, atol=1e-5)
    dropped = torch.eye(4, dtype=torch.bool)
    kept = apply(images, p | {"band_dropped": dropped}, 16, view)
    assert torch.equal(kept, unit * ~dropped[:, :, None, None])


@pytest.mark.parametrize("key", ["jittered", "gray", "blurred", "solarized"])
def test_apply_changes_masked_samples_only(key):
    images = photographs(12)
    p = sample_params(dataclasses.replace(PLAIN, blur_sigma=(1.0, 2.0)), 12, 16, 16, torch_rng(3, "test"))
    plain = apply(images, p, 14, PLAIN)
    p[key] = torch.arange(12) % 3 == 1
    assert torch.equal((apply(images, p, 14, PLAIN) != plain).any(1).any(1).any(1), p[key])


def test_sample_params_depend_on_the_counters_alone():
    first = sample_params(Augmentation(), 6, 16, 16, torch_rng(1, "test", 2, 0))
    torch.rand(7)
    again = sample_params(Augmentation(), 6, 16, 16, torch_rng(1, "test", 2, 0))
    assert all(torch.equal(first[key], again[key]) for key in first)
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1), (2, 1, 0)):
        assert not torch.equal(
            first["sigma"], sample_params(Augmentation(), 6, 16, 16, torch_rng(other[0], "test", *other[1:]))["sigma"]
        )


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("processes", [2, 3])
def test_augment_pair_does_not_depend_on_the_number_of_processes(name, processes):
    first, second = photographs(6), photographs(6).flip(0)
    augment = functools.partial(
        augment_pair, views=get_augmentation(name), size=14, batch_size=6, seed=5, device=torch.device("cpu")
    )
    alone = augment(first, second, rank=0, step=7)
    other_step = augment(first, second, rank=0, step=8)
    assert torch.equal(alone[0], other_step[0]) == (name == "none")
    n = 6 // processes
    rows = [slice(rank * n, (rank + 1) * n) for rank in range(processes)]
    parts = [augment(first[mine], second[mine], rank=rank, step=7) for rank, mine in enumerate(rows)]
    for joined, whole in zip(map(torch.cat, zip(*parts, strict=True)), alone, strict=True):
        torch.testing.assert_close(joined, whole, rtol=0, atol=1e-6)


def test_overrides_change_one_parameter_of_both_views_or_of_one():
    views = get_augmentation("sn7", ["scale=0.3,1", "2.blur_p=0", "crop=resized", "1.blur_kernel=5"])
    expected = [
        dataclasses.replace(PRESETS["sn7"][0], scale=(0.3, 1.0), crop="resized", blur_kernel=5),
        dataclasses.replace(PRESETS["sn7"][1], scale=(0.3, 1.0), crop="resized", blur_p=0.0),
    ]
    assert views == tuple(expected)
    assert isinstance(views[0].blur_kernel, int)
    assert get_augmentation("sn7") == PRESETS["sn7"]


@pytest.mark.parametrize("change", ["zoom=2", "3.flip=1", "flip", "flip=", "=1", "first.flip=1"])
def test_overrides_refuse_unknown_parameters_and_list_the_known_ones(change):
    with pytest.raises(ValueError, match="PARAMETER=VALUE") as error:
        get_augmentation("vicreg", [change])
    assert repr(change) in str(error.value)
    assert all(field.name in str(error.value) for field in dataclasses.fields(Augmentation))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("scale=0.3", "2 number"),
        ("rgb=1", "true or false"),
        ("flip=1,2", "1 number"),
        ("jitter=a,b,c,d", "numbers expected"),
    ],
)
def test_overrides_refuse_values_of_the_wrong_type(change, why):
    with pytest.raises(ValueError, match=why) as error:
        get_augmentation("vicreg", [change])
    assert repr(change) in str(error.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("crop=resize", "crop must be resized, fixed or center"), ("scale=1,0.3", "the smaller first"),
        ("scale=0,1", "scale must be two fractions"), ("ratio=0,1", "ratio must be two positive"),
        ("fraction=2", "at most 1"), ("2.flip=1.5", "from 0 to 1"),
        ("jitter=0.4,0.4,0.4,0.6", "hue at most 0.5"), ("jitter=-1,0,0,0", "negative"),
        ("blur_sigma=0,1", "blur_sigma"), ("blur_kernel=-1", "blur_kernel"), ("gray_p=nan", "from 0 to 1"),
        ("band_drop_p=2", "from 0 to 1"), ("band_jitter=-1,0", "band_jitter"),
    ],
)  # fmt: skip
def test_overrides_refuse_values_out_of_range(change, why):
    with pytest.raises(ValueError, match=why) as error:
        get_augmentation("sn7", [change])
    assert repr(change) in str(error.value)


def test_get_augmentation_refuses_unknown_presets_and_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match="preset 'simclr'; choose from vicreg, sn7, temporal, patch_weak, patch_medium, patch_strong, fmow, "
        "overhead, multispectral, crop, none",
    ):
        presets.get_augmentation("simclr")


def test_normalize_subtracts_mean_and_divides_by_std_per_channel():
    images = torch.tensor([0.5, 1.0])[None, :, None, None].expand(2, 2, 3, 3)
    made = normalize(images, [0.25, 0.5], [0.5, 0.25])
    assert torch.equal(made, torch.tensor([0.5, 2.0])[None, :, None, None].expand(2, 2, 3, 3))


def test_apply_blurs_with_the_views_kernel_and_solarizes_the_blurred_image():
    view = dataclasses.replace(PLAIN, blur_kernel=3)
    images = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    params = sample_params(view, 2, 16, 16, torch_rng(0, "augmentation"))
    plain = apply(images, params, 16, view)
    everyone = torch.ones(2, dtype=torch.bool)
    params |= {"blurred": everyone, "solarized": everyone, "sigma": torch.tensor([0.7, 2.0])}
    expected = color.solarize(functional.gaussian_blur(plain, params["sigma"], 3))
    assert torch.equal(apply(images, params, 16, view), expected)


def test_augment_pair_samples_each_view_and_each_step_anew():
    augmentations = get_augmentation("vicreg", [])
    images = torch.randint(256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    same = (augmentations[0], augmentations[0])
    augment = functools.partial(
        augment_pair, images, images, same, 16, batch_size=1, rank=0, device=torch.device("cpu")
    )
    (first, second), (again, _) = augment(seed=3, step=5), augment(seed=3, step=6)
    assert not torch.equal(first, second) and not torch.equal(first, again)


def test_augment_pair_copies_its_images_without_waiting_for_a_gpu(monkeypatch):
    copied, images = [], torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(batch, "send", lambda values, device: copied.append(values.shape) or values)
    augment_pair(images, images, [PLAIN] * 2, 8, batch_size=2, rank=0, seed=0, step=0, device=torch.device("cpu"))
    assert copied == [images.shape] * 2


def test_seed_step_depends_on_the_step_and_the_micro_batch():
    def numbers(*counters):
        seed_step(*counters)
        return torch.rand(1).item()

    assert numbers(3, 5) == numbers(3, 5)
    assert len({numbers(3, 5), numbers(4, 5), numbers(3, 6), numbers(3, 5, 1)}) == 4
