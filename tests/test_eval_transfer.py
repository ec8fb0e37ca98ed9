"""Evaluation of one backbone: linear probe, kNN and finetuning on the tiny SN7 data set."""

import json
import subprocess
import sys

import pytest
import torch

from vicreg.common.config import from_args
from vicreg.common.logger import lock_run_dir
from vicreg.data.sn7 import SN7Patches
from vicreg.eval import finetune, transfer
from vicreg.eval.config import EvaluationConfig, get_parser
from vicreg.eval.splits import check_labels

TOY = "--pretrained random --arch test_resnet --image-size 16 --batch-size 16 --epochs 2 --device cpu --workers 0"


@pytest.fixture(scope="module")
def lists(sn7_prepared):
    """Training and validation set; do not change them."""
    return [SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val")]


def evaluate(lists, folder, *more):
    words = [*TOY.split(), "--exp-dir", str(folder), *map(str, more)]
    config = from_args(EvaluationConfig, get_parser("toy").parse_args(words))
    return transfer.evaluate(config, *lists, torch.device("cpu"))


def test_a_repeated_evaluation_gives_what_single_ones_give(lists, tmp_path):
    rows = evaluate(lists, tmp_path / "all", "--views", 1, "--knn", 3, "--train-percent", 10, 100, "--seeds", 2)
    for row, percent in zip(rows, (10, 100), strict=True):
        single = evaluate(lists, tmp_path / str(percent), "--views", 1, "--knn", 3, "--train-percent", percent)
        assert row["top1_seeds"][0] == single["top1"] and row["knn3_top1_seeds"][0] == single["knn3_top1"]
        assert row["train_samples"] == single["train_samples"]


@pytest.mark.parametrize("views", [0, 2])
def test_results_of_a_learning_rate_do_not_depend_on_the_others_or_their_order(lists, tmp_path, views):
    """Neither the linear probe nor kNN: held-out samples stay among the training samples."""
    alone = evaluate(lists, tmp_path / "a", "--views", views, "--lr-head", 1)
    both = [evaluate(lists, tmp_path / "b", "--views", views, "--lr-head", *lrs) for lrs in ((1, 0.01), (0.01, 1))]
    for result in both:
        assert set(result["lr_sweep"]) == {"0.01", "1"}
        assert result["lr_sweep"]["1"]["top1"] == alone["top1"] and alone["lr_sweep"]["1"]["held_out_top1"] is None
        assert [result["knn20_top1"], result["train_samples"]] == [alone["knn20_top1"], alone["train_samples"]]
        top1 = {lr: scores["held_out_top1"] for lr, scores in result["lr_sweep"].items()}
        assert top1[f"{result['lr_head']:g}"] == max(top1.values())
        assert result["top1"] == result["lr_sweep"][f"{result['lr_head']:g}"]["top1"]
    assert {**both[0], "seconds": 0} == {**both[1], "seconds": 0}


def test_the_learning_rate_is_not_selected_on_the_validation_set(lists, tmp_path, monkeypatch):
    """The held-out samples decide, even if another learning rate is better on the validation set."""
    real = transfer.sweep_accuracies

    def reversed_on_validation(sweep, features, labels, selection=False):
        if selection:
            return [{"top1": 0.9, "top5": 1.0}, {"top1": 0.1, "top5": 1.0}]
        assert len(real(sweep, features, labels)) == 2
        return [{"top1": 0.1, "top5": 1.0}, {"top1": 0.9, "top5": 1.0}]

    monkeypatch.setattr(transfer, "sweep_accuracies", reversed_on_validation)
    result = evaluate(lists, tmp_path, "--lr-head", 0.1, 1, "--views", 1)
    assert result["lr_head"] == 0.1 and result["top1"] == result["best_top1"] == 0.1


def test_convolutions_get_the_channels_last(lists, tmp_path, monkeypatch):
    formats, convolve = [], torch.nn.Conv2d.forward

    def forward(self, images):
        if self.kernel_size > (1, 1):  # both formats are one otherwise
            formats.append(self.weight.is_contiguous(memory_format=torch.channels_last))
        return convolve(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    evaluate(lists, tmp_path, "--views", 1)
    assert formats[-1]


def test_validation_images_are_read_once_for_all_seeds_and_learning_rates(lists, tmp_path, monkeypatch):
    counts = {"train": 0, "val": 0}
    for name, dataset in zip(counts, lists, strict=True):
        real = dataset.images

        def images(indices, name=name, real=real):
            counts[name] += len(indices)
            return real(indices)

        monkeypatch.setattr(dataset, "images", images)
    monkeypatch.setattr(transfer, "overlap", lambda train, val: {"samples": len(val), "location_overlap": None,
                                                                 "exact_duplicates": None})  # fmt: skip
    evaluate(lists, tmp_path, "--lr-head", 0.1, 1, "--views", 2, "--seeds", 3)
    assert counts == {"train": 2 * len(lists[0]), "val": len(lists[1])}


@pytest.mark.slow
def test_finetuning_starts_each_seed_with_the_same_backbone(lists, tmp_path):
    def losses(folder, *more):
        evaluate(lists, tmp_path / folder, "--weights", "finetune", "--lr-backbone", 0.1, *more)
        logs = sorted((tmp_path / folder).rglob("stats.txt"))
        return [json.loads(path.read_text().splitlines()[0])["loss"] for path in logs]

    first, second = losses("both", "--seeds", 2)
    assert first != second
    assert losses("alone", "--seed", 0) == [first]


def test_finetuning_seeds_dropout_by_step_and_rank(lists, tmp_path, monkeypatch):
    seeded = []
    monkeypatch.setattr(finetune, "seed_step", lambda *counters: seeded.append(counters))
    evaluate(lists, tmp_path, "--weights", "finetune", "--epochs", 2, "--batch-size", len(lists[0]), "--seed", 3)
    assert seeded == [(3, 0), (3, 1)]


def test_finetuning_logs_the_learning_rate_of_the_head(lists, tmp_path):
    evaluate(lists, tmp_path, "--weights", "finetune", "--lr-head", 0.2, "--lr-backbone", 0.1)
    lines = [json.loads(line) for line in next(tmp_path.rglob("stats.txt")).read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([0.2, 0.1])  # cosine: half of it in the second epoch of two


def test_epochs_on_cached_features_are_shown_ten_times(lists, tmp_path, capsys):
    evaluate(lists, tmp_path, "--views", 1, "--epochs", 21)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [int(line[1]) for line in lines] == list(range(0, 21, 2))


def test_evaluation_config_has_the_seed_that_the_help_names(tmp_path):
    config = EvaluationConfig(exp_dir=tmp_path, pretrained="random")
    assert (config.seed, config.seeds, config.knn) == (0, 1, [20])


def test_finetuning_says_if_the_backbone_is_not_trained(lists, tmp_path, capsys):
    evaluate(lists, tmp_path, "--weights", "finetune", "--epochs", 1)
    assert "note: with --lr-backbone 0 finetuning trains the head and the BatchNorm statistics only" in (
        capsys.readouterr().out
    )


def test_evaluate_logs_the_normalization_and_its_source(lists, tmp_path, capsys):
    result = evaluate(lists, tmp_path, "--views", 1, "--epochs", 1)
    assert result["mean"] == list(lists[0].mean)
    assert "(of the data set)" in capsys.readouterr().out
    result = evaluate(lists, tmp_path, "--views", 1, "--mean", 0.1, 0.2, 0.3, "--std", 1, 1, 0.5)
    assert (result["mean"], result["std"]) == ([0.1, 0.2, 0.3], [1, 1, 0.5])
    assert "mean 0.1 0.2 0.3, std 1 1 0.5 (given by --mean and --std)" in capsys.readouterr().out


def test_a_head_that_diverged_is_an_error(lists, tmp_path):
    with pytest.raises(ValueError, match=r"diverged with the learning rate 1e\+38"):
        evaluate(lists, tmp_path, "--views", 1, "--lr-head", 1e38)
    assert not list(tmp_path.rglob("result.json"))


def test_finetuning_that_diverged_is_an_error(lists, tmp_path):
    options = ("--weights", "finetune", "--lr-head", 1e30, "--lr-backbone", 1e30)
    with pytest.raises(ValueError, match=r"diverged in epoch \d; use a lower --lr-head or --lr-backbone"):
        evaluate(lists, tmp_path, *options)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("std", [1e-38, 1e-20])
def test_features_that_are_not_finite_or_whose_norm_is_not_are_an_error(lists, tmp_path, std):
    options = ("--pretrained", "pixels", "--mean", *[0.1] * 3, "--std", *[std] * 3)
    with pytest.raises(ValueError, match=r"pixels: \d+ of \d+ features are not finite as float32"):
        evaluate(lists, tmp_path, "--views", 1, *options)


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"knn": [0]}, "--knn"), ({"knn": [20, -3]}, "--knn"), ({"image_size": -5}, "--image-size"),
        ({"lr_head": [-1.0]}, "--lr-head"), ({"lr_head": [0.1, float("nan")]}, "--lr-head"),
        ({"epochs": 0}, "--epochs"), ({"batch_size": 0}, "--batch-size"), ({"views": -1}, "--views"),
        ({"weight_decay": float("nan")}, "--weight-decay"), ({"lr_backbone": -0.1}, "--lr-backbone"),
        ({"seeds": 0}, "--seeds"), ({"weights": "finetune", "views": 1}, "no --views"),
        ({"weights": "finetune", "lr_head": [0.1, 1.0]}, "one --lr-head"),
        ({"weights": "finetune", "pretrained": "stats"}, "no weights to finetune"),
    ],
)  # fmt: skip
def test_evaluation_config_refuses_values_that_are_not_valid(tmp_path, wrong, flag):
    with pytest.raises(ValueError, match=flag):
        EvaluationConfig(**{"exp_dir": tmp_path, "pretrained": "random", **wrong})


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("label", [-1, 3])
def test_check_labels_refuses_labels_outside_the_classes(sn7_prepared, position, label):
    lists = [SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val")]
    check_labels(*lists)
    lists[position].labels[5] = label
    with pytest.raises(ValueError, match=rf"1 labels of the {('training', 'validation')[position]} set .*as {label}"):
        check_labels(*lists)


def test_a_single_class_is_not_evaluated(sn7_prepared, tmp_path):
    data = SN7Patches(sn7_prepared / "val.csv")
    data.labels[:], data.classes = 0, ["alone"]
    with pytest.raises(ValueError, match=r"all samples are of one class \(alone\)"):
        evaluate([data, data], tmp_path)


@pytest.mark.parametrize("options", ["--views 0 --lr-head 0.1 1", "--views 2 --lr-head 0.1 1"])
def test_two_processes_give_the_results_and_the_loss_of_one(lists, sn7_prepared, tmp_path, fork, options):
    expected = evaluate(lists, tmp_path / "one", *options.split())
    words = [*TOY.split(), "--exp-dir", str(tmp_path / "two"), "--csv-dir", str(sn7_prepared), *options.split()]
    code = "import sys; from vicreg import evaluate_sn7 as script\n"
    code += f"script.main(script.get_parser().parse_args({words}))"
    run = fork(code, tmp_path / "out", processes=2)
    assert [run.wait(rank) for rank in range(2)] == [0, 0], run.text(0)
    result = json.loads((tmp_path / "two/freeze_100/result.json").read_text())
    for name in ("top1", "top5", "best_top1", "knn20_top1", "lr_head", "lr_sweep"):
        assert result[name] == expected[name]
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in
             (tmp_path / "one/freeze_100/stats.txt", tmp_path / "two/freeze_100/stats.txt")]  # fmt: skip
    assert [line["loss"] for line in lines[1]] == pytest.approx([line["loss"] for line in lines[0]], abs=2e-6)


def test_finetuning_logs_the_loss_of_all_processes(lists, sn7_prepared, tmp_path, fork):
    """Not the first process's alone."""
    options = "--weights finetune --epochs 1 --batch-size 180 --lr-backbone 0.01".split()
    words = [*TOY.split(), "--exp-dir", str(tmp_path / "two"), "--csv-dir", str(sn7_prepared), *options]
    code = "import sys, torch; from vicreg import evaluate_sn7 as script, distributed\n"
    code += "from vicreg.eval import finetune\n"
    code += "real = finetune.cross_entropy\n"
    code += "def noted(*given):\n    loss = real(*given)\n    print('local loss', loss.item())\n    return loss\n"
    code += "finetune.cross_entropy = noted\n"
    code += f"script.main(script.get_parser().parse_args({words}))"
    run = fork(code, tmp_path / "out", processes=2)
    assert [run.wait(rank) for rank in range(2)] == [0, 0], run.text(0)
    local = [
        float(line.split()[2]) for rank in range(2) for line in run.text(rank).splitlines() if "local loss" in line
    ]
    (line,) = (tmp_path / "two/finetune_100/stats.txt").read_text().splitlines()
    assert len(local) == 2 and local[0] != local[1]
    assert json.loads(line)["loss"] == pytest.approx(sum(local) / 2, abs=2e-6)


def test_two_evaluations_do_not_write_into_one_folder(lists, tmp_path):
    with lock_run_dir(tmp_path / "freeze_100"):
        code = "from vicreg.common.logger import lock_results\n"
        code += f"lock_results({str(tmp_path / 'freeze_100')!r}, [])"  # another process: its own locks never exclude it
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another run is writing to" in ran.stderr
    (tmp_path / "freeze_100/.stats.1.partial.txt").touch()
    evaluate(lists, tmp_path)
    assert not list(tmp_path.glob("freeze_100/.*partial*"))


@pytest.mark.parametrize("more", [(), ("--seeds", 2)])
def test_replaced_results_are_named(lists, tmp_path, capsys, more):
    evaluate(lists, tmp_path, *more)
    assert "will be replaced" not in capsys.readouterr().out
    evaluate(lists, tmp_path, *more)
    assert "result.json of 20" in (text := capsys.readouterr().out) and "(random) will be replaced" in text
    evaluate(lists, tmp_path, "--seeds", 1 + len(more) // 2, "--seed", 7)  # other folders, or the same for one seed
    assert ("will be replaced" in capsys.readouterr().out) == (not more)
