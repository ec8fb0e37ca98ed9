"""The loop that downstream tasks share: its rate, its checkpoints, and that a cut leaves no trace."""

import argparse
import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vicreg.common import checkpoint_io
from vicreg.data.sampler import ResumableBatchSampler, build_loader
from vicreg.engine import checkpoint, finetune
from vicreg.engine.finetune import to_device
from vicreg.engine.optim import one_cycle_lr


@pytest.mark.parametrize("total", [7, 10, 100])
def test_one_cycle_is_torchs(total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=total)
    for step in range(total):
        assert one_cycle_lr(step, total, 0.01) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step() if step < total - 1 else None


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


def arguments(folder, *more):
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser, epochs=4, batch_size=8, lr=0.01, grad_clip=0.1)
    words = ["--exp-dir", str(folder), "--pretrained", "random", "--workers", "0", "--device", "cpu", *more]
    return parser.parse_args(words)


def train(folder, *more, at=None, what=None, task="points"):
    """Train a toy with dropout; call ``what`` in step ``at``."""
    args = arguments(folder, *more)
    device, lock, earlier = finetune.open_run(args, task)
    data, about = Points(), {"backbone": {"arch": None}, "task": {"name": task, "classes": ["left", "right"]}}
    torch.manual_seed(args.seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    model, optimizer, begin = to_device(model, device, earlier, lambda m: torch.optim.Adam(m.parameters(), lr=0))
    plan = finetune.plan_steps(args, len(data), device, task)
    finetune.log_steps(plan, args.exp_dir, begin)
    batches = ResumableBatchSampler(len(data), args.batch_size, args.seed, plan["steps"], begin)

    def loss_of(batch, step):
        if step == at:
            what()
        return cross_entropy(model(batch[0]), batch[1]), {}

    def judge():
        model.eval()
        return {"top1": float((model(data.x).argmax(1) == data.labels).double().mean()), "names": ["not logged"]}

    try:
        return finetune.fit(
            args, plan, model, optimizer, build_loader(data, batches, 0, device),
            lambda step: one_cycle_lr(step, plan["steps"], args.lr), loss_of, judge, "top1", about, earlier,
        )  # fmt: skip
    finally:
        lock.close()


def same(one, other):
    a, b = (torch.load(folder / "model.pth", weights_only=True) for folder in (one, other))
    assert a["step"] == b["step"] == 20 and a["last"] == b["last"] and a["best"] == b["best"]
    assert all(torch.equal(value, b["model"][key]) for key, value in a["model"].items())
    best = [torch.load(folder / "best_model.pth", weights_only=True) for folder in (one, other)]
    assert all(torch.equal(value, best[1]["model"][key]) for key, value in best[0]["model"].items())
    assert best[0]["figures"] == best[1]["figures"] == a["best"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    train(folder)
    return folder


def test_last_and_best_are_kept_with_what_prediction_needs(undisturbed):
    weights, about = checkpoint.load_task(undisturbed / "best_model.pth", "points")
    assert weights["0.weight"].shape == (8, 3) and about["task"]["classes"] == ["left", "right"]
    lines = [json.loads(line) for line in (undisturbed / "stats.txt").read_text().splitlines()]
    figures = torch.load(undisturbed / "best_model.pth", weights_only=True)["figures"]
    assert figures["top1"] == max(line["top1"] for line in lines)
    assert [line["step"] for line in lines] == [5, 10, 15, 20] and "names" not in lines[0]


def test_a_run_that_dies_between_checkpoints_ends_with_the_same_weights(undisturbed, tmp_path):
    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, at=13, what=die)
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 10
    train(tmp_path)
    same(undisturbed, tmp_path)


def test_a_signal_saves_leaves_a_note_and_the_run_goes_on_from_there(undisturbed, tmp_path):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, at=12, what=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 13
    assert (tmp_path / "interrupted").read_text() == "SIGTERM at step 13\n"
    train(tmp_path)
    assert not (tmp_path / "interrupted").exists()
    same(undisturbed, tmp_path)


def test_a_finished_run_started_again_says_so_and_keeps_its_figures(undisturbed, capsys):
    last, best = train(undisturbed)
    assert "nothing left to do" in capsys.readouterr().out
    assert last["step"] == 20 and best["top1"] >= last["top1"]


def test_a_folder_of_another_task_or_with_other_weights_is_refused(undisturbed):
    with pytest.raises(ValueError, match="another task"):
        train(undisturbed, task="lines")
    with pytest.raises(ValueError, match="--arch None, not resnet18"):
        train(undisturbed, "--arch", "resnet18")


def test_a_checkpoint_of_something_else_is_refused_by_prediction(undisturbed, tmp_path):
    checkpoint_io.save({"model": {}, "step": 1, "args": {}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="no checkpoint of points.*best_model.pth"):
        checkpoint.load_task(tmp_path / "model.pth", "points")
    with pytest.raises(ValueError, match="checkpoint of points, not of lines"):
        checkpoint.load_task(undisturbed / "model.pth", "lines")


def test_numbers_that_cannot_work_name_their_flag(tmp_path):
    with pytest.raises(ValueError, match="--lr"):
        finetune.open_run(arguments(tmp_path, "--lr", "0"), "points")
    with pytest.raises(ValueError, match="--grad-clip"):
        finetune.open_run(arguments(tmp_path, "--grad-clip", "-1"), "points")
    with pytest.raises(ValueError, match="'random' or 'imagenet'"):
        finetune.build_backbone(arguments(tmp_path, "--pretrained", "pixels"), {})


def test_a_new_run_takes_the_named_backbone_and_a_resumed_one_asks_no_file(tmp_path):
    args = arguments(tmp_path, "--pretrained", str(tmp_path / "gone.pth"))
    backbone, about = finetune.build_backbone(args, {"backbone": {"arch": "test_resnet", "in_chans": 3}})
    assert backbone.num_features == 96 and about["arch"] == "test_resnet"
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        finetune.build_backbone(args, {})
