"""Configuration dataclasses: built from parsed arguments, saved as plain values, compared on resume."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vicreg.common.config import check_resume, flag_of, from_args, setting, to_dict


@dataclasses.dataclass(frozen=True)
class Config:
    arch: str = setting(compare="must_match")
    epochs: int = setting(10, compare="length")
    lr: float = setting(0.3)
    workers: int = setting(2, compare="ignore")
    exp_dir: Path = setting(Path("exp"), compare="ignore")
    widths: tuple[int, ...] = setting((8, 4))


def test_from_args_takes_the_attributes_of_the_same_name_and_overrides():
    namespace = argparse.Namespace(arch="resnet18", epochs=5, unrelated=1)
    config = from_args(Config, namespace, workers=0)
    assert config == Config("resnet18", epochs=5, workers=0)
    assert from_args(Config, namespace, epochs=7).epochs == 7
    with pytest.raises(TypeError, match="arch"):
        from_args(Config, argparse.Namespace())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 6


def test_setting_refuses_an_unknown_comparison():
    with pytest.raises(ValueError, match="compare='exact'"):
        setting(1, compare="exact")


def test_to_dict_holds_what_json_and_weights_only_loading_accept(tmp_path):
    values = to_dict(Config("resnet18"))
    assert values["exp_dir"] == "exp" and values["widths"] == [8, 4]
    assert json.loads(json.dumps(values)) == values
    torch.save(values, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True) == values


def test_flag_of_is_the_name_with_hyphens():
    assert flag_of("exp_dir") == "--exp-dir"


def test_check_resume_accepts_the_same_values_and_fields_that_the_checkpoint_lacks(capsys):
    config = Config("resnet18")
    check_resume(to_dict(config), config, "exp/run", finished=True)
    check_resume({}, config, "exp/run")
    assert capsys.readouterr().out == ""


def test_check_resume_refuses_a_field_that_must_match_with_flag_and_both_values():
    with pytest.raises(ValueError, match="exp/run holds a run with --arch resnet18, not resnet50; .*--exp-dir"):
        check_resume(to_dict(Config("resnet18")), Config("resnet50"), "exp/run")


def test_check_resume_reports_other_changes_and_ignores_those_without_effect(capsys):
    check_resume(to_dict(Config("resnet18")), Config("resnet18", epochs=20, lr=0.1, workers=9), "exp/run")
    assert capsys.readouterr().out == (
        "note: --epochs was 10 when this run started and is 20 now\n"
        "note: --lr was 0.3 when this run started and is 0.1 now\n"
    )


def test_check_resume_lets_a_finished_run_become_longer_only(capsys):
    saved = to_dict(Config("resnet18"))
    check_resume(saved, Config("resnet18", epochs=20, workers=9), "exp/run", finished=True)
    assert capsys.readouterr().out == "note: --epochs was 10 when this run started and is 20 now\n"
    with pytest.raises(ValueError, match="holds a finished run with --lr 0.3, not 0.1"):
        check_resume(saved, Config("resnet18", lr=0.1), "exp/run", finished=True)
