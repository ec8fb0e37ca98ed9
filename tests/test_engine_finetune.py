"""What downstream tasks share: one-cycle learning rate, settings, the backbone; and their loop on a toy task."""

import argparse
import dataclasses
import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vicreg.common import checkpoint_io
from vicreg.common.config import from_args
from vicreg.engine import checkpoint, finetune
from vicreg.engine.config import plan_run
from vicreg.engine.optim import one_cycle_lr
from vicreg.engine.run import TrainingRun
from vicreg.engine.run_folder import RunFolder


@pytest.mark.parametrize("total", [7, 10, 100])
def test_one_cycle_lr_equals_torchs(total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=total)
    for step in range(total):
        assert one_cycle_lr(step, total, 0.01) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step() if step < total - 1 else None


class Points(torch.utils.data.Dataset):
    """Forty points of two classes, left and right of zero."""

    def __init__(self):
        self.x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        self.labels = (self.x[:, 0] > 0).long()

    def __len__(self):
        return 40

    def __getitems__(self, keys):
        rows = [row for row, _ in keys]
        return self.x[rows], self.labels[rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointsConfig(finetune.FinetuneConfig):
    """Settings of the toy task."""

    def learning_rate(self, step, plan):
        return one_cycle_lr(step, plan.steps, plan.peak_lr)


def settings(folder, *more):
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser, epochs=4, batch_size=8, lr=0.01, weight_decay=1e-4, grad_clip=0.1)
    words = ["--exp-dir", str(folder), "--pretrained", "random", "--workers", "0", "--device", "cpu", *more]
    return from_args(PointsConfig, parser.parse_args(words))


def train(folder, *more, at=None, action=None, task="points"):
    """Train a toy with dropout; call ``action`` in step ``at``."""
    config, data = settings(folder, *more), Points()
    device = finetune.init_single_device(config, task)
    run_folder = RunFolder(config, task, device)
    try:
        torch.manual_seed(config.seed)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        about = {"backbone": {"arch": None}, "task": {"name": task, "classes": ["left", "right"]}}

        def validate():
            model.eval()
            accuracy = (model(data.x).argmax(1) == data.labels).double().mean()
            return {"top1": float(accuracy), "names": ["not logged"]}

        run = TrainingRun(
            config, plan_run(config, len(data), device, run_folder.batch_size), run_folder, model,
            torch.optim.Adam(model.parameters(), weight_decay=config.weight_decay), device,
            describe=lambda step: about, validate=validate, monitor="top1",
        )  # fmt: skip
        for step, (x, labels) in run.steps(run.loader(data)):
            if step == at:
                action()
            loss = cross_entropy(run.model(x), labels)
            run.backward(loss)
            run.log({"loss": loss})
        return run.last, run.best
    finally:
        run_folder.close()


def assert_equal_runs(folder1, folder2):
    a, b = (torch.load(folder / "model.pth", weights_only=True) for folder in (folder1, folder2))
    assert a["step"] == b["step"] == 20 and a["last"] == b["last"] and a["best"] == b["best"]
    assert all(torch.equal(value, b["model"][key]) for key, value in a["model"].items())
    best = [torch.load(folder / "best_model.pth", weights_only=True) for folder in (folder1, folder2)]
    assert all(torch.equal(value, best[1]["model"][key]) for key, value in best[0]["model"].items())
    assert best[0]["best"] == best[1]["best"] == a["best"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    train(folder)
    return folder


def test_the_best_checkpoint_has_what_prediction_needs(undisturbed):
    weights, about = checkpoint.load_task(undisturbed / "best_model.pth", "points")
    assert weights["0.weight"].shape == (8, 3) and about["task"]["classes"] == ["left", "right"]
    lines = [json.loads(line) for line in (undisturbed / "stats.txt").read_text().splitlines()]
    best = torch.load(undisturbed / "best_model.pth", weights_only=True)["best"]
    assert best["top1"] == max(line["top1"] for line in lines)
    assert [line["step"] for line in lines] == [5, 10, 15, 20] and "names" not in lines[0]


def test_a_run_that_dies_between_checkpoints_ends_with_the_same_weights(undisturbed, tmp_path):
    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, at=13, action=die)
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 10
    train(tmp_path)
    assert_equal_runs(undisturbed, tmp_path)


def test_a_signal_saves_and_the_run_resumes_from_there(undisturbed, tmp_path):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, at=12, action=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 13
    assert (tmp_path / "interrupted").read_text() == "SIGTERM at step 13\n"
    train(tmp_path)
    assert not (tmp_path / "interrupted").exists()
    assert_equal_runs(undisturbed, tmp_path)


def test_a_finished_run_started_again_keeps_its_metrics(undisturbed, capsys):
    last, best = train(undisturbed)
    assert "nothing left to do" in capsys.readouterr().out
    assert last["step"] == 20 and best["top1"] >= last["top1"]


def test_a_folder_of_another_task_or_with_other_weights_is_refused(undisturbed):
    with pytest.raises(ValueError, match="is not a checkpoint of lines"):
        train(undisturbed, task="lines")
    with pytest.raises(ValueError, match="--arch None, not resnet18"):
        train(undisturbed, "--arch", "resnet18")


def test_checkpoints_of_the_former_layout_resume_to_the_same_weights(undisturbed, tmp_path):
    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, at=13, action=die)
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    config = state.pop("config")
    args = {"wd": config.pop("weight_decay"), "in_chans": 3, **config}
    former = {"args": args, **{key: value for key, value in state.items() if key not in ("kind", "batch_size")}}
    checkpoint_io.save(former, tmp_path / "model.pth")
    train(tmp_path)
    assert_equal_runs(undisturbed, tmp_path)


def test_a_checkpoint_of_something_else_is_refused_by_prediction(undisturbed, tmp_path):
    checkpoint_io.save({"model": {}, "step": 1, "args": {}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="no checkpoint of points.*best_model.pth"):
        checkpoint.load_task(tmp_path / "model.pth", "points")
    with pytest.raises(ValueError, match="checkpoint of points, not of lines"):
        checkpoint.load_task(undisturbed / "model.pth", "lines")


@pytest.mark.parametrize(
    "more", [["--lr", "0"], ["--grad-clip", "-1"], ["--wd", "-1"], ["--weight-decay", "nan"], ["--epochs", "0"]]
)
def test_settings_out_of_range_name_their_flag(tmp_path, more):
    with pytest.raises(ValueError, match=more[0].replace("--wd", "--weight-decay")):
        settings(tmp_path, *more)


@pytest.mark.parametrize("levels", [(3, 3), (5, 1), (0, float("nan")), (0, float("inf"))])
def test_levels_must_ascend(tmp_path, levels):
    with pytest.raises(ValueError, match="--levels"):
        dataclasses.replace(settings(tmp_path), levels=levels)


def test_a_new_run_loads_the_named_backbone_and_a_resumed_one_needs_no_file(tmp_path):
    config = settings(tmp_path, "--pretrained", str(tmp_path / "gone.pth"))
    backbone, info = finetune.build_backbone(config, {"backbone": {"arch": "test_resnet", "in_chans": 3}})
    assert backbone.num_features == 96 and info["arch"] == "test_resnet"
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        finetune.build_backbone(config, {})
    with pytest.raises(ValueError, match="'random' or 'imagenet'"):
        finetune.build_backbone(settings(tmp_path, "--pretrained", "pixels"), {})
