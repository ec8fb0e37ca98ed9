"""The reference recipe of the benchmarks: the transform of the paper, and the loss against the Gram matrix."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import reference_recipe
from vicreg.losses import vicreg_loss


def test_loss_is_that_of_the_gram_matrix():
    z1, z2 = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(reference_recipe.reference_loss(z1, z2)) == pytest.approx(float(vicreg_loss(z1, z2)["loss"]), rel=1e-6)


def test_only_the_second_view_is_solarized_and_nearly_only_the_first_is_blurred():
    torch.manual_seed(0)
    columns = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (32, 16))[..., None].repeat(3, 2))
    white = Image.fromarray(np.full((32, 32, 3), 255, np.uint8))
    transform = reference_recipe.TwoViews(32)
    sharp, dark = np.zeros(2), np.zeros(2)
    for _ in range(60):
        sharp += [float(view.diff(dim=2).abs().max()) > 2 for view in transform(columns)]
        dark += [float(view.mean()) < -1 for view in transform(white)]
    assert sharp[0] < sharp[1] and dark[0] == 0 and 2 <= dark[1] <= 25


def test_a_step_changes_the_weights_by_finite_amounts():
    args = argparse.Namespace(arch="test_resnet", mlp="8-8", image_size=16, workers=0, precision="fp32")
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    step = reference_recipe.reference_step(args, images, torch.device("cpu"), lambda part: None)
    model = next(cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    before = [weight.detach().clone() for weight in model.parameters()]
    step()
    after = list(model.parameters())
    assert all(weight.isfinite().all() for weight in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
