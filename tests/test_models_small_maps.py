"""Convolutions of small maps as matrix products: the values and gradients of PyTorch's convolution."""

import copy

import pytest
import torch
from torch import nn

from vicreg.models.backbones import create_backbone
from vicreg.models.small_maps import SmallMapConv2d, use_matrix_products
from vicreg.models.vicreg import VICReg


def values_and_gradients(model, images):
    images = images.clone().requires_grad_()
    result = model(images)
    weights = torch.arange(result.numel(), dtype=torch.float64).view(result.shape).sin()
    (result * weights).sum().backward()
    return [result.detach(), images.grad, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (5, 5)])
def test_values_and_gradients_are_those_of_the_convolution(stride, height, width):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(128, 5, 3, stride, padding=1, bias=False)).double()
    ours = copy.deepcopy(plain)
    use_matrix_products(ours)
    assert type(ours[0]) is SmallMapConv2d
    images = torch.randn(4, 128, height, width, dtype=torch.float64)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batch = images.contiguous(memory_format=memory_format)
        for mine, theirs in zip(values_and_gradients(ours, batch), values_and_gradients(plain, batch), strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 1}, {"padding": 0}, {"padding": 2}, {"groups": 2}, {"dilation": 2}, {"bias": True},
     {"padding_mode": "reflect"}, {"padding": "same"}, {"in_channels": 64}],
)  # fmt: skip
def test_other_convolutions_stay_as_they_are(options):
    layer = nn.Conv2d(
        **{"in_channels": 128, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False} | options
    )
    use_matrix_products(nn.Sequential(layer))
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize(("side", "small"), [(32, {1, 2}), (64, {2})])
def test_resnet18_has_the_features_and_gradients_of_plain_pytorch(side, small):
    torch.manual_seed(0)
    plain = create_backbone("resnet18").double().train()
    ours = VICReg(copy.deepcopy(plain), [8]).backbone
    assert ours.state_dict().keys() == plain.state_dict().keys()
    seen = set()
    for module in ours.modules():
        if isinstance(module, SmallMapConv2d):
            module.register_forward_hook(lambda module, inputs, result: seen.add(max(inputs[0].shape[2:])))
    images = torch.randn(6, 3, side, side, dtype=torch.float64)
    for mine, theirs in zip(values_and_gradients(ours, images), values_and_gradients(plain, images), strict=True):
        assert (mine - theirs).norm() <= 1e-9 * theirs.norm()
    assert small <= seen


def test_gradients_under_bf16_are_finite_and_close():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, bias=False))
    images = torch.randn(64, 256, 2, 2)
    exact = values_and_gradients(layer, images)
    layer.zero_grad()
    use_matrix_products(layer)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = values_and_gradients(layer, images)
    assert all((mine - theirs).norm() <= 0.01 * theirs.norm() for mine, theirs in zip(rounded, exact, strict=True))
