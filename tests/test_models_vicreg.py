"""The expander's layers follow from --mlp."""

import pytest

from vicreg.models.vicreg import expander, parse_mlp


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
