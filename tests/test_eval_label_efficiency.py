"""Shares of the labels, repeated: which samples each run has, and what the spread says."""

import argparse
import json
import statistics

import numpy as np
import pytest
import torch

from vicreg.data.base import BaseDataset
from vicreg.eval import linear_probe
from vicreg.eval.label_efficiency import FrozenFeatures, plan_runs, summarize


class Blocks(BaseDataset):
    """40 samples of two classes in 20 places: the pixel values are the sample's number."""

    def __init__(self, count=40):
        self.labels = torch.arange(count) % 2
        self.location_ids = np.arange(count) // 2 // 2 * 2 + np.arange(count) % 2
        self.classes, self.mean, self.std, self.patch_size = ["even", "odd"], [0.5], [0.5], 4

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4) * 6


class Mean(torch.nn.Module):
    """One feature, the mean of the image; counts the images that it saw."""

    num_features = 1

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.mean((1, 2, 3))[:, None]


def settings(folder, **more):
    """Arguments that plan_runs reads."""
    usual = {"train_percent": [10, 100], "seeds": 3, "seed": 5, "lr_head": [0.1], "exp_dir": folder}
    return argparse.Namespace(**{**usual, **more})


def test_each_seed_draws_its_own_share_of_every_class(tmp_path):
    data = Blocks()
    runs = plan_runs(settings(tmp_path), data, None, "freeze")
    assert [(run.percent, run.seed) for run in runs] == [(10, 5), (10, 6), (10, 7), (100, 5), (100, 6), (100, 7)]
    assert [len(run.fit) for run in runs] == [4] * 3 + [40] * 3
    assert all(data.labels[run.fit].tolist().count(0) == 2 for run in runs[:3])
    assert len({tuple(run.fit) for run in runs[:3]}) == 3
    assert runs[1].folder == tmp_path / "freeze_10" / "seed_6"


def test_one_run_keeps_the_folder_of_its_share_and_holds_out_whole_places(tmp_path):
    data = Blocks()
    (run,) = plan_runs(settings(tmp_path, train_percent=[100], seeds=1, lr_head=[0.1, 1]), data, None, "freeze")
    assert run.folder == tmp_path / "freeze_100"
    assert len(run.fit) + len(run.held_out) == 40 and len(run.held_out) == 4  # a tenth of 10 places a class, 2 samples
    assert not set(data.location_ids[run.fit]) & set(data.location_ids[run.held_out])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"train_percent": [0]}, "--train-percent 0"),
        ({"train_percent": [10, 10]}, "twice"),
        ({"seeds": 0}, "--seeds 0"),
    ],
)
def test_a_share_or_a_number_of_seeds_that_is_none_is_refused(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        plan_runs(settings(tmp_path, **wrong), Blocks(), None, "freeze")


def test_features_are_extracted_once_for_all_runs_and_are_each_runs_own(tmp_path):
    data, backbone = Blocks(), Mean()
    runs = plan_runs(settings(tmp_path, lr_head=[0.1, 1]), data, None, "freeze")
    look = {"size": 4, "mean": data.mean, "std": data.std, "device": torch.device("cpu")}
    known = FrozenFeatures(backbone, data, data, look, runs, views=2, seed=0, neighbors=True)
    assert backbone.seen == 3 * len(data)  # validation, and two views of training
    for run in runs:
        expected = (torch.from_numpy(run.fit)[:, None] * 6 / 255 - 0.5) / 0.5
        assert torch.allclose(known.plain(run.fit)[0], expected)
        assert torch.allclose(known.views(run).views[0], expected) and torch.allclose(
            known.views(run).views[1], expected, atol=1e-5  # images of one color: every crop is the same
        )  # fmt: skip
        assert torch.equal(known.judged(run)[1][1], data.labels[run.held_out])


def test_mean_and_standard_deviation_are_those_of_the_seeds(tmp_path):
    runs = plan_runs(settings(tmp_path, train_percent=[10], seeds=3), Blocks(), None, "freeze")
    results = [{"top1": top1, "top5": 1.0, "best_top1": top1, "train_samples": 4} for top1 in (0.2, 0.4, 0.9)]
    (tmp_path / "freeze_10").mkdir()
    (row,) = summarize(runs, results, tmp_path, "freeze")
    assert row["top1"] == pytest.approx(0.5) and row["top1_std"] == pytest.approx(statistics.stdev([0.2, 0.4, 0.9]))
    assert row["top1_seeds"] == [0.2, 0.4, 0.9] and row["top5_std"] == 0
    assert json.loads((tmp_path / "freeze_10" / "result.json").read_text())["top1_std"] == row["top1_std"]
    assert json.loads((tmp_path / "label_efficiency_freeze.json").read_text()) == [row]


def test_a_repeated_evaluation_gives_what_single_ones_give(sn7_prepared, tmp_path):
    from vicreg.data.sn7 import SN7Patches

    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    words = "--pretrained random --arch test_resnet --image-size 16 --batch-size 16 --epochs 2 --views 1 --device cpu"
    words += " --workers 0 --knn 3"

    def evaluate(folder, *more):
        words_of_run = [*words.split(), "--exp-dir", str(tmp_path / folder), *map(str, more)]
        return linear_probe.probe(linear_probe.get_parser("toy").parse_args(words_of_run), train, val)

    rows = evaluate("all", "--train-percent", 10, 100, "--seeds", 2)
    singles = [evaluate(f"single{n}", "--train-percent", n, "--seed", 0) for n in (10, 100)]
    for row, single in zip(rows, singles, strict=True):
        assert row["top1_seeds"][0] == single["top1"] and row["knn3_top1_seeds"][0] == single["knn3_top1"]
        assert row["train_samples"] == single["train_samples"]


def test_finetuning_begins_each_seed_with_the_same_backbone(sn7_prepared, tmp_path):
    from vicreg.data.sn7 import SN7Patches

    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    words = "--pretrained random --arch test_resnet --image-size 16 --batch-size 8 --epochs 1 --device cpu --workers 0"
    words += " --weights finetune --lr-backbone 0.1 --train-percent 100 --exp-dir"

    def losses(folder, *more):
        words_of_run = [*words.split(), str(tmp_path / folder), *more]
        linear_probe.probe(linear_probe.get_parser("toy").parse_args(words_of_run), train, val)
        found = sorted((tmp_path / folder).rglob("stats.txt"))
        return [json.loads(path.read_text().splitlines()[0])["loss"] for path in found]

    first, second = losses("both", "--seeds", "2")
    assert first != second
    assert losses("alone", "--seed", "0") == [first]
