"""Configurations, the plan that follows from them, and what may change when a run resumes."""

import dataclasses

import pytest
import torch

from vicreg import distributed
from vicreg.common.config import check_resume, to_dict
from vicreg.engine import config, precision
from vicreg.engine.config import plan_run
from vicreg.engine.pretrain import check_batch_size
from vicreg.engine.pretrain_config import build_config, get_parser

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch):
    """Do not measure this machine; fp32 is as fast."""
    monkeypatch.setattr(precision, "measure_precisions", lambda: (1.0, 1.0))


def configure(tmp_path, *words):
    return build_config(get_parser("a test").parse_args(["--exp-dir", str(tmp_path / "run"), *map(str, words)]))


def test_config_is_frozen(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        configure(tmp_path).lr = 1.0


def test_batch_size_is_rounded_down_per_process_and_sets_the_learning_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    asked = configure(tmp_path, "--batch-size", 512, "--lr", 0.3, "--epochs", 200)
    plan = plan_run(asked, 5200, CPU)
    assert (plan.batch_size, plan.local_batch_size, plan.world_size) == (510, 170, 3)
    assert plan.peak_lr == pytest.approx(0.3 * 510 / 256)
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps) == (10, 2000, 100)
    assert plan.summary(asked)["batch"].startswith("510 (of 512 asked for) = 170 x 3 process(es)")
    assert plan.to_dict()["batch_size"] == 510


PLANS = {
    "--epochs 50": {"steps": 200, "warmup_steps": 20, "checkpoint_every": 4},
    "--epochs 50 --max-steps 100 --checkpoint-every 7": {"steps": 100, "warmup_steps": 10, "checkpoint_every": 7},
    "--epochs 2 --max-steps 100": {"steps": 8, "warmup_steps": 1},
    "--precision bf16": {"bf16": True},
    "--precision auto": {"bf16": False, "peak_lr": 0.3},
}


@pytest.mark.parametrize(("words", "expected"), PLANS.items(), ids=PLANS)
def test_plan_follows_from_the_arguments(tmp_path, words, expected):
    plan = plan_run(configure(tmp_path, *words.split()), 1100, CPU)
    assert {key: getattr(plan, key) for key in expected} == expected


def test_views_are_seven_eighths_of_the_patches_by_default(tmp_path):
    assert configure(tmp_path).view_sizes(256, 2) == [224, 224]
    assert configure(tmp_path, "--image-size", 64).view_sizes(256, 1) == [64]


@pytest.mark.parametrize(("mlp", "bound"), [("8192-8192-8192", 16.2854), ("64-128", 0.0)])
def test_lower_bound_is_asked_of_the_loss(tmp_path, mlp, bound):
    made = configure(tmp_path, "--mlp", mlp)
    assert made.criterion.lower_bound(256, made.widths[-1]) == pytest.approx(bound, abs=1e-4)


def test_loss_settings_reach_the_loss(tmp_path):
    assert configure(tmp_path, "--cov-coeff", 2).criterion.cov_coeff == 2.0


OLD_FLAGS = {
    "--base-lr 0.5": {"lr": 0.5},
    "--wd 0.1": {"weight_decay": 0.1},
    "--augment-set scale=0.3,1 2.blur_p=0": {"aug_override": ["scale=0.3,1", "2.blur_p=0"]},
    "--store device": {"cache_on_device": True},
    "--store disk": {"cache_on_device": False},
}


@pytest.mark.parametrize(("words", "expected"), OLD_FLAGS.items(), ids=OLD_FLAGS)
def test_former_flags_are_accepted_and_not_advertised(tmp_path, words, expected):
    made = configure(tmp_path, *words.split())
    assert {key: getattr(made, key) for key in expected} == expected
    assert words.split()[0] not in get_parser("a test").format_help()


def test_defaults_are_those_of_the_arguments(tmp_path):
    made = configure(tmp_path)
    assert (made.lr, made.weight_decay, made.cache_on_device, list(made.aug_override)) == (0.3, 1e-6, False, [])
    for field in dataclasses.fields(made):
        if field.default is not dataclasses.MISSING:
            value = getattr(made, field.name)
            assert (tuple(value) if isinstance(value, list) else value) == field.default, field.name


@pytest.mark.parametrize("flag", "batch-size epochs lr max-steps checkpoint-every image-size accumulate".split())
def test_values_that_must_be_positive_are_refused_with_their_flag(tmp_path, flag):
    for value in (0, -3):
        with pytest.raises(ValueError, match=rf"--{flag} {value}(\.0)?: must be positive"):
            configure(tmp_path, f"--{flag}", value)


@pytest.mark.parametrize(("flag", "value"), [("lr", "nan"), ("lr", "inf"), ("weight-decay", "nan")])
def test_values_that_are_not_finite_are_refused(tmp_path, flag, value):
    with pytest.raises(ValueError, match=f"--{flag} {value}: must be"):
        configure(tmp_path, f"--{flag}", value)


UNFIT = {
    "--batch-size 1": "--batch-size 1: the loss compares samples",
    "--batch-size 101": "100 samples do not fill a batch of 101; lower --batch-size",
    "--batch-size 16 --accumulate 9": "--accumulate 9 divides 16 samples per process too finely",
    "--batch-size 8 --mlp 8-x": "--mlp 8-x",
    "--batch-size 8 --aug-override zoom=2": "'zoom=2'",
}


@pytest.mark.parametrize(("words", "message"), UNFIT.items(), ids=UNFIT)
def test_values_that_do_not_fit_are_refused_with_their_flag(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        made = configure(tmp_path, *words.split())
        check_batch_size(made, plan_run(made, 100, CPU))


@pytest.mark.parametrize(
    ("flag", "now"), [("--arch", "resnet34"), ("--mlp", "8-4"), ("--in-chans", 4), ("--optimizer", "adamw")]
)
def test_resume_refuses_a_setting_that_changes_the_weights(tmp_path, flag, now):
    saved = to_dict(configure(tmp_path))
    check_resume(saved, configure(tmp_path), tmp_path)
    old = saved[flag[2:].replace("-", "_")]
    with pytest.raises(ValueError, match=f"{tmp_path} holds a run with {flag} {old}, not {now}; .*--exp-dir"):
        check_resume(saved, configure(tmp_path, flag, now), tmp_path)


def test_resume_reports_other_changes_and_ignores_what_only_observes(tmp_path, capsys):
    observers = ["--probe-every", 3, "--workers", 5, "--log-freq-time", 1, "--checkpoint-every", 2]
    changed = configure(tmp_path, "--batch-size", 64, "--cov-coeff", 2, *observers)
    check_resume(to_dict(configure(tmp_path)), changed, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == [
        "note: --batch-size was 256 when this run started and is 64 now",
        "note: --cov-coeff was 1.0 when this run started and is 2.0 now",
    ]


def test_finished_run_may_be_extended_but_not_changed(tmp_path, capsys):
    saved = to_dict(configure(tmp_path))
    check_resume(saved, configure(tmp_path, "--epochs", 200), tmp_path, finished=True)
    assert capsys.readouterr().out == "note: --epochs was 100 when this run started and is 200 now\n"
    for words in (["--batch-size", 64], ["--sim-coeff", 1]):
        with pytest.raises(ValueError, match=f"holds a finished run with {words[0]} .*; choose another --exp-dir"):
            check_resume(saved, configure(tmp_path, *words), tmp_path, finished=True)


def test_batch_size_of_the_checkpoint_is_kept_by_other_numbers_of_processes(tmp_path):
    asked = configure(tmp_path, "--batch-size", 512)
    assert config.local_batch_size(asked, 3) == 170
    assert config.local_batch_size(asked, 2, 510) == 255  # started by three processes: 510, not 512
    assert config.local_batch_size(asked, 3, 510) == 170
    with pytest.raises(ValueError, match="batch size of 510, which 4 processes do not divide"):
        config.local_batch_size(asked, 4, 510)
    with pytest.raises(ValueError, match="--batch-size 2 is less than the number of processes, 3"):
        config.local_batch_size(configure(tmp_path, "--batch-size", 2), 3)
