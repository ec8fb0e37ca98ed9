"""Training segmentation at toy size: each task, two stages, going on after a cut, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.FloodNet_segmentation_task import experiment, make_harvey_patches, metrics, train_floodnet
from tests.conftest import call_script
from tests.floodnet_fixtures import write_harvey, write_labeled, write_supervised
from vicreg.common import checkpoint_io
from vicreg.common.logger import read_stats
from vicreg.engine import checkpoint
from vicreg.models.backbones import create_backbone

SCRIPT = "downstream/FloodNet_segmentation_task/train_floodnet.py"
TOY = [
    "--crop",
    "32",
    "--batch-size",
    "4",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--precision",
    "fp32",
    "--overlap",
    "0",
]


@pytest.fixture(scope="module")
def floodnet(tmp_path_factory):
    """A tiny FloodNet in the challenge's layout."""
    return write_labeled(tmp_path_factory.mktemp("floodnet"))


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Patches of 32 pixels of four tiny Harvey tiles."""
    folder = tmp_path_factory.mktemp("harvey")
    words = ["--data-dir", str(write_harvey(folder / "harvey")), "--out-dir", str(folder / "patches")]
    make_harvey_patches.main(make_harvey_patches.get_parser().parse_args([*words, "--patch-size", "32"]))
    return folder / "patches"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A trained_model.pth with a ResNet18."""
    path = tmp_path_factory.mktemp("backbone") / "trained_model.pth"
    torch.manual_seed(7)
    network = create_backbone("resnet18")
    checkpoint.save_backbone(path, network, "resnet18", 3, [0.4, 0.4, 0.4], [0.2, 0.2, 0.2], "a test")
    return path


def arguments(data, folder, *more, task="floodnet", weights=("--pretrained", "random", "--arch", "resnet18")):
    given = ["--data-dir", str(data), "--task", task, "--exp-dir", str(folder), *map(str, weights), *TOY]
    return [*given, *map(str, more)]


def train(*given, **more):
    args = train_floodnet.get_parser().parse_args(arguments(*given, **more))
    train_floodnet.main(args)
    return json.loads((args.exp_dir / "result.json").read_text())


def test_the_script_trains_ten_classes_and_leaves_a_whole_record(floodnet, tmp_path, run_script, backbone):
    run = tmp_path / "run"
    ran = run_script(SCRIPT, *arguments(floodnet, run, "--epochs", 2, weights=("--pretrained", backbone)))
    assert ran.returncode == 0, ran.stderr
    assert "120 tensors matched, 0 missing, 0 unused" in ran.stdout
    assert "encoder: 120 of 120 tensors from the backbone" in ran.stdout
    result = json.loads((run / "result.json").read_text())
    assert f"mean IoU {result['mean_iou']:.4f}" in ran.stdout.splitlines()[-1]
    assert f'everywhere "grass": mean IoU {result["constant"]["mean_iou"]:.4f}' in ran.stdout.splitlines()[-1]
    assert result["flooded_building_iou"] == result["iou"]["building flooded"]
    assert (result["train_samples"], result["val_samples"], result["source"]) == (8, 2, "a test")
    assert result["overlap"] == {"samples": 2, "location_overlap": None, "exact_duplicates": 0}
    assert "split: of 2 validation samples 0.0% equal a training sample" in ran.stdout
    lines = read_stats(run / "stats.txt")
    assert [line["step"] for line in lines] == [2, 4]
    assert max(line["mean_iou"] for line in lines) == result["mean_iou"]
    assert {"dice_loss", "cross_entropy", "loss", "lr", "data_time"} <= lines[0].keys()
    assert Image.open(run / "examples.png").width > 600
    assert {path.name for path in run.iterdir()} >= {"model.pth", "best_model.pth", "config.json", "tensorboard"}


def test_the_first_weights_are_the_backbones_and_its_normalization(floodnet, tmp_path, backbone):
    train(floodnet, tmp_path / "run", "--max-steps", 1, "--lr", 1e-12, weights=("--pretrained", backbone))
    kept = checkpoint_io.load(tmp_path / "run" / "model.pth")
    first = checkpoint_io.load(backbone)["state_dict"]
    for key, weight in first.items():
        if "running" not in key and "tracked" not in key:
            assert torch.allclose(kept["model"][f"module.network.encoder.{key}"], weight, atol=1e-9), key
    assert kept["task"]["mean"] == [0.4, 0.4, 0.4]


@pytest.mark.slow
def test_two_stages_find_buildings_and_then_flooded_ones(patches, tmp_path):
    first, second = tmp_path / "building", tmp_path / "flooded"
    more = ("--epochs", 5, "--lr", "1e-3", "--checkpoint-every", 1000)
    ran = call_script(SCRIPT, *arguments(patches, first, *more, task="building"))
    assert ran.returncode == 0, ran.stderr
    result = json.loads((first / "result.json").read_text())
    assert result["mean_iou"] == result["iou"]["building"] > result["constant"]["mean_iou"] > 0
    given = arguments(patches, second, task="flooded", weights=("--init-from", first / "best_model.pth"))
    ran = call_script(SCRIPT, *given, "--epochs", 1)
    assert ran.returncode == 0, ran.stderr
    assert "unet over resnet18 from" in ran.stdout and ran.stdout.splitlines()[-1].startswith("IoU ")
    result = json.loads((second / "result.json").read_text())
    assert result["flooded_building_iou"] == result["iou"]["flooded building"]
    assert "cross_entropy" not in read_stats(second / "stats.txt")[0]


def test_the_second_stage_begins_with_all_weights_of_the_first(patches, tmp_path):
    train(patches, tmp_path / "a", "--epochs", 1, task="building")
    stage = tmp_path / "a" / "best_model.pth"
    more = ("--max-steps", 1, "--lr", 1e-12)
    train(patches, tmp_path / "b", *more, task="flooded", weights=("--init-from", stage))
    first, second = (checkpoint_io.load(path)["model"] for path in (stage, tmp_path / "b" / "model.pth"))
    for key in first:
        if "running" not in key and "tracked" not in key:
            assert torch.allclose(first[key], second[key], atol=1e-9), key


@pytest.mark.parametrize("decoder", ["unet", pytest.param("deeplabv3plus", marks=pytest.mark.slow)])
def test_a_run_that_was_cut_off_ends_as_an_undisturbed_one_bit_for_bit(floodnet, tmp_path, monkeypatch, decoder):
    more = ("--epochs", 3, "--decoder", decoder, "--schedule", "cosine", "--checkpoint-every", 3)
    with monkeypatch.context() as patch:
        resampled, bootstrap = [], metrics.bootstrap_intervals
        patch.setattr(metrics, "bootstrap_intervals", lambda *given: resampled.append(1) or bootstrap(*given))
        whole = train(floodnet, tmp_path / "whole", *more)
    assert len(resampled) == 2 and set(whole["intervals"]) == {"mean_iou", "mean_dice", "accuracy"}  # last and best
    assert whole["intervals"] == whole["best"]["intervals"] and "image_confusion" not in whole["last"]
    calls, forward = [], experiment.SegmentationLoss.forward

    def cut(self, logits, labels):
        calls.append(1)
        if len(calls) == 4:  # within the second epoch
            raise KeyboardInterrupt
        return forward(self, logits, labels)

    monkeypatch.setattr(experiment.SegmentationLoss, "forward", cut)
    with pytest.raises(KeyboardInterrupt):
        train(floodnet, tmp_path / "cut", *more)
    monkeypatch.undo()
    assert checkpoint_io.load(tmp_path / "cut" / "model.pth")["step"] == 3
    resumed = train(floodnet, tmp_path / "cut", *more)
    states = [checkpoint_io.load(tmp_path / name / "model.pth") for name in ("whole", "cut")]
    assert states[0]["step"] == states[1]["step"] == 6
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"])
    moments = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(moments[0][n]["exp_avg_sq"], moments[1][n]["exp_avg_sq"]) for n in moments[0])
    assert resumed["best"] == whole["best"] and resumed["last"] == whole["last"]


def test_a_finished_run_started_again_does_nothing_more(floodnet, tmp_path, capsys):
    first = train(floodnet, tmp_path / "run", "--epochs", 1)
    assert train(floodnet, tmp_path / "run", "--epochs", 1) == first
    assert "nothing left to do" in capsys.readouterr().out


def test_a_finished_run_is_not_told_of_another_split_or_rate(floodnet, tmp_path):
    train(floodnet, tmp_path / "run", "--epochs", 1)
    before = (tmp_path / "run" / "result.json").read_text()
    with pytest.raises(ValueError, match="holds a run with other data"):
        train(floodnet, tmp_path / "run", "--epochs", 1, "--val-fraction", 0.5)
    with pytest.raises(ValueError, match="holds a finished run with --lr .*, not 0.5"):
        train(floodnet, tmp_path / "run", "--epochs", 1, "--lr", 0.5)
    assert (tmp_path / "run" / "result.json").read_text() == before


def test_a_test_part_is_judged_with_the_best_weights(tmp_path):
    data = write_supervised(tmp_path / "data")
    result = train(data, tmp_path / "run", "--epochs", 1)
    assert np.sum(result["test"]["confusion"]) == 2 * 64 * 48
    assert (result["train_samples"], result["val_samples"]) == (4, 2)


def test_building_is_learned_from_floodnet_too(floodnet, tmp_path):
    result = train(floodnet, tmp_path / "run", "--epochs", 1, "--decoder", "fpn", "--image-size", 48, task="building")
    assert list(result["iou"]) == ["background", "building"]
    assert (result["decoder"], result["scale"]) == ("fpn", 0.75)


@pytest.mark.parametrize(
    "more, words",
    [(["--crop", "40"], "multiple of 32"), (["--crop", "64"], "smallest image is 48 pixels"),
     (["--scale", "2"], "never enlarged"), (["--image-size", "16"], "smallest image is 12 pixels"),
     (["--overlap", "1"], "--overlap 1: 0 to 0.9"), (["--batch-size", "100"], "8 samples do not fill a batch of 100"),
     (["--pretrained", "random", "--arch", "convnext_atto"], "no U-Net over convnext_atto"),
     (["--pretrained", "stats"], "has no weights"),
     (["--decoder", "deeplabv3plus", "--batch-size", "1"], "--batch-size 2 or more")],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused_in_words(floodnet, tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        train(floodnet, tmp_path / "run", *more)


def test_a_wrong_value_ends_the_script_with_one_line(tmp_path):
    data = write_labeled(tmp_path / "data")
    mask = data / "Train" / "Labeled" / "Flooded" / "mask" / "F2_lab.png"
    values = np.array(Image.open(mask))
    values[5, 5] = 10
    Image.fromarray(values).save(mask)
    ran = call_script(SCRIPT, *arguments(data, tmp_path / "run"))
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1].endswith("F2_lab.png holds the value 10; 0 to 9 are the classes")
    assert "Traceback" not in ran.stderr


def test_wrong_checkpoints_and_folders_are_refused(floodnet, tmp_path, backbone):
    train(floodnet, tmp_path / "run", "--max-steps", 1)
    best = tmp_path / "run" / "best_model.pth"
    with pytest.raises(ValueError, match="a network over resnet18, not resnet50; leave --arch out"):
        train(floodnet, tmp_path / "next", weights=("--init-from", best, "--arch", "resnet50"))
    with pytest.raises(ValueError, match=r"is a unet of 10 classes \(floodnet\); it cannot initialize a unet of 2"):
        train(floodnet, tmp_path / "b", task="building", weights=("--init-from", best))
    with pytest.raises(ValueError, match="cannot initialize a fpn of 10"):
        train(floodnet, tmp_path / "b", "--decoder", "fpn", weights=("--init-from", best))
    with pytest.raises(ValueError, match="is no checkpoint of flood segmentation: a backbone"):
        train(floodnet, tmp_path / "b", weights=("--init-from", backbone))
    with pytest.raises(ValueError, match="one of --pretrained"):
        train(floodnet, tmp_path / "b", weights=())
    with pytest.raises(ValueError, match="one of --pretrained"):
        train(floodnet, tmp_path / "b", weights=("--init-from", best, "--pretrained", "random"))
    with pytest.raises(ValueError, match="--task floodnet, not building"):
        train(floodnet, tmp_path / "run", task="building")
    with pytest.raises(ValueError, match="neither a trained_model.pth"):
        torch.save({"x": 1}, tmp_path / "odd.pth")
        train(floodnet, tmp_path / "b", weights=("--pretrained", tmp_path / "odd.pth", "--arch", "resnet18"))
