"""Label fractions and repeated seeds: which samples each run has, and mean and standard deviation."""

import json
import statistics

import numpy as np
import pytest
import torch

from vicreg.common.results import REQUIRED
from vicreg.data.base import BaseDataset, InputSpec
from vicreg.eval.label_efficiency import FrozenFeatures, plan_runs, summarize


class Blocks(BaseDataset):
    """40 samples of two classes in 20 locations: the pixel values are the sample's number."""

    def __init__(self, count=40):
        self.labels = torch.arange(count) % 2
        self.location_ids = np.arange(count) // 2 // 2 * 2 + np.arange(count) % 2
        self.classes, self.mean, self.std, self.patch_size = ["even", "odd"], [0.5], [0.5], 4

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4) * 6


class Mean(torch.nn.Module):
    """One feature, the mean of the image; counts its images."""

    num_features = 1

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, images):
        self.count += len(images)
        return images.mean((1, 2, 3))[:, None]


def test_plan_runs_draws_a_stratified_subset_for_each_seed(tmp_path):
    data = Blocks()
    runs = plan_runs(data, [10, 100], [5, 6, 7], 1, tmp_path / "freeze")
    assert [(run.percent, run.seed) for run in runs] == [(10, 5), (10, 6), (10, 7), (100, 5), (100, 6), (100, 7)]
    assert [len(run.indices) for run in runs] == [4] * 3 + [40] * 3
    assert all(data.labels[run.indices].tolist().count(0) == 2 for run in runs[:3])
    assert len({tuple(run.indices) for run in runs[:3]}) == 3
    assert runs[1].folder == tmp_path / "freeze_10" / "seed_6" and runs[1].percent_folder == tmp_path / "freeze_10"
    assert not any(len(run.held_out) for run in runs)  # one learning rate: nothing to select


def test_plan_runs_marks_whole_locations_as_held_out_and_keeps_them_among_the_training_samples(tmp_path):
    data = Blocks()
    (run,) = plan_runs(data, [100], [5], 2, tmp_path / "freeze")
    assert run.folder == run.percent_folder == tmp_path / "freeze_100"
    assert len(run.indices) == 40 and len(run.held_out) == 4  # a tenth of 10 locations per class, 2 samples each
    rest = run.indices[~run.held_out_mask.numpy()]
    assert len(rest) == 36 and not set(data.location_ids[rest]) & set(data.location_ids[run.held_out])


def test_plan_runs_takes_a_list_of_samples_in_place_of_a_percentage(tmp_path):
    (run,) = plan_runs(Blocks(), [100], [0], 1, tmp_path / "freeze", indices=np.array([3, 8]))
    assert run.indices.tolist() == [3, 8]
    with pytest.raises(ValueError, match="name one percentage"):
        plan_runs(Blocks(), [10, 100], [0], 1, tmp_path / "freeze", indices=np.array([3, 8]))


@pytest.mark.parametrize(("percents", "message"), [([0], "--train-percent 0"), ([10, 10], "twice")])
def test_plan_runs_refuses_values_that_are_not_valid(tmp_path, percents, message):
    with pytest.raises(ValueError, match=message):
        plan_runs(Blocks(), percents, [0], 1, tmp_path / "freeze")


@pytest.mark.parametrize(("views", "plain", "count"), [(2, True, 3 * 40), (2, False, 3 * 40), (0, True, 2 * 40)])
def test_frozen_features_extracts_every_image_once_for_all_runs(tmp_path, views, plain, count):
    data, backbone = Blocks(), Mean()
    runs = plan_runs(data, [10, 100], [5, 6, 7], 2, tmp_path / "freeze")
    spec, device = InputSpec(4, data.mean, data.std), torch.device("cpu")
    features = FrozenFeatures(backbone, data, data, spec, device, runs, views, seed=0, plain=plain)
    assert backbone.count == count  # validation, and each view of training
    for run in runs:
        expected = (torch.from_numpy(run.indices)[:, None] * 6 / 255 - 0.5) / 0.5
        assert torch.allclose(features.plain(run.indices)[0], expected)
        assert torch.equal(features.plain(run.held_out)[1], data.labels[run.held_out])
        if views:  # images of one color: every crop is the same
            torch.testing.assert_close(features.views(run.indices), expected.expand(2, -1, 1), rtol=0, atol=1e-5)


class Gradients(Blocks):
    """Images that differ from left to right."""

    def images(self, indices):
        return super().images(indices) // 2 + torch.arange(0, 120, 30, dtype=torch.uint8)


def test_views_after_the_first_are_random_crops(tmp_path):
    data = Gradients()
    (run,) = plan_runs(data, [100], [5], 1, tmp_path / "freeze")
    spec = InputSpec(4, data.mean, data.std)
    features = FrozenFeatures(Mean(), data, data, spec, torch.device("cpu"), [run], 3, seed=0, plain=True)
    plain, first, second = features.views(run.indices)
    assert not torch.equal(first, plain) and not torch.equal(first, second)


def test_frozen_features_extracts_only_held_out_samples_if_nothing_else_is_needed(tmp_path):
    data, backbone = Blocks(), Mean()
    runs = plan_runs(data, [100], [5], 2, tmp_path / "freeze")
    spec, device = InputSpec(4, data.mean, data.std), torch.device("cpu")
    FrozenFeatures(backbone, data, data, spec, device, runs, 0, seed=0, plain=False)
    assert backbone.count == 40 + 4


def test_summarize_gives_mean_and_standard_deviation_over_seeds(tmp_path):
    runs = plan_runs(Blocks(), [10], [5, 6, 7], 1, tmp_path / "freeze")
    facts = dict.fromkeys(REQUIRED)
    results = [facts | {"top1": top1, "top5": 1.0, "best_top1": top1, "train_samples": 4} for top1 in (0.2, 0.4, 0.9)]
    correct = [{"top1": np.arange(40) < 40 * result["top1"]} for result in results]
    (tmp_path / "freeze_10").mkdir()
    (row,) = summarize(runs, results, correct, Blocks(), tmp_path, "freeze")
    assert row["top1"] == pytest.approx(0.5) and row["top1_std"] == pytest.approx(statistics.stdev([0.2, 0.4, 0.9]))
    low, high = row["intervals"]["top1"]
    assert low < 0.5 < high and "whole locations" in row["intervals_of"]
    assert row["top1_seeds"] == [0.2, 0.4, 0.9] and row["top5_std"] == 0
    assert json.loads((tmp_path / "freeze_10" / "result.json").read_text())["top1_std"] == row["top1_std"]
    assert json.loads((tmp_path / "label_efficiency_freeze.json").read_text()) == [row]
