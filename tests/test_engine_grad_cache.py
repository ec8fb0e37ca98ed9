"""Gradient caching gives the gradient of the whole batch, and updates running statistics once."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from vicreg.engine.grad_cache import cached_backward, freeze_running_stats
from vicreg.losses.vicreg import vicreg_loss
from vicreg.models.backbones import create_backbone
from vicreg.models.vicreg import VICReg


def run_of(network, autocast=contextlib.nullcontext, seed=lambda part: None):
    """What gradient caching uses of a TrainingRun; ``calls`` collects recorded losses and updates."""
    calls = []
    return SimpleNamespace(
        model=network, autocast=autocast, seed=seed, calls=calls, record=calls.append,
        update=lambda: calls.append("update"),
    )  # fmt: skip


def gradients(network, images, parts, seed=lambda part: None):
    """Losses and gradients of one step over images (2, n, C, H, W), in one pass or in micro-batches."""
    network.zero_grad()

    def make_views(part, parts):
        rows = slice(images.shape[1] * part // parts, images.shape[1] * (part + 1) // parts)
        return images[0, rows], images[1, rows]

    if parts == 1:
        z1, z2, features = network(*make_views(0, 1))
        losses = vicreg_loss(z1, z2)
        losses["loss"].backward()
    else:
        run = run_of(network, seed=seed)
        losses, z1, features = cached_backward(run, make_views, vicreg_loss, parts)
        assert run.calls == [losses["loss"], "update"]
    return losses, z1.detach(), features, [p.grad.clone() for p in network.parameters()]


@pytest.fixture(scope="module")
def without_batchnorm():
    """A vision transformer and a linear expander: no statistics are shared between samples but the loss's."""
    torch.manual_seed(0)
    return VICReg(create_backbone("test_vit"), [24])


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("samples", [12, 40], ids=["batch narrower", "batch wider"])
def test_micro_batches_give_the_gradient_of_one_pass(without_batchnorm, parts, samples):
    images = torch.randn(2, samples, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    losses, z1, representation, expected = gradients(without_batchnorm, images, 1)
    losses_, z1_, representation_, found = gradients(without_batchnorm, images, parts)
    assert losses_["loss"].item() == pytest.approx(losses["loss"].item(), rel=1e-5)
    assert torch.allclose(z1, z1_, atol=1e-5) and torch.allclose(representation, representation_, atol=1e-5)
    largest = max(g.abs().max() for g in expected)
    for one, other in zip(expected, found, strict=True):
        assert (one - other).abs().max() <= 1e-5 * largest


def test_summing_the_losses_of_micro_batches_would_give_another_gradient(without_batchnorm):
    images = torch.randn(2, 12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([g.flatten() for g in gradients(without_batchnorm, images, 1)[3]])
    without_batchnorm.zero_grad()
    for part in images.split(6, dim=1):
        z1, z2, _ = without_batchnorm(*part)
        (vicreg_loss(z1, z2)["loss"] / 2).backward()
    naive = torch.cat([p.grad.flatten() for p in without_batchnorm.parameters()])
    assert (naive - expected).norm() > 0.1 * expected.norm()


def test_running_statistics_count_every_micro_batch_once():
    torch.manual_seed(0)
    network = VICReg(create_backbone("test_resnet"), [8, 8])
    images = torch.randn(2, 8, 3, 32, 32)
    norm = network.expander[1]
    gradients(network, images, 4)
    assert norm.num_batches_tracked == 8  # 4 micro-batches of two views
    before = norm.running_mean.clone()
    with torch.no_grad(), freeze_running_stats(network):
        network(images[0], images[1])
    assert torch.equal(norm.running_mean, before) and norm.track_running_stats


def test_dropout_draws_the_same_in_both_passes():
    torch.manual_seed(0)

    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(5, 4)

        def forward(self, view1, view2):
            first, second = (torch.nn.functional.dropout(self.layer(view), 0.5) for view in (view1, view2))
            self.drawn = [*getattr(self, "drawn", []), (first == 0, second == 0)]
            return first, second, first.detach()

    network, images = Dropping(), torch.randn(2, 6, 5)
    gradients(network, images, 2, seed=lambda part: torch.manual_seed(part))
    embedding, again = network.drawn[:2], network.drawn[2:]
    for one, other in zip(embedding, again, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(embedding[0][0], embedding[1][0])


def test_autocast_covers_every_forward_pass():
    network = torch.nn.Module()
    layer, dtypes = torch.nn.Linear(4, 3), []

    def forward(view1, view2):
        outputs = layer(view1), layer(view2)
        dtypes.append(outputs[0].dtype)
        return *outputs, outputs[0].detach()

    network.forward = forward
    run = run_of(network, lambda: torch.autocast("cpu", torch.bfloat16))
    images = torch.randn(2, 8, 4)
    cached_backward(run, lambda part, parts: images[:, part * 4 : part * 4 + 4], vicreg_loss, 2)
    assert dtypes == [torch.bfloat16] * 4 and layer.weight.grad.dtype == torch.float32
