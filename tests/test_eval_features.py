"""Feature extraction: order, modes, processes and random views."""

import math

import numpy as np
import pytest
import torch

from vicreg.augmentations.presets import PROBE_VIEW
from vicreg.common.random_streams import torch_rng
from vicreg.data.base import BaseDataset, InputSpec
from vicreg.eval import features
from vicreg.eval.features import embed_images, extract_features


class Shades(BaseDataset):
    """Sample i is an image of the one color i."""

    def __init__(self, count=10):
        self.count = count

    def __len__(self):
        return self.count

    def images(self, indices):
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)


class Mean(torch.nn.Module):
    """Mean of each channel; notes the mode and the number of samples of each call."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append((self.training, len(images)))
        return images.mean((2, 3))


SPEC, CPU = InputSpec(7, [0.0, 0.0, 0.5], [1 / 255, 1.0, 1.0]), torch.device("cpu")


@pytest.mark.parametrize("training", [True, False])
def test_extract_keeps_the_order_and_gives_the_backbone_its_mode_back(training):
    backbone = Mean().train(training)
    found = extract_features(backbone, Shades(), SPEC, CPU, indices=np.array([7, 1, 9, 1, 0]), batch_size=2)
    assert backbone.training is training
    assert backbone.calls == [(False, 2), (False, 2), (False, 1)]
    assert found.dtype == torch.float32 and not found.requires_grad
    shades = torch.tensor([7.0, 1, 9, 1, 0])
    torch.testing.assert_close(found, torch.stack([shades, shades / 255, shades / 255 - 0.5], 1))


def test_extract_takes_all_samples_where_none_are_named():
    torch.testing.assert_close(extract_features(Mean(), Shades(6), SPEC, CPU)[:, 0], torch.arange(6.0))


def test_bf16_is_for_the_backbone_and_not_for_the_images_it_gets(monkeypatch):
    seen = []
    monkeypatch.setattr(Mean, "forward", lambda self, x: seen.append((x, (x @ x).dtype)) or x.mean((2, 3)))
    for bf16 in (False, True):
        extract_features(Mean(), Shades(), SPEC, CPU, bf16=bf16)
        embed_images(Mean(), Shades().images(range(10)), SPEC, CPU, bf16)
    assert [dtype for _, dtype in seen] == [torch.float32] * 2 + [torch.bfloat16] * 2
    for (expected, _), (found, _) in zip(seen[:2], seen[2:], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("processes", [2, 3, 4, 12])
def test_extract_shares_the_samples_out_and_joins_them_in_order(monkeypatch, processes):
    parts = []
    monkeypatch.setattr(features, "world_size", lambda: processes)
    monkeypatch.setattr(features, "all_gather_cat", lambda part: parts.append(part) or part)
    for rank in range(processes):
        monkeypatch.setattr(features, "rank", lambda rank=rank: rank)
        extract_features(Mean(), Shades(), SPEC, CPU, batch_size=2)
    torch.testing.assert_close(torch.cat(parts)[:, 0], torch.arange(10.0))
    assert max(map(len, parts)) == math.ceil(10 / processes)


def test_extract_of_a_drawn_view_depends_on_its_generator():
    class Steps(Shades):
        def images(self, indices):
            ramp = torch.arange(0, 64, dtype=torch.uint8).reshape(8, 8)
            return ramp.expand(len(indices), 3, 8, 8)

    def drawn(seed):
        return extract_features(Mean(), Steps(), SPEC, CPU, view=PROBE_VIEW, generator=torch_rng(seed, "test"))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert len(drawn(1).unique(dim=0)) >= 8  # each of the ten samples has a view of its own; two may coincide


@pytest.mark.parametrize("processes", [2, 3])
def test_random_views_do_not_depend_on_processes_and_batch_size(monkeypatch, processes):
    class Ramps(Shades):
        def images(self, indices):
            ramp = torch.arange(0, 64, dtype=torch.uint8).reshape(8, 8)
            return torch.stack([ramp + 8 * index for index in indices])[:, None].expand(-1, 3, 8, 8)

    def extract(batch_size):
        return extract_features(
            Mean(), Ramps(), SPEC, CPU, batch_size=batch_size, view=PROBE_VIEW, generator=torch_rng(3, "test")
        )

    expected, parts = extract(256), []
    torch.testing.assert_close(extract(3), expected)
    monkeypatch.setattr(features, "world_size", lambda: processes)
    monkeypatch.setattr(features, "all_gather_cat", lambda part: part)
    for rank in range(processes):
        monkeypatch.setattr(features, "rank", lambda rank=rank: rank)
        parts.append(extract(2))
    torch.testing.assert_close(torch.cat(parts), expected)


def test_build_input_spec_prefers_the_normalization_of_the_weights():
    data = Shades()
    data.mean, data.std = [0.1] * 3, [0.2] * 3
    info = {"mean": None, "std": None}
    assert features.build_input_spec(info, data) == InputSpec(7, [0.1] * 3, [0.2] * 3)
    info = {"mean": [0.5] * 3, "std": [0.6] * 3}
    assert features.build_input_spec(info, data, 4) == InputSpec(4, [0.5] * 3, [0.6] * 3)
