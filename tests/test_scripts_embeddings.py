"""The script that compares frozen features, at toy size, as people start it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vicreg.engine import checkpoint
from vicreg.models.backbones import load_backbone

# From the README, to be typed in vicreg/. Tests append toy sizes: of a flag given twice, the last counts.
COMPARE = (
    "python evaluate_embeddings.py --pretrained random stats pixels exp/trained_model.pth --csv-dir ../data/sn7 "
    "--exp-dir exp"
)
TOY = "--image-size 8 --epochs 2 --knn 1 3 --resamples 50 --device cpu --map-samples 20 --batch-size 32".split()


def start(command, cwd, *more):
    """Run a command line that begins with ``python``; more arguments are appended."""
    words = command.replace("python", sys.executable, 1).split() + [str(word) for word in more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Two files of weights: of a run, and one with a name of its own."""
    folder = tmp_path_factory.mktemp("backbones")
    for seed, name in enumerate(["run/trained_model.pth", "mine.pth"], 5):
        (folder / name).parent.mkdir(exist_ok=True)
        backbone, _ = load_backbone("random", "test_resnet", seed=seed)
        checkpoint.save_backbone(folder / name, backbone, "test_resnet", 3, [0.5] * 3, [0.2] * 3, "test")
    return folder / "run/trained_model.pth", folder / "mine.pth"


def test_help_comes_from_anywhere(repo_root, tmp_path):
    ran = start(f"python {repo_root / 'vicreg/evaluate_embeddings.py'} --help", tmp_path)
    assert ran.returncode == 0 and "usage:" in ran.stdout, ran.stderr


def test_the_command_tested_here_is_the_readmes(repo_root):
    readme = " ".join("\n".join(p.read_text() for p in (repo_root / "docs").rglob("*.md")).replace("\\\n", " ").split())
    assert COMPARE in readme


@pytest.mark.slow
def test_checkpoints_and_baselines_come_out_in_one_table_and_a_second_start_reuses_features(
    repo_root, sn7_prepared, backbones, tmp_path
):
    given = ["--csv-dir", sn7_prepared, "--exp-dir", tmp_path, "--test-csv", sn7_prepared, *TOY]
    given += ["--pretrained", *backbones, "random", "stats", "pixels", "--train-percent", 10, "--seeds", 2]
    ran = start(COMPARE, repo_root / "vicreg", *given)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("features extracted and cached as float32") == 15 and "whole locations" in ran.stdout
    names = ["run", "mine", "random", "stats", "pixels"]
    folder, results = tmp_path / "embeddings", {}
    for name in names:
        found = {path.name for path in (folder / name).iterdir()}
        assert found == {
            "result.json", "tsne.png", "neighbors.png", "embedding_map.json", "thumbnails.jpg",
            "tsne_protocol2.png", "neighbors_protocol2.png", "embedding_map_protocol2.json", "thumbnails_protocol2.jpg",
        }  # fmt: skip
        results[name] = json.loads((folder / name / "result.json").read_text())
        low, high = results[name]["intervals"]["top1"]
        assert 0 <= low <= results[name]["top1"] <= high <= 1
        assert len(results[name]["label10_top1_seeds"]) == 2 and "10 % of labels" in ran.stdout
        assert results[name]["alignment"] >= 0 and "top1" not in results[name]["protocol2"]
    assert results["random"]["arch"] == "test_resnet"  # as the files' own
    rows = [line.split() for line in ran.stdout.splitlines() if "[" in line]
    lines = [words[0] for words in rows if words[0] in names]
    assert lines == names * 2
    assert (folder / "table.md").read_text().count("| pixels |") == 2
    assert [row["name"] for row in json.loads((folder / "table.json").read_text())] == names

    again = start(COMPARE, repo_root / "vicreg", *given)
    assert again.returncode == 0, again.stderr
    assert "extracted" not in again.stdout and again.stdout.count("cached features read") == 15
    for name in names:
        second = json.loads((folder / name / "result.json").read_text())
        assert {**second, "seconds": 0} == {**results[name], "seconds": 0}


@pytest.mark.slow
def test_class_folders_are_judged_sample_by_sample_and_say_what_is_left_out(repo_root, backbones, tmp_path):
    for part, count in (("train", 8), ("val", 5)):
        for label, name in enumerate(["dark", "bright"]):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for n in range(count):
                pixels = np.random.default_rng([label, n]).integers(0, 60, (12, 14, 3)) + 180 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / part / name / f"{n}.png")
    command = f"python vicreg/evaluate_embeddings.py --exp-dir {tmp_path / 'exp'} --data-dir {tmp_path / 'data'}"
    ran = start(command, repo_root, "--pretrained", backbones[1], "stats", *TOY, "--dtype", "float16")
    assert ran.returncode == 0, ran.stderr
    assert "no alignment" in ran.stdout and "10 single samples" in ran.stdout
    result = json.loads((tmp_path / "exp/embeddings/stats/result.json").read_text())
    assert result["knn3_top1"] == result["kmeans_accuracy"] == 1 and result["intervals"]["knn3_top1"] == [1, 1]
    assert result["alignment"] is None and result["dtype"] == "float16"


BAD = {
    "no data": ("--pretrained stats", ["--csv-dir", "--data-dir"]),
    "no file": ("--pretrained stats nothing.pth --csv-dir {csv}", ["nothing.pth"]),
    "no weights": ("--pretrained {file} --csv-dir {csv}", ["file"]),
    "no arch": ("--pretrained random --csv-dir {csv}", ["--arch"]),
    "twice": ("--pretrained stats stats --csv-dir {csv}", ["twice"]),
    "no lists": ("--pretrained stats --csv-dir {tmp}", ["make_sn7_csv.py"]),
    "seen alone": ("--pretrained stats --csv-dir {csv} --seen {csv}/all.csv", ["--unseen"]),
    "not a list": ("--pretrained stats --csv-dir {csv} --seen {file} --unseen {csv}/all.csv", ["not a patch list"]),
    "no neighbors": ("--pretrained stats --csv-dir {csv} --knn 0", ["--knn [0]"]),
    "no fraction": ("--pretrained stats --data-dir {csv} --val-fraction 20", ["--val-fraction 20"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_users_mistake_ends_in_one_clear_message(repo_root, sn7_prepared, tmp_path, case):
    (tmp_path / "file").write_text("no checkpoint\n")
    arguments, words = BAD[case]
    arguments = arguments.format(tmp=tmp_path, csv=sn7_prepared, file=tmp_path / "file")
    ran = start(
        f"python vicreg/evaluate_embeddings.py --exp-dir {tmp_path / 'exp'} --device cpu {arguments}", repo_root
    )
    assert ran.returncode == 1, ran.stdout
    assert len(ran.stderr.strip().splitlines()) == 1 and all(word in ran.stderr for word in words), ran.stderr
    assert not list(tmp_path.glob("exp/embeddings/*/result.json"))
