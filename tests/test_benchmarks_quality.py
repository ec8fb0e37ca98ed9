"""bench_quality.py: the steps that fit into a time, and a run at toy size."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import bench_quality
from preprocessing import make_imagery_csv


def test_steps_fill_the_time_at_the_pace_of_each_size():
    same = SimpleNamespace(view_sizes=lambda side, epochs: [64] * epochs)
    assert bench_quality.plan_steps(95, 1000, 100, {64: 2.0}, same, 64) == 47
    assert bench_quality.plan_steps(1, 1000, 100, {64: 2.0}, same, 64) == 1  # never none
    growing = SimpleNamespace(view_sizes=lambda side, epochs: [32] * (epochs - 1) + [64])
    # one epoch: 10 steps of 4 s; two: 10 of 1 s, 10 of 4 s; three: 20 of 1 s, 10 of 4 s
    assert bench_quality.plan_steps(58, 1000, 100, {32: 1.0, 64: 4.0}, growing, 64) == 29
    assert bench_quality.plan_steps(50, 1000, 100, {32: 1.0, 64: 4.0}, growing, 64) == 20


@pytest.fixture
def prepared(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(500):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    words = ["--data-dir", str(tmp_path / "images"), "--out-dir", str(tmp_path / "csv"), "--labels", "folders"]
    make_imagery_csv.main(make_imagery_csv.get_parser().parse_args([*words, "--patch-size", "32", "--split", "image"]))
    return tmp_path / "csv"


OPTIONS = "--arch resnet18 --image-size 32 --mlp 16-16 --batch-size 8 --optimizer adamw --lr 0.001 --workers 0"


def arguments(prepared, tmp_path, *words):
    words = ["--csv-dir", str(prepared), "--exp-dir", str(tmp_path / "q"), f"--options={OPTIONS}", *words]
    return bench_quality.get_parser().parse_args([*words, "--points", "2", "--pilot-steps", "4"])


@pytest.mark.slow
def test_a_recipe_is_run_for_its_time_and_kept(prepared, tmp_path, capsys, monkeypatch):
    recipes = ["--recipes", "barlow: --loss barlow_twins", "--minutes", "0.02", "--precision", "fp32"]
    args = arguments(prepared, tmp_path, *recipes, "--plot", str(tmp_path / "q.svg"))
    bench_quality.main(args)
    table = capsys.readouterr().out
    assert table.strip().splitlines()[-1].startswith("barlow ")
    first, last = json.loads((tmp_path / "q/barlow.json").read_text())["points"]
    assert 0 < first["pairs"] < last["pairs"] and 0 < first["minutes"] < last["minutes"]
    assert last["top1"] == 1.0 and last["intervals"]["top1"] == [1.0, 1.0]  # dark and bright images
    assert json.loads((tmp_path / "q/barlow/config.json").read_text())["config"]["loss"] == "barlow_twins"
    assert (tmp_path / "q.svg").read_text().count("<svg") == 1
    monkeypatch.setattr(bench_quality, "_run", None)  # nothing is run again
    bench_quality.main(args)
    assert capsys.readouterr().out.strip().splitlines()[-1] == table.strip().splitlines()[-1]
    args.minutes = 0.03
    with pytest.raises(ValueError, match=r"barlow\.json is of other settings"):
        bench_quality.main(args)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "a b: --lr 1"], "'a b': a name of letters"),
        (["--recipes", "ours", "ours: --lr 1"], "a recipe twice"),
        (["--minutes", "0"], "--minutes 0"),
        (["--plot", "q.gif"], "gif"),
    ],
)
def test_bad_command_lines_are_refused_before_anything_runs(prepared, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        bench_quality.main(arguments(prepared, tmp_path, *words))
    assert not (tmp_path / "q").exists()


@pytest.mark.slow
def test_a_recipe_that_fails_names_its_last_line(prepared, tmp_path):
    with pytest.raises(ValueError, match="failed: .*--batch-size"):
        bench_quality.main(arguments(prepared, tmp_path, "--recipes", "big: --batch-size 5120", "--precision", "fp32"))
