"""Every training and evaluation script at toy size, as people start them: README commands, folders, launchers."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import torchvision

from vicreg.common.logger import read_stats
from vicreg.models.backbones import load_backbone

SCRIPTS = ["vicreg/main_vicreg_sn7.py", "vicreg/evaluate_sn7.py", "exp/report.py"]
LAUNCH = "-m torch.distributed.launch --nproc_per_node=2"
# From the README, to be typed in vicreg/. Tests append toy sizes: of a flag given twice, the last counts.
TRAIN = (
    "python -m torch.distributed.launch --nproc_per_node=2 main_vicreg_sn7.py --exp-dir exp/ --arch resnet18 "
    "--epochs 100 --batch-size 256 --base-lr 0.3"
)
FINETUNE = (
    "python evaluate_sn7.py --pretrained exp/trained_model.pth --batch-size 128 --exp-dir exp --weights finetune "
    "--train-perc 1 --epochs 20 --lr-backbone 0.03 --lr-head 0.08 --weight-decay 0 --arch resnet18"
)
FROZEN = (
    "python evaluate_sn7.py --pretrained exp/trained_model.pth --batch-size 128 --exp-dir exp --weights frozen "
    "--epochs 100 --lr-head 0.08 --arch resnet18"
)
TOY = "--batch-size 16 --epochs 1 --image-size 16 --workers 0 --device cpu"
TOY_TRAIN = f"{TOY} --mlp 16-16"
TINY = f"{TOY_TRAIN} --arch test_resnet --probe-every 0"  # half a million parameters: starts and saves at once


def start(command, cwd, *more, **variables):
    """Run a command line that begins with ``python``; more arguments are appended, variables set."""
    words = command.replace("python", sys.executable, 1).split() + [str(word) for word in more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def trained(repo_root, sn7_prepared, tmp_path_factory):
    """The README's training line, from vicreg/, over two processes, at toy size: (run folder, CompletedProcess)."""
    folder = tmp_path_factory.mktemp("trained")
    ran = start(TRAIN, repo_root / "vicreg", *TOY_TRAIN.split(), "--csv-dir", sn7_prepared, "--exp-dir", folder)
    return folder, ran


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_from_anywhere(repo_root, tmp_path, script):
    for cwd, name in [(repo_root, script), ((repo_root / script).parent, os.path.basename(script))]:
        ran = start(f"python {name} --help", cwd)
        assert ran.returncode == 0, ran.stderr
        assert "usage:" in ran.stdout


@pytest.mark.parametrize("command", [TRAIN, FINETUNE, FROZEN], ids=["train", "finetune", "frozen"])
def test_the_commands_tested_here_are_the_readmes(repo_root, command):
    readme = " ".join("\n".join(p.read_text() for p in (repo_root / "docs").rglob("*.md")).replace("\\\n", " ").split())
    assert command in readme


def test_the_readmes_training_line_leaves_a_log_and_both_files(trained):
    folder, ran = trained
    assert ran.returncode == 0, ran.stderr
    assert "the loss cannot fall below" in ran.stdout and "2 process(es)" in ran.stdout
    assert {"config.json", "stats.txt", "tensorboard", "views.png", "model.pth", "trained_model.pth"} <= {
        path.name for path in folder.iterdir()
    }
    first, second = json.loads((folder / "views.json").read_text())[0]
    assert (
        first["location"].startswith("L15-")
        and re.fullmatch(r"2018-\d\d", first["date"])
        and second.keys() == first.keys()
    )
    (session,) = json.loads((folder / "provenance.json").read_text())["sessions"]
    assert session["status"] == "finished" and session["processes"] == 2 and "main_vicreg_sn7.py" in session["command"]
    lines = read_stats(folder / "stats.txt")
    wanted = {"epoch", "step", "lr", "loss", "repr_loss", "std_loss", "cov_loss", "pairs_per_second", "data_time"}
    wanted |= {"embedding_std", "effective_rank", "loss_lower_bound"}
    assert wanted <= lines[0].keys()
    assert "knn20_top1" in lines[-1]


def test_trained_model_loads_strictly_into_torchvision(trained):
    payload = torch.load(trained[0] / "trained_model.pth", weights_only=True)
    assert payload["arch"] == "resnet18" and payload["in_chans"] == 3 and "SN7" in payload["source"]
    assert len(payload["mean"]) == len(payload["std"]) == 3
    model = torchvision.models.resnet18()
    model.fc = torch.nn.Identity()
    model.load_state_dict(payload["state_dict"], strict=True)


@pytest.mark.parametrize(
    ("launcher", "more"),
    [
        ("python main_vicreg_sn7.py", ""),
        ("python main_vicreg_sn7.py", "--local_rank 0"),
        ("python main_vicreg_sn7.py", "--local-rank 0"),
        (f"python {LAUNCH} --use_env main_vicreg_sn7.py", ""),
        ("python -m torch.distributed.run --standalone --nproc_per_node=2 main_vicreg_sn7.py", ""),
    ],
    ids=["plain", "local_rank", "local-rank", "launch --use_env", "torchrun"],
)
def test_pretraining_starts_under_every_launcher(repo_root, sn7_prepared, tmp_path, launcher, more):
    ran = start(launcher, repo_root / "vicreg", *TINY.split(), "--csv-dir", sn7_prepared, "--exp-dir", tmp_path,
                "--max-steps", "2", *more.split())  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert read_stats(tmp_path / "stats.txt")[-1]["step"] == 2


def test_pretraining_starts_from_the_root(repo_root, sn7_prepared, tmp_path):
    command = f"python vicreg/main_vicreg_sn7.py {TINY} --max-steps 1"
    ran = start(command, repo_root, "--csv-dir", sn7_prepared, "--exp-dir", tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("extra", [["--compile"], ["--precision", "bf16"], ["--cache-on-device"]], ids=str)
def test_options_of_the_device_work_on_a_cpu(repo_root, sn7_prepared, tmp_path, extra):
    command = f"python vicreg/main_vicreg_sn7.py {TINY} --image-size 32 --max-steps 2"
    # bf16 at 16 pixels: strided convolutions of 1 x 1 maps, whose gradients are not always finite on CPUs
    # compiling takes minutes and a C++ compiler that not every machine has: here --compile is only passed through
    ran = start(command, repo_root, "--csv-dir", sn7_prepared, "--exp-dir", tmp_path, *extra,
                TORCH_COMPILE_DISABLE="1")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    _, info = load_backbone(tmp_path / "trained_model.pth")  # strict: no compiled module's prefixes
    assert info["arch"] == "test_resnet"


@pytest.mark.parametrize(
    ("command", "folder"), [(FINETUNE, "finetune_1"), (FROZEN, "freeze_100")], ids=["finetune", "frozen"]
)
def test_the_readmes_evaluation_lines_write_results(repo_root, sn7_prepared, trained, tmp_path, command, folder):
    ran = start(command, repo_root / "vicreg", "--csv-dir", sn7_prepared, "--exp-dir", tmp_path, *TOY.split(),
                "--pretrained", trained[0] / "trained_model.pth")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "0 missing" in ran.stdout
    result = json.loads((tmp_path / folder / "result.json").read_text())
    assert 0 <= result["top1"] <= result["top5"] <= 1
    assert result["best_top1"] >= result["top1"]
    assert ("knn20_top1" in result) == (folder == "freeze_100")
    assert read_stats(tmp_path / folder / "stats.txt")[-1]["top1"] == result["top1"]


@pytest.mark.parametrize("backbone", ["random", "stats", "model.pth"])
def test_baselines_and_full_checkpoints_are_evaluated_by_the_same_line(
    repo_root, sn7_prepared, trained, tmp_path, backbone
):
    backbone = trained[0] / backbone if backbone == "model.pth" else backbone
    arch = [] if backbone == "stats" else ["--arch", "resnet18"]
    command = f"python vicreg/evaluate_sn7.py {TOY} --views 2 --lr-head 0.1 1"
    ran = start(command, repo_root, "--csv-dir", sn7_prepared, "--exp-dir", tmp_path, "--pretrained", backbone, *arch)
    assert ran.returncode == 0, ran.stderr
    result = json.loads((tmp_path / "freeze_100" / "result.json").read_text())
    assert set(result["lr_sweep"]) == {"0.1", "1"} and result["lr_head"] in (0.1, 1)


@pytest.mark.parametrize("weights", ["frozen", "finetune"])
def test_evaluation_over_two_processes_judges_every_validation_sample(
    repo_root, sn7_prepared, trained, tmp_path, weights
):
    command = f"python {LAUNCH} evaluate_sn7.py {TOY} --lr-backbone 0.01 --weights {weights}"
    ran = start(command, repo_root / "vicreg", "--csv-dir", sn7_prepared, "--exp-dir", tmp_path,
                "--pretrained", trained[0] / "trained_model.pth")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(next(tmp_path.glob("*/result.json")).read_text())
    assert result["val_samples"] == 60 and result["top1"] * 60 == pytest.approx(round(result["top1"] * 60))


def test_report_shows_a_run_with_its_curves_and_views(repo_root, trained, tmp_path):
    ran = start("python exp/report.py", repo_root, trained[0], "--out", tmp_path / "page.html")
    assert ran.returncode == 0, ran.stderr
    assert "pretraining" in ran.stdout and "finished" in ran.stdout
    page = (tmp_path / "page.html").read_text()
    assert len(re.findall('<img [^>]*src="data:image/webp', page)) == 1
    assert "main_vicreg_sn7.py" in page and '"bounds":[{' in page


PRETRAIN = "vicreg/main_vicreg_sn7.py --exp-dir {tmp} --csv-dir {csv} --batch-size 16"
BAD = {
    "no patch list": ("vicreg/main_vicreg_sn7.py --exp-dir {tmp} --csv-dir {tmp}", ["make_sn7_csv.py", "sample"]),
    "batch too large": ("vicreg/main_vicreg_sn7.py --exp-dir {tmp} --csv-dir {csv} --batch-size 999", ["--batch-size"]),
    "batch of one": ("vicreg/main_vicreg_sn7.py --exp-dir {tmp} --csv-dir {csv} --batch-size 1", ["--batch-size"]),
    "unknown backbone": (f"{PRETRAIN} --arch resnet81", ["resnet18"]),
    "bad widths": (f"{PRETRAIN} --mlp 16,16", ["--mlp", "8192-8192"]),
    "bad number": (f"{PRETRAIN} --aug-override blurp=1", ["blur_p"]),
    "no gpu": (f"{PRETRAIN} --device cuda", ["--device cpu"]),
    "folder is a file": ("vicreg/main_vicreg_sn7.py --exp-dir {file} --csv-dir {csv} --batch-size 16", ["file"]),
    "no checkpoint": ("vicreg/evaluate_sn7.py --exp-dir {tmp} --csv-dir {csv} --pretrained {tmp}/x.pth", ["x.pth"]),
    "not a checkpoint": ("vicreg/evaluate_sn7.py --exp-dir {tmp} --csv-dir {csv} --pretrained {file}", ["file"]),
    "wrong arch": (
        "vicreg/evaluate_sn7.py --exp-dir {tmp} --csv-dir {csv} --pretrained {run} --arch resnet50",
        ["resnet18", "resnet50"],
    ),
    "arch not said": ("vicreg/evaluate_sn7.py --exp-dir {tmp} --csv-dir {csv} --pretrained random", ["--arch"]),
    "finetuned statistics": (
        "vicreg/evaluate_sn7.py --exp-dir {tmp} --csv-dir {csv} --pretrained stats --weights finetune",
        ["finetune"],
    ),
    "no runs": ("exp/report.py {tmp}", ["stats.txt"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_users_mistake_ends_in_one_clear_message(repo_root, sn7_prepared, trained, tmp_path, case):
    if case == "no gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "file").write_text("no checkpoint")
    command, words = BAD[case]
    run = trained[0] / "trained_model.pth"
    command = command.format(tmp=tmp_path, csv=sn7_prepared, file=tmp_path / "file", run=run)
    ran = start(f"python {command}", repo_root)
    assert ran.returncode == 1, ran.stdout
    assert "Traceback" not in ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr
