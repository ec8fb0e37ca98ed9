"""The supervised baseline: its loss, its rate, its figures, and the script at toy size."""

import dataclasses
import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supervised import train as supervised_training
from supervised.config import SupervisedConfig
from supervised.main_supervised_sn7 import get_parser
from vicreg.common.logger import read_stats
from vicreg.engine.config import RunPlan
from vicreg.eval import classification
from vicreg.models.backbones import load_backbone

# From the README, to be typed in supervised/. Tests append toy sizes: of a flag given twice, the last counts.
TRAIN = (
    "python main_supervised_sn7.py --csv-dir ../data/sn7 --arch resnet18 --epochs 100 --batch-size 64 --lr 0.01 "
    "--exp-dir exp/supervised"
)
TOY = "--arch test_resnet --batch-size 16 --epochs 4 --image-size 16 --workers 0 --device cpu --log-freq-time 0"


@pytest.fixture(scope="module")
def supervise(fork, sn7_prepared):
    """Function (run folder, *more arguments, processes=1) -> Forked toy training, a checkpoint for every step."""

    def run(folder, *more, processes=1):
        words = ["--csv-dir", str(sn7_prepared), "--exp-dir", str(folder), *TOY.split()]
        words += ["--checkpoint-every", "1", *map(str, more)]
        code = "import sys; from vicreg.common import cli; from supervised import main_supervised_sn7 as script\n"
        code += f"sys.argv = ['main_supervised_sn7.py', *{words}]\n"
        code += "cli.run(script.main, script.get_parser().parse_args())"
        forked = fork(code, f"{folder}.out", processes)
        forked.folder = folder
        return forked

    return run


@pytest.fixture(scope="module")
def trained(supervise, tmp_path_factory):
    """Folder of a toy run that nobody disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("supervised") / "run"
    run = supervise(folder)
    assert run.wait(0) == 0, run.text(0)
    return folder, run.text(0)


def test_the_readmes_line_works_from_its_folder(repo_root, sn7_prepared, tmp_path):
    readme = " ".join("\n".join(p.read_text() for p in (repo_root / "docs").rglob("*.md")).replace("\\\n", " ").split())
    assert TRAIN in readme
    words = [sys.executable, *TRAIN.split()[1:], *TOY.split(), "--csv-dir", sn7_prepared, "--exp-dir", tmp_path]
    ran = subprocess.run([*map(str, words), "--max-steps", "2"], cwd=repo_root / "supervised", capture_output=True,
                         text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "cross-entropy" in ran.stdout and (tmp_path / "result.json").is_file()


def test_a_run_leaves_figures_a_picture_and_a_backbone_that_loads_strictly(trained):
    folder, text = trained
    result = json.loads((folder / "result.json").read_text())
    assert 0 <= result["top1"] <= result["top5"] <= 1 and result["best_top1"] >= result["top1"]
    assert set(result["last"]["recall"]) == set(result["classes"])
    assert np.sum(result["last"]["confusion"]) == result["val_samples"] == 60
    assert result["overlap"]["location_overlap"] == 0 and "show a training location" in text
    assert all(low <= result[name] <= high for name, (low, high) in result["intervals"].items())
    assert set(result["intervals"]) == {"top1", "top5"} and not {"ranked", "intervals"} & set(result["last"])
    assert sum(place["samples"] for place in result["locations"]) == 60
    assert Image.open(folder / "confusion.png").size[0] > 100
    backbone, info = load_backbone(folder / "trained_model.pth")
    assert info["arch"] == "test_resnet" and "supervised" in info["source"] and "0 missing" in info["report"]
    lines = read_stats(folder / "stats.txt")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["top1"] == result["top1"]


def test_it_learns(supervise, tmp_path):
    run = supervise(tmp_path / "run", "--epochs", 12, "--optimizer", "adamw", "--lr", 0.01, "--augment", "none")
    assert run.wait(0) == 0, run.text(0)
    lines = read_stats(tmp_path / "run" / "stats.txt")
    assert lines[0]["loss"] > 0.8  # three classes by chance: log 3
    assert lines[-1]["loss"] < 0.2 and lines[-1]["train_top1"] > 0.9  # each place has a color of its own


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_started_again_the_weights_are_those_of_an_undisturbed_run(supervise, trained, tmp_path, processes):
    undisturbed, folder = trained[0] if processes == 1 else tmp_path / "undisturbed", tmp_path / "run"
    if processes == 2:
        run = supervise(undisturbed, processes=2)
        assert [run.wait(rank) for rank in range(2)] == [0, 0], run.text(0)
    for step in (3, 11):
        run = supervise(folder, processes=processes)
        run.reach(step)
        for rank in range(processes):
            run.kill(rank)
        assert [run.wait(rank) for rank in range(processes)] == [-signal.SIGKILL] * processes, run.text(0)
        time.sleep(0.1)
    run = supervise(folder, processes=processes)
    assert [run.wait(rank) for rank in range(processes)] == [0] * processes, run.text(0)
    assert "resume  from step" in run.text(0)
    one, other = (torch.load(path / "model.pth", weights_only=True) for path in (undisturbed, folder))
    assert one["step"] == other["step"] and one["best"] == other["best"]
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
    assert (undisturbed / "result.json").is_file() and (folder / "result.json").is_file()


def test_learning_rate_of_each_schedule_at_its_corners():
    plan = RunPlan(
        samples=1000, world_size=1, local_batch_size=10, steps_per_epoch=1, steps=100, warmup_steps=10, peak_lr=2.0,
        checkpoint_every=1, bf16=False, device="cpu",
    )  # fmt: skip
    config = functools.partial(SupervisedConfig, exp_dir=Path("exp"), epochs=100)
    step = config(schedule="step", milestones=(50, 80), gamma=0.1)
    rates = [step.learning_rate(n, plan) for n in (0, 5, 10, 49, 50, 79, 80)]
    assert rates == pytest.approx([0, 1, 2, 2, 0.2, 0.2, 0.02])
    cosine = config(schedule="cosine")
    assert [cosine.learning_rate(n, plan) for n in (0, 10, 55, 100)] == pytest.approx([0, 2, 1.001, 0.002])
    constant, no_warmup = config(schedule="constant"), dataclasses.replace(plan, warmup_steps=0)
    assert {constant.learning_rate(n, no_warmup) for n in range(100)} == {2.0}


def test_weights_of_classes_by_hand():
    labels = [0] * 8 + [1] * 2
    assert supervised_training.class_weights("none", labels, 3).tolist() == [1, 1, 0]
    assert supervised_training.class_weights("inverse", labels, 3).tolist() == pytest.approx([10 / 16, 10 / 4, 0])
    root = supervised_training.class_weights("sqrt", labels, 3)
    assert (root[1] / root[0]).item() == pytest.approx(2) and (8 * root[0] + 2 * root[1]).item() == pytest.approx(10)


def test_the_loss_is_the_weighted_mean_of_smoothed_cross_entropies():
    logits, labels = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    first, second = -math.log(3 / 4), math.log(2)
    assert supervised_training.weighted_loss(logits, labels, torch.ones(2)).item() == pytest.approx(
        (first + second) / 2
    )
    assert supervised_training.weighted_loss(logits, labels, torch.tensor([0.5, 2.0])).item() == pytest.approx(
        (0.5 * first + 2 * second) / 2
    )
    smooth = 0.9 * first + 0.1 * (first + math.log(4)) / 2
    found = supervised_training.weighted_loss(logits[:1], labels[:1], torch.ones(2), smoothing=0.1)
    assert found.item() == pytest.approx(smooth)


def test_recall_and_confusion_by_hand():
    ranked = torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 2], [0, 1, 2], [0, 1, 2]])
    found = classification.classification_metrics(ranked, torch.tensor([0, 0, 0, 1, 1]), ["a", "b", "c"])
    assert found["top1"] == pytest.approx(2 / 5) and found["balanced_accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["recall"] == {"a": pytest.approx(2 / 3, abs=1e-6), "b": 0, "c": None}
    assert found["confusion"] == [[2, 1, 0], [2, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--schedule step", "needs --milestones"),
        ("--label-smoothing 1", "--label-smoothing 1.0"),
        ("--train-percent 0", "--train-percent 0"),
        ("--aug-override 2.scale=0.3,1", "has one view"),
        ("--arch resnet19", "nearest"),
        ("--lr 0", "--lr"),
        ("--csv-dir nowhere", "make_sn7_csv"),
    ],
)
def test_a_users_mistake_ends_in_one_clear_message(supervise, tmp_path, words, message):
    run = supervise(tmp_path / "run", *words.split())
    assert run.wait(0) == 1
    assert message in run.text(0) and "Traceback" not in run.text(0)


def test_a_folder_of_another_kind_of_run_is_refused(supervise, train, tmp_path):
    earlier = train(tmp_path / "run", "--max-steps", 2)
    assert earlier.wait(0) == 0, earlier.text(0)
    run = supervise(tmp_path / "run")
    assert run.wait(0) == 1 and "is not a checkpoint of supervised training" in run.text(0)


def test_the_defaults_are_the_earlier_works():
    args = get_parser().parse_args(["--exp-dir", "x"])
    assert (args.arch, args.epochs, args.batch_size, args.lr) == ("resnet18", 100, 64, 0.01)


class Part:
    def __init__(self, *classes):
        self.classes = list(classes)


def test_lists_without_names_share_the_longer_ones_classes():
    train, val = Part("0", "1", "2"), Part("0", "1")
    supervised_training.unify_classes(train, val)
    assert train.classes == val.classes == ["0", "1", "2"]
    with pytest.raises(ValueError, match="name different classes"):
        supervised_training.unify_classes(Part("Peru", "Chad"), Part("Chad"))
