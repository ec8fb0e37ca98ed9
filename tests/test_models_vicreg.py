"""The expander's layers follow from --mlp, and each view has its own batch statistics."""

import copy

import pytest
import torch
from torch import nn

from vicreg.models.vicreg import VICReg, expander, parse_mlp


@pytest.mark.parametrize("text", ["", "-", "8-", "8--8", "8,8", "8-x", "0", "8-0", "-8", "8.5"])
def test_widths_that_are_no_positive_whole_numbers_are_refused(text):
    with pytest.raises(ValueError, match=r"--mlp .*such as 8192-8192-8192"):
        parse_mlp(text)


def test_expander_is_linear_norm_relu_and_a_last_layer_without_bias():
    layers = expander(5, parse_mlp("7-6-4"))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [tuple(layers[n].weight.shape) for n in (0, 3, 6)] == [(7, 5), (6, 7), (4, 6)]
    assert layers[6].bias is None and layers[0].bias is not None
    assert [tuple(p.shape) for p in expander(5, [4]).parameters()] == [(4, 5)]


class Flatten(nn.Flatten):
    num_features = 12


def test_views_have_the_values_gradients_and_running_statistics_of_two_passes():
    torch.manual_seed(0)
    joined = VICReg(Flatten(), [7, 6, 4]).double()
    apart = copy.deepcopy(joined)
    view1, view2 = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    z1, z2, features = joined(view1, view2)
    expected1, expected2 = apart.expander(view1.flatten(1)), apart.expander(view2.flatten(1))
    torch.testing.assert_close((z1, z2), (expected1, expected2), rtol=0, atol=1e-12)
    assert torch.equal(features, view1.flatten(1)) and not features.requires_grad
    (z1.square().sum() - 3 * z2.sum()).backward()
    (expected1.square().sum() - 3 * expected2.sum()).backward()
    for found, expected in zip(joined.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(joined.state_dict(), apart.state_dict(), rtol=0, atol=1e-12)
