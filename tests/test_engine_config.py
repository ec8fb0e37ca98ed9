"""A run says what it will do, keeps an honest record, ends in order, and explains a wrong input in one line."""

import argparse
import json
import os
import signal
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vicreg import distributed
from vicreg.common import cli
from vicreg.data.subsets import stratified_subset
from vicreg.engine import checkpoint, config, run
from vicreg.engine.config import get_parser
from vicreg.engine.run import PreemptionGuard
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import Classifier, LinearHeads
from vicreg.models.vicreg import expander, parse_mlp

CPU = torch.device("cpu")
SIGNALS = [signal.SIGUSR1, signal.SIGTERM]


class Patches(list):
    """Only what a plan needs of a data set: a length and these."""

    patch_size, mean, std = 256, [0.5] * 3, [0.2] * 3


def arguments(tmp_path, *words):
    return get_parser("a test").parse_args(["--exp-dir", str(tmp_path / "run"), *map(str, words)])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_reported_at_the_check_of_the_next_step(number):
    with closing(PreemptionGuard(CPU)) as watch:
        assert watch.check() is None
        watch.put(0, torch.tensor(1.0))
        os.kill(os.getpid(), number)
        assert watch.check() is None  # came in after step 0 was noted
        watch.put(1, torch.tensor(1.0))
        assert watch.check() is number


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_names_the_step_and_what_to_do(loss):
    with closing(PreemptionGuard(CPU)) as watch:
        watch.put(6, torch.tensor(1.0))
        watch.check()
        watch.put(7, torch.tensor(loss, requires_grad=True))
        with pytest.raises(FloatingPointError, match=f"the loss is {loss} at step 7;.* --base-lr .*--epochs"):
            watch.check()


def test_a_closed_watch_gives_the_signals_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    PreemptionGuard(CPU).close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_batch_that_does_not_divide_is_rounded_down_said_and_sets_the_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    args = arguments(tmp_path, "--batch-size", 512, "--base-lr", 0.3, "--epochs", 200, "--mlp", "64-64")
    made = config.plan_run(args, Patches(range(5200)), CPU, "a test")
    assert (made["batch_size"], made["share"], made["processes"]) == (510, 170, 3)
    assert made["peak_lr"] == pytest.approx(0.3 * 510 / 256)
    assert (made["steps_per_epoch"], made["steps"], made["warmup_steps"]) == (10, 2000, 100)
    model = SimpleNamespace(backbone=torch.nn.Linear(2, 2), expander=torch.nn.Linear(2, 2))
    args.exp_dir.mkdir()
    config.log_config(args, made, model, 0)
    assert "batch   510 (of 512 asked for) = 170 x 3 process(es)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "args.json").read_text())["plan"] == made


PLANS = {
    "--epochs 50": {"steps": 200, "warmup_steps": 20, "checkpoint_every": 4},
    "--epochs 50 --max-steps 100 --checkpoint-every 7": {"steps": 100, "warmup_steps": 10, "checkpoint_every": 7},
    "--epochs 2 --max-steps 100": {"steps": 8, "warmup_steps": 1},
    "--image-size 64 --precision bf16": {"image_size": 64, "bf16": True},
    "--precision auto": {"image_size": 224, "bf16": False, "peak_lr": 0.3},
    "--mlp 8192-8192-8192": {"loss_lower_bound": 16.2854},
    "--mlp 64-128": {"loss_lower_bound": 0.0},
}
UNFIT = {
    "--batch-size 1": "--batch-size 1 over 1 processes",
    "--batch-size 101": "100 samples do not fill a batch of 101; lower --batch-size",
    "--batch-size 16 --accumulate 9": "--accumulate 9 cuts 16 samples a process too small",
    "--batch-size 8 --mlp 8-x": "--mlp 8-x: widths joined by hyphens",
    "--batch-size 8 --augment-set zoom=2": "cannot read 'zoom=2'",
    "--batch-size 8 --in-chans 4": "--in-chans: 4 channels, but these images have 3",
}


@pytest.mark.parametrize(("words", "expected"), PLANS.items(), ids=PLANS)
def test_plan_follows_from_the_arguments(tmp_path, words, expected):
    made = config.plan_run(arguments(tmp_path, *words.split()), Patches(range(1100)), CPU, "a test")
    assert {key: made[key] for key in expected} == expected


@pytest.mark.parametrize("flag", "batch-size epochs base-lr max-steps checkpoint-every image-size".split())
def test_numbers_that_must_be_positive_are_refused_with_their_flag(tmp_path, flag):
    for value in (0, -3):
        with pytest.raises(ValueError, match=rf"--{flag} {value}(\.0)?: must be positive"):
            config.plan_run(arguments(tmp_path, f"--{flag}", value), Patches(range(300)), CPU, "a test")


@pytest.mark.parametrize(("words", "message"), UNFIT.items(), ids=UNFIT)
def test_numbers_that_do_not_fit_are_refused_with_their_flag(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        config.plan_run(arguments(tmp_path, *words.split()), Patches(range(100)), CPU, "a test")


@pytest.mark.parametrize(("name", "now"), [("arch", "resnet34"), ("mlp", "8-4"), ("in_chans", 4)])
def test_a_folder_with_other_weights_is_refused_with_flag_and_both_values(tmp_path, name, now):
    earlier = cli.to_serializable(vars(arguments(tmp_path)))
    checkpoint.check_same_run(earlier, vars(arguments(tmp_path)), tmp_path)
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{tmp_path} holds a run with {flag} {earlier[name]}, not {now}; .*--exp-dir"):
        checkpoint.check_same_run(earlier, earlier | {name: now}, tmp_path)


def test_other_numbers_than_the_folders_are_only_noted(tmp_path, capsys):
    earlier = cli.to_serializable(vars(arguments(tmp_path)))
    checkpoint.check_same_run(earlier, vars(arguments(tmp_path, "--batch-size", 64, "--probe-every", 3)), tmp_path)
    assert capsys.readouterr().out == "note: --batch-size was 256 when this run began and is 64 now\n"


def test_a_finished_run_may_become_longer_but_not_another_one(tmp_path, capsys):
    earlier = cli.to_serializable(vars(arguments(tmp_path)))
    checkpoint.check_same_run(earlier, vars(arguments(tmp_path, "--epochs", 200)), tmp_path, finished=True)
    assert capsys.readouterr().out == "note: --epochs was 100 when this run began and is 200 now\n"
    with pytest.raises(
        ValueError, match="holds a finished run with --batch-size 256, not 64; choose another --exp-dir"
    ):
        checkpoint.check_same_run(earlier, vars(arguments(tmp_path, "--batch-size", 64)), tmp_path, finished=True)


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_is_chosen_where_a_gpu_computes_in_it(monkeypatch, capability, bf16):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert config.use_bf16("auto", torch.device("cuda")) is bf16
    assert config.use_bf16("bf16", torch.device("cuda")) and not config.use_bf16("fp32", torch.device("cuda"))
    assert not config.use_bf16("auto", CPU)


def test_processes_that_share_statistics_keep_the_activations_of_fused_norm_layers():
    backbone = create_backbone("test_efficientnet").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = backbone(images)
    converted = run.convert_sync_batchnorm(backbone)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted(images), before)


@pytest.mark.parametrize("text", ["", "-", "8-", "8--8", "8,8", "8-x", "0", "8-0", "-8", "8.5"])
def test_widths_that_are_no_positive_whole_numbers_are_refused(text):
    with pytest.raises(ValueError, match=r"--mlp .*such as 8192-8192-8192"):
        parse_mlp(text)


def test_expander_is_linear_norm_relu_and_a_last_layer_without_bias():
    layers = expander(5, parse_mlp("7-6-4"))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [tuple(layers[n].weight.shape) for n in (0, 3, 6)] == [(7, 5), (6, 7), (4, 6)]
    assert layers[6].bias is None and layers[0].bias is not None
    assert [tuple(p.shape) for p in expander(5, [4]).parameters()] == [(4, 5)]


def test_one_percent_is_one_percent_of_each_class_and_at_least_one():
    labels = np.repeat([0, 1, 2, 3], [300, 1000, 5, 1])[np.random.default_rng(0).permutation(1306)]
    chosen = stratified_subset(labels, 0.01, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 10, 1, 1]
    assert (np.diff(chosen) > 0).all()  # sorted, none twice
    np.testing.assert_array_equal(stratified_subset(torch.tensor(labels), 0.01, seed=0), chosen)
    assert stratified_subset(labels, 0.01, seed=1).tolist() != chosen.tolist()
    np.testing.assert_array_equal(stratified_subset(labels, 1.0, seed=0), np.arange(1306))


def test_heads_trained_side_by_side_are_the_heads_trained_alone():
    random = torch.Generator().manual_seed(0)
    x, labels, rates = torch.randn(12, 5, generator=random), torch.arange(12) % 3, (0.1, 1.0)
    heads = LinearHeads(2, 5, 3)
    alone = [torch.nn.Linear(5, 3) for _ in rates]
    for n, linear in enumerate(alone):
        linear.load_state_dict({"weight": heads.weight[n], "bias": heads.bias[n]})
    together = torch.optim.SGD([{"params": heads.of(n), "lr": rate} for n, rate in enumerate(rates)], momentum=0.9)
    apart = [torch.optim.SGD(linear.parameters(), rate, 0.9) for linear, rate in zip(alone, rates, strict=True)]
    for _ in range(5):
        logits = heads(x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(2))
        losses = [torch.nn.functional.cross_entropy(linear(x), labels) for linear in alone]
        for optimizer, value in zip((together, *apart), (2 * loss, *losses), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for n, linear in enumerate(alone):
        torch.testing.assert_close(heads(x)[:, n], linear(x))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_stays_in_eval_mode_and_out_of_the_graph(frozen):
    classifier = Classifier(
        torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5)), LinearHeads(1, 5, 3), frozen
    )
    classifier.train()
    assert classifier.heads.training and classifier.backbone.training is not frozen
    classifier(torch.randn(6, 4)).sum().backward()
    assert all((p.grad is None) is frozen for p in classifier.backbone.parameters())


def asked(batch_size):
    return argparse.Namespace(batch_size=batch_size, exp_dir="exp/run")


def test_other_processes_go_on_with_the_batch_that_the_run_began_with():
    assert config.local_batch_size(asked(512), 3, None) == 170
    assert config.local_batch_size(asked(512), 2, 510) == 255  # begun by three: 510 stays, not 512
    assert config.local_batch_size(asked(512), 3, 510) == 170
    with pytest.raises(ValueError, match="batch of 510, which 4 processes cannot share"):
        config.local_batch_size(asked(512), 4, 510)
