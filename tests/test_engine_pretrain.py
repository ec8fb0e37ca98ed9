"""Pretraining of a made-up data set with built-in and made-up losses, and checkpoints of older layouts."""

import dataclasses
import json

import pytest
import torch

from vicreg.common import checkpoint_io, provenance
from vicreg.common.config import setting, to_dict
from vicreg.common.logger import read_stats
from vicreg.data.base import BaseDataset
from vicreg.engine import pretrain_config
from vicreg.engine.checkpoint import upgrade
from vicreg.engine.pretrain import pretrain
from vicreg.engine.run_folder import RunFolder
from vicreg.models.backbones import load_backbone


class Stripes(BaseDataset):
    """Images of horizontal or vertical stripes, in pairs of one class."""

    def __init__(self, count=40):
        self.labels = torch.arange(count) % 2
        self.classes, self.mean, self.std = ["rows", "columns"], [0.5] * 3, [0.5] * 3

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        rows = (torch.arange(32) // 2 % 2 * 200).to(torch.uint8)[:, None].expand(3, 32, 32)
        return torch.stack([(rows.mT if self.labels[index] else rows) + int(index) for index in indices])

    def positive_index(self, index, sample_seed):
        return (index + 2 * (sample_seed % 5)) % len(self)


def configure(exp_dir, **changes):
    """Configuration of 10 steps in 2 epochs, with a checkpoint and a log line for each."""
    values = {"exp_dir": exp_dir, "arch": "test_resnet", "mlp": "16-16", "epochs": 2, "batch_size": 8, "image_size": 16}
    values |= {"workers": 0, "device": "cpu", "checkpoint_every": 1, "log_freq_time": 0, "probe_every": 1, "seed": 3}
    return pretrain_config.PretrainConfig(**values | changes)


def train(exp_dir, dataset=None, **changes):
    dataset = dataset or Stripes()
    pretrain(configure(exp_dir, **changes), dataset, (dataset, Stripes(20)), "a test")
    return torch.load(exp_dir / "model.pth", weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    train(folder)
    return folder


def assert_same_weights(one, other):
    assert one["step"] == other["step"] == 10
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
    pairs = zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(first["momentum_buffer"], second["momentum_buffer"]) for first, second in pairs)


def kill_after_saving(monkeypatch, step):
    """Raise KeyboardInterrupt after the checkpoint of a step; returns the payloads that were saved."""
    payloads, save = [], RunFolder.save

    def save_and_stop(folder, payload):
        save(folder, payload)
        payloads.append(payload)
        if payload["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save", save_and_stop)
    return payloads


def test_new_dataset_pretrains_probes_and_leaves_a_backbone(undisturbed):
    lines = read_stats(undisturbed / "stats.txt")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["step"] for line in lines if "knn20_top1" in line] == [5, 10]
    assert lines[-1]["knn20_top1"] == 1.0  # rows and columns are easily told apart
    assert {"loss", "repr_loss", "std_loss", "cov_loss", "loss_lower_bound", "embedding_std"} <= lines[0].keys()
    _, info = load_backbone(undisturbed / "trained_model.pth")
    assert info["source"] == "a test, vicreg views, step 10 of 10" and "0 missing" in info["report"]


def test_run_folder_holds_configuration_plan_and_provenance(undisturbed):
    content = json.loads((undisturbed / "config.json").read_text())
    assert content["kind"] == "pretraining" and content["config"] == to_dict(configure(undisturbed))
    assert content["plan"]["batch_size"] == 8 and content["plan"]["steps"] == 10
    (session,) = provenance.read(undisturbed)["sessions"]
    assert session["command"].startswith("python ") and session["status"] == "finished" and session["data"]["samples"]


@pytest.mark.parametrize("step", [1, 5, 9])
def test_interrupted_run_resumes_to_the_same_weights(undisturbed, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after_saving(patch, step)
        train(tmp_path)
    assert_same_weights(torch.load(undisturbed / "model.pth", weights_only=True), train(tmp_path))
    assert [line["step"] for line in read_stats(tmp_path / "stats.txt")] == list(range(1, 11))


def test_probes_logging_and_checkpoints_do_not_change_the_weights(undisturbed, tmp_path):
    observed = {"probe_every": 0, "log_freq_time": 100, "checkpoint_every": 100, "workers": 1}
    assert_same_weights(torch.load(undisturbed / "model.pth", weights_only=True), train(tmp_path, **observed))


def test_run_killed_before_its_last_checkpoint_resumes_and_has_all_files(undisturbed, tmp_path, monkeypatch):
    def fail(folder, payload):
        if payload["step"] == 10:
            raise KeyboardInterrupt
        save(folder, payload)

    save = RunFolder.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save", fail)
        train(tmp_path)
    assert torch.load(tmp_path / "model.pth", weights_only=True)["step"] == 9
    assert_same_weights(torch.load(undisturbed / "model.pth", weights_only=True), train(tmp_path))
    assert (tmp_path / "trained_model.pth").is_file()


def test_finished_run_without_its_backbone_file_writes_it(undisturbed, tmp_path, capsys):
    train(tmp_path)
    (tmp_path / "trained_model.pth").unlink()
    before = (tmp_path / "model.pth").read_bytes()
    train(tmp_path)
    assert "nothing left to do" in capsys.readouterr().out
    one, other = (checkpoint_io.load(folder / "trained_model.pth") for folder in (undisturbed, tmp_path))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    assert (tmp_path / "model.pth").read_bytes() == before


def old_layout(payload):
    """A checkpoint as it was written before the configuration classes: with parsed arguments."""
    config = dict(payload["config"])
    args = {**config.pop("criterion"), **{key: value for key, value in config.items() if key != "loss"}}
    for new, old in (("lr", "base_lr"), ("weight_decay", "wd"), ("aug_override", "augment_set")):
        args[old] = args.pop(new)
    args |= {"positives": "same", "store": "disk", "csv_dir": "data/sn7", "lost_after": 40.0}
    kept = {key: payload[key] for key in ("model", "optimizer", "step", "batch_size", "steps", "backbone")}
    return {**kept, "args": args}


def test_checkpoint_of_the_old_layout_resumes_to_the_same_weights(undisturbed, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        payloads = kill_after_saving(patch, 4)
        train(tmp_path)
    checkpoint_io.save(old_layout(payloads[-1]), tmp_path / "model.pth")
    capsys.readouterr()
    resumed = train(tmp_path)
    said = capsys.readouterr().out
    assert "resume  from step 4" in said and "note:" not in said
    assert_same_weights(torch.load(undisturbed / "model.pth", weights_only=True), resumed)


@pytest.mark.parametrize(
    ("old", "changes", "message"),
    [
        ({"arch": "resnet18"}, {}, "holds a run with --arch resnet18, not test_resnet"),
        ({"mlp": "8-8"}, {}, "holds a run with --mlp 8-8, not 16-16"),
        ({}, {"optimizer": "adamw"}, "holds a run with --optimizer lars, not adamw"),
    ],
)
def test_checkpoint_of_the_old_layout_is_compared_with_the_configuration(tmp_path, old, changes, message):
    payload = {"config": to_dict(configure(tmp_path)), "model": {}, "optimizer": {}, "step": 1, "steps": 10}
    saved = old_layout({**payload, "batch_size": 8, "backbone": {}})
    saved["args"] |= old
    checkpoint_io.save(saved, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **changes)


def test_old_names_and_values_are_converted():
    args = {"mlp": "8-8", "base_lr": 0.3, "wd": 1e-6, "augment_set": [], "positives": "neighbour", "cov_coeff": 2.0}
    found = upgrade({"model": {}, "optimizer": {}, "step": 1, "args": args})
    assert found["kind"] == "pretraining"
    assert found["config"] == {
        "mlp": "8-8", "lr": 0.3, "weight_decay": 1e-6, "aug_override": [], "positives": "neighbor", "cov_coeff": 2.0,
    }  # fmt: skip


def test_changed_setting_of_the_loss_is_reported_for_an_old_checkpoint(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        payloads = kill_after_saving(patch, 2)
        train(tmp_path)
    saved = old_layout(payloads[-1])
    saved["args"]["cov_coeff"] = 0.5
    checkpoint_io.save(saved, tmp_path / "model.pth")
    train(tmp_path)
    assert "note: --cov-coeff was 0.5 when this run started and is 1.0 now" in capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class Distance:
    """A made-up loss without a lower bound."""

    scale: float = setting(1.0)

    def __call__(self, z1, z2):
        distance = (z1 - z2).square().mean()
        return {"loss": self.scale * distance, "distance": distance}


def test_loop_log_and_checkpoint_take_any_loss(tmp_path):
    state = train(tmp_path, loss="distance", criterion=Distance(2.0))
    lines = read_stats(tmp_path / "stats.txt")
    assert all(line["loss"] == pytest.approx(2 * line["distance"], rel=1e-3) for line in lines)
    assert not {"std_loss", "loss_lower_bound"} & lines[0].keys()
    assert state["config"]["criterion"] == {"scale": 2.0}
    with pytest.raises(ValueError, match="--loss distance, not vicreg"):
        train(tmp_path)


def test_checkpoint_of_another_kind_of_run_is_refused(tmp_path):
    checkpoint_io.save(
        {"model": {}, "optimizer": {}, "step": 1, "args": {"label_smoothing": 0}}, tmp_path / "model.pth"
    )
    with pytest.raises(ValueError, match="is not a checkpoint of pretraining; choose another --exp-dir"):
        train(tmp_path)


@pytest.mark.parametrize("steps", [None, 4])
def test_run_started_again_with_other_samples_is_refused_and_keeps_its_config(undisturbed, tmp_path, steps):
    """Of the same number: labels stand for everything that a list says."""
    train(tmp_path, max_steps=steps)
    other = Stripes()
    other.labels = other.labels.flip(0)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run with other data \(samples\)"):
        train(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before
