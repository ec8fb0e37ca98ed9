"""The scripts of image folders and fMoW at toy size, as people start them: the README's lines, from vicreg/."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vicreg.common.logger import read_stats

# From the README, to be typed in vicreg/. Tests append toy sizes: of a flag given twice, the last counts.
IMAGENET = "--data-dir /path/to/imagenet/train --exp-dir path/to/exp"
TRAIN = (
    f"python -m torch.distributed.launch --nproc_per_node=3 main_vicreg_unchanged.py {IMAGENET} --arch resnet50 "
    "--epochs 100 --batch-size 512 --base-lr 0.3"
)
EVALUATE = f"python evaluate.py --pretrained path/to/model.pth --batch-size 128 {IMAGENET}"
FINETUNE = (
    f"{EVALUATE} --weights finetune --train-perc 1 --epochs 20 --lr-backbone 0.03 --lr-head 0.08 --weight-decay 0"
)
FROZEN = f"{EVALUATE} --weights frozen --epochs 20 --lr-head 0.02"
FMOW_CSV = "python preprocessing/make_fmow_csv.py --data-dir FMOW --out-dir data/fmow"
FMOW_TRAIN = (
    "python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_fmow.py --csv-dir ../data/fmow --exp-dir "
    "exp/fmow --arch resnet50 --epochs 100 --batch-size 512 --base-lr 0.3"
)
FMOW_FROZEN = (
    "python evaluate_fmow.py --pretrained exp/fmow/trained_model.pth --csv-dir ../data/fmow --exp-dir exp/fmow "
    "--batch-size 128 --weights frozen --epochs 20 --lr-head 0.02"
)
README_LINES = [TRAIN, FINETUNE, FROZEN, FMOW_CSV, FMOW_TRAIN, FMOW_FROZEN]
SCRIPTS = [
    "vicreg/main_vicreg_unchanged.py", "vicreg/evaluate.py", "vicreg/main_vicreg_fmow.py", "vicreg/evaluate_fmow.py",
    "preprocessing/make_fmow_csv.py",
]  # fmt: skip
TOY = "--epochs 1 --image-size 16 --device cpu --workers 0".split()
TINY = [*TOY, "--arch", "test_resnet", "--mlp", "16-16", "--probe-every", "0"]


def start(command, cwd, *more):
    """Run a command line that begins with ``python``; more arguments are appended."""
    words = command.replace("python", sys.executable, 1).split() + [str(word) for word in more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)


def write_images(folder, count, side=12, suffix="JPEG"):
    """Write noisy images of one color for each class folder, <class>/<class>_<n>.<suffix>."""
    for label, name in enumerate(["n01440764", "n02102040"]):
        (folder / name).mkdir(parents=True)
        random = np.random.default_rng(label)
        for n in range(count):
            pixels = random.integers(0, 200, (side, side + n % 4, 3)) + np.array([50, 25, 0]) * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}_{n}.{suffix}")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Folder with train/ (2 x 260 images, 4 more of them broken) and val/ (2 x 10)."""
    root = tmp_path_factory.mktemp("imagenet")
    write_images(root / "train", 260)
    write_images(root / "val", 10)
    good = (root / "train/n01440764/n01440764_0.JPEG").read_bytes()
    for n, content in enumerate([b"", b"no image", good[:200], good[:-30]]):
        (root / "train" / "n01440764" / f"broken_{n}.JPEG").write_bytes(content)
    return root


@pytest.fixture(scope="module")
def trained(repo_root, imagenet, tmp_path_factory):
    """The README's training line over three processes: (run folder, CompletedProcess)."""
    folder = tmp_path_factory.mktemp("trained")
    ran = start(TRAIN, repo_root / "vicreg", *TINY, "--data-dir", imagenet / "train", "--exp-dir", folder)
    return folder, ran


@pytest.fixture(scope="module")
def fmow(repo_root, tmp_path_factory):
    """A folder prepared from a tiny fMoW tree by the README's line: (folder, CompletedProcess)."""
    root = tmp_path_factory.mktemp("fmow")
    random = np.random.default_rng(0)
    for split, location_ids in (("train", 4), ("val", 2)):
        for kind in ("airport", "crop_field"):
            for place in range(location_ids):
                folder = root / "FMOW" / split / kind / f"{kind}_{place}"
                folder.mkdir(parents=True)
                for k in range(3):
                    path = folder / f"{kind}_{place}_{k}_rgb.jpg"
                    Image.fromarray(random.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
                    path.with_suffix(".json").write_text(json.dumps({"timestamp": f"2016-{3 * k + 1:02d}-01"}))
    return root / "csv", start(FMOW_CSV, repo_root, "--data-dir", root / "FMOW", "--out-dir", root / "csv")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_from_anywhere(repo_root, tmp_path, script):
    ran = start(f"python {repo_root / script} --help", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout


@pytest.mark.parametrize("command", README_LINES)
def test_the_commands_tested_here_are_the_readmes(repo_root, command):
    readme = " ".join("\n".join(p.read_text() for p in (repo_root / "docs").rglob("*.md")).replace("\\\n", " ").split())
    assert command in readme


@pytest.mark.slow
def test_512_over_three_processes_is_510_said_logged_and_used_for_the_rate(trained):
    folder, ran = trained
    assert ran.returncode == 0, ran.stderr
    assert "batch   510 (of 512 asked for) = 170 x 3 process(es)" in ran.stdout
    plan = json.loads((folder / "config.json").read_text())["plan"]
    assert (plan["batch_size"], plan["local_batch_size"], plan["samples"]) == (510, 170, 520)
    assert plan["peak_lr"] == pytest.approx(0.3 * 510 / 256)
    payload = torch.load(folder / "trained_model.pth", weights_only=True)
    assert payload["mean"] == [0.485, 0.456, 0.406] and payload["std"] == [0.229, 0.224, 0.225]


def test_broken_files_are_named_once_and_left_out(trained, imagenet):
    said = trained[1].stdout
    assert said.count("4 of 524 files are left out:") == 1  # by the first process alone
    assert f"{imagenet}/train/n01440764/broken_0.JPEG: empty file" in said
    assert f"validation: 20 images in {imagenet}/val" in said


@pytest.mark.parametrize(
    ("command", "folder", "samples"), [(FINETUNE, "finetune_1", 6), (FROZEN, "freeze_100", 520)], ids=str
)
def test_the_readmes_evaluation_lines_write_results(repo_root, imagenet, trained, tmp_path, command, folder, samples):
    ran = start(command, repo_root / "vicreg", *TOY, "--data-dir", imagenet / "train", "--exp-dir", tmp_path,
                "--pretrained", trained[0] / "model.pth")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "0 missing" in ran.stdout
    result = json.loads((tmp_path / folder / "result.json").read_text())
    assert result["train_samples"] == samples and result["val_samples"] == 20 and result["classes"] == 2
    assert 0 <= result["top1"] <= result["top5"] == 1


@pytest.mark.slow
def test_a_list_of_files_takes_the_place_of_a_percentage(repo_root, imagenet, trained, tmp_path):
    (tmp_path / "list.txt").write_text("n01440764_5.JPEG\nn02102040_17.JPEG\nn02102040_200.JPEG\n")
    ran = start(FINETUNE, repo_root / "vicreg", *TOY, "--data-dir", imagenet, "--exp-dir", tmp_path,
                "--pretrained", trained[0] / "trained_model.pth", "--train-files", tmp_path / "list.txt")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "finetune_1" / "result.json").read_text())["train_samples"] == 3
    (tmp_path / "list.txt").write_text("n01440764_5.JPEG\nelsewhere.JPEG\n")
    ran = start(FINETUNE, repo_root / "vicreg", *TOY, "--data-dir", imagenet, "--exp-dir", tmp_path,
                "--pretrained", trained[0] / "trained_model.pth", "--train-files", tmp_path / "list.txt")  # fmt: skip
    assert ran.returncode == 1 and "elsewhere.JPEG" in ran.stderr and "Traceback" not in ran.stderr


def weights(folder):
    return torch.load(folder / "model.pth", weights_only=True)["model"]


# ends as a kill would, right after the checkpoint of step 2
CUT_OFF = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from vicreg import main_vicreg_unchanged as script
from vicreg.common import checkpoint_io
save = checkpoint_io.save
def save_and_stop(state, path, **more):
    save(state, path, **more)
    if state["step"] == 2:
        sys.exit(9)
checkpoint_io.save = save_and_stop
script.main(script.get_parser().parse_args())
"""


@pytest.mark.slow
def test_loader_processes_and_an_interruption_change_no_weight(repo_root, imagenet, tmp_path):
    options = [*TINY, "--batch-size", 6, "--epochs", 2, "--checkpoint-every", 1, "--data-dir", imagenet / "val"]
    code = [sys.executable, "-c", CUT_OFF, repo_root, *options, "--exp-dir", tmp_path / "again"]
    cut = subprocess.run([str(word) for word in code], capture_output=True, text=True, timeout=300)
    assert cut.returncode == 9, cut.stderr
    for name, workers in (("one", 0), ("two", 2), ("again", 1)):
        ran = start("python main_vicreg_unchanged.py", repo_root / "vicreg", *options, "--exp-dir", tmp_path / name,
                    "--workers", workers)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert "resume  from step 2" in ran.stdout
    one, two, again = (weights(tmp_path / name) for name in ("one", "two", "again"))
    assert all(torch.equal(value, two[key]) and torch.equal(value, again[key]) for key, value in one.items())


@pytest.mark.slow
def test_a_file_that_breaks_during_the_run_does_not_end_it(repo_root, tmp_path):
    write_images(tmp_path / "data", 12)
    (tmp_path / "data/n01440764/n01440764_3.JPEG").write_bytes(b"")
    ran = start("python main_vicreg_unchanged.py --batch-size 10 --no-check", repo_root / "vicreg", *TINY,
                "--data-dir", tmp_path / "data", "--exp-dir", tmp_path / "run", "--epochs", "3")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("n01440764_3.JPEG cannot be read") == 1
    assert "held out, stratified by class" in ran.stdout
    assert read_stats(tmp_path / "run" / "stats.txt")[-1]["step"] == 6


@pytest.mark.slow
def test_fmow_is_prepared_pretrained_and_evaluated_by_the_readmes_lines(repo_root, fmow, tmp_path):
    folder, ran = fmow
    assert ran.returncode == 0, ran.stderr
    ran = start(FMOW_TRAIN, repo_root / "vicreg", *TINY, "--batch-size", 8, "--csv-dir", folder, "--exp-dir", tmp_path,
                "--probe-every", 1, "--max-months-apart", 3)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "temporal positives" in ran.stdout and "views fmow 16 px" in ran.stdout
    assert "knn20_top1" in read_stats(tmp_path / "stats.txt")[-1]
    mean = json.loads((folder / "meta.json").read_text())["mean"]
    assert torch.load(tmp_path / "trained_model.pth", weights_only=True)["mean"] == mean
    ran = start(FMOW_FROZEN, repo_root / "vicreg", *TOY, "--batch-size", 8, "--csv-dir", folder, "--exp-dir", tmp_path,
                "--pretrained", tmp_path / "trained_model.pth", "--lr-head", "0.1", "1", "--views", "2")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads((tmp_path / "freeze_100" / "result.json").read_text())
    assert result["val_samples"] == 12
    assert "24 training samples (100 %, seed 0), 6 of them held out" in ran.stdout  # one location of each class


BAD = {
    "no tree": ("vicreg/main_vicreg_unchanged.py --exp-dir {tmp} --data-dir {tmp}/nowhere", ["nowhere", "--data-dir"]),
    "no classes": ("vicreg/evaluate.py --exp-dir {tmp}_exp --data-dir {tmp} --pretrained stats", ["no class folders"]),
    "device store": (
        "vicreg/main_vicreg_unchanged.py --exp-dir {tmp} --data-dir {images} --cache-on-device --batch-size 4 "
        "--arch test_resnet --mlp 8-8",
        ["--cache-on-device"],
    ),
    "no list": ("vicreg/main_vicreg_fmow.py --exp-dir {tmp} --csv-dir {tmp}", ["make_fmow_csv.py"]),
    "no fMoW": ("preprocessing/make_fmow_csv.py --data-dir {tmp} --out-dir {tmp}/out", ["no folder", "train"]),
    "months of one image": (
        "vicreg/main_vicreg_fmow.py --exp-dir {tmp} --csv-dir {csv} --positives same --max-months-apart 2",
        ["--positives temporal"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_users_mistake_ends_in_one_clear_message(repo_root, imagenet, fmow, sn7_prepared, tmp_path, case):
    command, words = BAD[case]
    command = command.format(tmp=tmp_path, images=imagenet, csv=fmow[0], sn7=sn7_prepared)
    ran = start(f"python {command}", repo_root)
    assert ran.returncode == 1, ran.stdout
    assert "Traceback" not in ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_imagenette_trains_and_is_evaluated(repo_root, real_data, tmp_path):
    data = real_data / "imagenette_mini"
    if not data.is_dir():
        pytest.skip(f"no {data}")
    ran = start("python main_vicreg_unchanged.py --batch-size 100", repo_root / "vicreg", *TINY, "--data-dir", data,
                "--exp-dir", tmp_path, "--image-size", 32)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "400 samples" in ran.stdout
    ran = start("python evaluate.py --batch-size 64", repo_root / "vicreg", *TOY, "--data-dir", data / "train",
                "--exp-dir", tmp_path, "--pretrained", tmp_path / "model.pth", "--image-size", 32)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "freeze_100" / "result.json").read_text())["val_samples"] == 150
