"""The recipes pass options that the scripts know, also in a clone whose path contains a space."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

ARGUMENTS = {"eurosat.sh": ["random", "vicreg=a.pth"], "floodnet.sh": ["out"]}
RECORD = "import json, sys; print(json.dumps(sys.argv[2:]), file=open(sys.argv[1], 'a'))"


@pytest.fixture
def commands(repo_root, tmp_path):
    """Function (recipe) -> command lines that it runs, recorded by a stand-in for the interpreter."""
    clone, log = tmp_path / "a clone", tmp_path / "log.jsonl"
    (clone / "exp").mkdir(parents=True)
    stand_in = clone / "python"
    stand_in.write_text(f'''#!/bin/sh
case $2 in "import csv"*) exec "{sys.executable}" "$@" ;; esac
exec "{sys.executable}" -c "{RECORD}" "{log}" "$@"
''')
    stand_in.chmod(0o755)

    def run(recipe):
        if recipe == "eurosat_unlabeled.sh":  # it makes lists of files from those that its first script writes
            (clone / "data/EuroSAT/2750/River").mkdir(parents=True)
            (clone / "data/eurosat_unlabeled").mkdir()
            for part in ("train", "val"):
                (clone / f"data/EuroSAT/2750/River/{part}, 1.jpg").write_bytes(b"image")
                table = f'row,image_id\n0,"River/{part}, 1.jpg"\n'
                (clone / "data/eurosat_unlabeled" / f"{part}.csv").write_text(table)
        shutil.copy(repo_root / "exp" / recipe, clone / "exp")
        command = ["bash", clone / "exp" / recipe, *ARGUMENTS.get(recipe, [])]
        environment = {**os.environ, "PYTHON": str(stand_in)}
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line[0] != "-c"]  # whether a library is installed

    return run


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("eurosat.sh", 5), ("eurosat_unlabeled.sh", 14), ("expander_study.sh", 11), ("floodnet.sh", 1),
        ("quickstart.sh", 10), ("sn7_resnet18.sh", 5),
        ("sn7_splits.sh", 11), ("sn7_transfer.sh", 3), ("sweep.sh", 1),
    ],
)  # fmt: skip
def test_a_recipe_runs_scripts_with_options_that_they_know(commands, recipe, count):
    lines = commands(recipe)
    assert len(lines) == count
    if not importlib.util.find_spec("detectron2"):
        lines = [line for line in lines if "crowdai" not in line[0]]
    for script, *arguments in lines:
        parser = importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser()
        parser.parse_args(arguments)


def test_the_recipe_of_unlabeled_images_links_names_with_commas(commands, tmp_path):
    commands("eurosat_unlabeled.sh")
    folder = tmp_path / "a clone/data/eurosat_unlabeled/images"
    assert sorted(path.name for path in folder.rglob("*.jpg") if path.exists()) == ["train, 1.jpg", "val, 1.jpg"]


def test_every_recipe_is_tested(repo_root):
    tested = {
        "eurosat",
        "eurosat_unlabeled",
        "expander_study",
        "floodnet",
        "quickstart",
        "sn7_resnet18",
        "sn7_splits",
        "sn7_transfer",
        "sweep",
    }
    assert {path.stem for path in (repo_root / "exp").glob("*.sh")} == tested


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_takes_an_interpreter_whose_path_contains_a_space(repo_root, tmp_path):
    for venv, target in ((tmp_path / "environment", "install"), ("", "test-fast")):
        command = ["make", "-n", "PYTHON=/a clone/python3", f"VENV={venv}", target]
        printed = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=True).stdout
        lines = [shlex.split(line) for line in printed.splitlines() if "/a clone/" in line]
        assert lines and all("/a clone/python3" in words for words in lines)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_recipes_are_free_of_shellcheck_findings(repo_root):
    recipes = [*(repo_root / "exp").glob("*.sh"), *(repo_root / "exp" / "slurm").glob("*.sbatch")]
    ran = subprocess.run(["shellcheck", *sorted(recipes)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_every_recipe_states_hardware_time_and_results(repo_root):
    for recipe in [*(repo_root / "exp").glob("*.sh"), *(repo_root / "exp" / "slurm").glob("*.sbatch")]:
        header = recipe.read_text().partition("\nset -")[0]
        missing = [word for word in ("Hardware", "Time", "Results") if word.lower() not in header.lower()]
        assert not missing, f"{recipe.name} lacks {missing}"
