"""Mask R-CNN on toy CrowdAI data: training, going on, figures, prediction. Skipped where Detectron2 is missing."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import need_detectron2
from vicreg.common import checkpoint_io
from vicreg.engine import checkpoint
from vicreg.models.backbones import load_backbone

FOLDER = "downstream/detectron2_crowdai_detection_task"

need_detectron2()

from downstream.detectron2_crowdai_detection_task import (
    coco,
    config,
    convert_to_detectron2,
    evaluation,
    train_crowdai,
    trainer,
)
from downstream.detectron2_crowdai_detection_task import model as detection_model

TOY = """
_BASE_: {smoke}
MODEL:
  FPN: {{OUT_CHANNELS: 8}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
  ROI_MASK_HEAD: {{CONV_DIM: 8}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, RANDOM_FLIP: horizontal}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 4, STEPS: [3], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 2}}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads are of no use to toys, and a second process may be using the other core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of 6 + 3 dark images with a bright rectangle each; boxes are wrong, one polygon is a line."""
    folder, random = tmp_path_factory.mktemp("crowdai"), np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        (folder / part / "images").mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            pixels = random.integers(0, 60, (64, 64, 3), np.uint8)
            (x, y), (wide, high) = random.integers(4, 30, 2).tolist(), random.integers(12, 28, 2).tolist()
            pixels[y : y + high, x : x + wide] = 230
            Image.fromarray(pixels).save(folder / part / "images" / f"{part}{number}.png")
            images.append({"id": number, "file_name": f"{part}{number}.png", "height": 64, "width": 64})
            ring = [x, y, x + wide, y, x + wide, y + high, x, y + high, x, y]
            same = {"image_id": number, "category_id": 100, "bbox": [y, y, 1, 1]}
            annotations.append({"id": number, **same, "segmentation": [ring]})
        annotations.append({"id": 99, **same, "segmentation": [[1, 1, 2, 2, 3, 3]]})
        coco = {"images": images, "annotations": annotations, "categories": [{"id": 100, "name": "building"}]}
        (folder / part / "annotation.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory, repo_root):
    """Settings of a toy."""
    path = tmp_path_factory.mktemp("settings") / "toy.yaml"
    path.write_text(TOY.format(smoke=repo_root / FOLDER / "configs" / "smoke.yaml"))
    return path


@pytest.fixture(scope="module")
def words(data, toy):
    """Function (run folder, *more arguments) -> arguments of a toy training, as strings."""

    def make(folder, *more):
        given = ["--data-dir", data, "--config-file", toy, "--pretrained", "random", "--arch", "resnet18"]
        return [*map(str, given), "--device", "cpu", "--seed", "3", "--exp-dir", str(folder), *map(str, more)]

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_script, words):
    """Folder of a toy training that was run from the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = run_script(f"{FOLDER}/train_crowdai.py", *words(folder, "--eval-on", "both"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def train(words):
    """Train in this process."""
    trainer.train(train_crowdai.get_parser().parse_args(words))


def test_the_script_says_what_it_loaded_and_leaves_the_record_of_its_run(trained):
    folder, said = trained
    assert "100 of 100 tensors matched, 0 missing, 0 unused" in said
    assert (
        "6 images, 6 polygons (dropped: 1 no area; boxes that did not fit their polygon and were made anew: 6" in said
    )
    result = json.loads((folder / "result.json").read_text())
    for split in ("train", "val"):
        assert f"{split}: box AP {result[split]['box']['AP']:.4f}" in said
        assert all(0 <= result[split][task][name] <= 1 for task in ("box", "mask") for name in ("AP", "AP50", "AP75"))
    assert result["overlap"]["exact_duplicates"] == 0 and result["step"] == 4
    assert result["data"]["train"]["dropped"] == {"no area": 1}
    lines = [json.loads(line) for line in (folder / "stats.txt").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and math.isfinite(lines[-1]["loss_mask"])
    assert Image.open(folder / "examples.png").size == ((4 + 3) * 304, 2 * 304)
    assert list((folder / "tensorboard").iterdir()) and (folder / "config.yaml").is_file()


def test_the_truth_that_figures_are_made_of_has_the_corrected_boxes(trained):
    truth = json.loads((trained[0] / "ground_truth_val.json").read_text())
    for found in truth["annotations"]:
        xs, ys = found["segmentation"][0][::2], found["segmentation"][0][1::2]
        assert found["bbox"] == [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        assert found["area"] == found["bbox"][2] * found["bbox"][3]


def test_a_killed_run_goes_on_to_the_same_weights(trained, tmp_path, words, monkeypatch):
    with monkeypatch.context() as patch:
        real = trainer.count_randomness

        def die(seed, step):
            if step == 3:
                raise KeyboardInterrupt
            real(seed, step)

        patch.setattr(trainer, "seed_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(words(tmp_path, "--eval-on", "both"))
    assert checkpoint_io.load(tmp_path / "model.pth")["step"] == 2
    train(words(tmp_path, "--eval-on", "both", "--resume"))
    ours, theirs = (checkpoint_io.load(folder / "model.pth")["model"] for folder in (tmp_path, trained[0]))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [json.loads(line)["step"] for line in (tmp_path / "stats.txt").read_text().splitlines()] == [4]


def test_a_finished_run_is_not_trained_again_and_eval_only_finds_the_same_figures(trained, words, capsys):
    result, before = trained[0] / "result.json", json.loads((trained[0] / "result.json").read_text())
    train(words(trained[0]))
    assert "done already" in capsys.readouterr().out
    train(words(trained[0], "--eval-only", "--eval-on", "both"))
    after = json.loads(result.read_text())
    assert after["val"] == before["val"] and after["train"] == before["train"] and after["step"] == 4


def test_a_run_that_was_cut_off_while_it_was_judged_is_judged(trained, tmp_path, words):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    train(words(tmp_path / "run", "--eval-on", "both"))
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", trained[0])]
    assert results[0]["val"] == results[1]["val"] and results[0]["step"] == 4


def test_another_rate_and_decay_count_for_a_run_that_goes_on(trained, tmp_path, words, toy):
    shutil.copytree(trained[0], tmp_path / "run")
    numbers = ["SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "(5,)", "SOLVER.BASE_LR", 0.002, "SOLVER.WEIGHT_DECAY", 0.25]
    train(words(tmp_path / "run", *numbers))
    groups = checkpoint_io.load(tmp_path / "run" / "model.pth")["optimizer"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(0.0002) and groups[0]["initial_lr"] == 0.002  # past the fall at step 5
    assert {group["weight_decay"] for group in groups} == {0.25, 1e-6}  # norms have their own


def test_other_weights_to_begin_with_are_another_run(trained, words):
    before = (trained[0] / "args.json").read_text()
    with pytest.raises(ValueError, match="holds a run with --pretrained random, not imagenet"):
        train([word.replace("random", "imagenet") for word in words(trained[0])])
    assert (trained[0] / "args.json").read_text() == before


def test_the_seed_settles_the_random_backbone_too(tmp_path, words):
    for seed in (3, 4):
        train(words(tmp_path / str(seed), "--seed", seed, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-9))
    one, other = (checkpoint_io.load(tmp_path / seed / "model.pth")["model"] for seed in "34")
    key = next(key for key in one if "res2" in key and key.endswith("conv1.weight"))
    assert (one[key] - other[key]).abs().mean() > 0.01


class Knowing(torch.nn.Module):
    """Finds what is there, in boxes that are shifted by a share of their width."""

    def __init__(self, split, shift):
        super().__init__()
        self.records, self.shift = {record["image_id"]: record for record in split.records}, shift

    def forward(self, inputs):
        return [{"instances": self.found(self.records[one["image_id"]])} for one in inputs]

    def found(self, record):
        import pycocotools.mask
        from detectron2.structures import Boxes, Instances, PolygonMasks

        rings = [one["segmentation"] for one in record["annotations"]]
        height, width = record["height"], record["width"]
        boxes = PolygonMasks(rings).get_bounding_boxes().tensor
        boxes[:, ::2] += self.shift * (boxes[:, 2:3] - boxes[:, :1])
        masks = [pycocotools.mask.decode(pycocotools.mask.frPyObjects(ring, height, width)).any(2) for ring in rings]
        scores, kinds = torch.ones(len(rings)), torch.zeros(len(rings), dtype=torch.int64)
        of_image = {"pred_boxes": Boxes(boxes), "pred_masks": torch.from_numpy(np.stack(masks))}
        return Instances((height, width), scores=scores, pred_classes=kinds, **of_image)


def figures_of(part, toy, out, shift):
    split = coco.read_split(part, "annotation.json")
    cfg, _ = config.read(toy, [])
    return evaluation.judge(Knowing(split, shift), split, part.name, cfg, out, torch.device("cpu"))


@pytest.mark.parametrize(("shift", "box"), [
    (0.0, {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}),
    (0.235, {"AP": 0.3, "AP50": 1.0, "AP75": 0.0}),  # IoU (1 - 0.235) / (1 + 0.235) = 0.62: 0.50, 0.55, 0.60 of the ten
    (0.5, {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}),
])  # fmt: skip
def test_figures_are_those_of_what_was_found(data, toy, tmp_path, shift, box):
    found = figures_of(data / "train", toy, tmp_path, shift)
    assert {name: found["box"][name] for name in box} == pytest.approx(box)
    assert [found["mask"][name] for name in box] == pytest.approx([1.0, 1.0, 1.0])


SHARED = """
import json
from pathlib import Path
from tests.test_downstream_crowdai_training import figures_of
from vicreg import distributed
distributed.init("cpu")
print("figures", json.dumps(figures_of(Path({part!r}), Path({toy!r}), Path({out!r}), 0.235)))
distributed.destroy()
"""


def test_two_processes_share_three_images_and_find_what_one_finds(data, toy, tmp_path, fork):
    alone = figures_of(data / "val", toy, tmp_path, 0.235)
    run = fork(SHARED.format(part=str(data / "val"), toy=str(toy), out=str(tmp_path)), tmp_path / "out", 2)
    assert [run.wait(rank) for rank in (0, 1)] == [0, 0], run.text(0) + run.text(1)
    told = [json.loads(run.text(rank).rpartition("figures ")[2]) for rank in (0, 1)]
    assert told == [alone, {}] and alone["box"]["AP"] == pytest.approx(0.3) and alone["mask"]["AP"] == 1.0


@pytest.mark.slow
def test_a_signal_to_the_command_reaches_the_processes_that_can_save(tmp_path, repo_root, words):
    given = words(tmp_path, "--num-gpus", 2, "SOLVER.MAX_ITER", 5000, "SOLVER.CHECKPOINT_PERIOD", 5000)
    command = [sys.executable, repo_root / FOLDER / "train_crowdai.py", *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        until = time.monotonic() + 300
        while not (tmp_path / "stats.txt").is_file() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        run.terminate()
        said, _ = run.communicate(timeout=120)
    step = checkpoint_io.load(tmp_path / "model.pth")["step"]
    assert run.returncode == 128 + signal.SIGTERM and 0 < step < 5000, said
    assert (tmp_path / "interrupted").read_text() == f"SIGTERM at step {step}\n"


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_model_sees_what_the_backbone_sees(arch, toy):
    import torchvision

    backbone, info = load_backbone("random", arch)
    cfg, _ = config.read(toy)
    config.fit(cfg, {**info, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, 1, torch.device("cpu"), 1)
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([25.5, 51, 76.5]) and cfg.INPUT.FORMAT == "RGB"
    model = detection_model.build(cfg)
    detection_model.take_backbone(model, backbone, info)
    reference = getattr(torchvision.models, arch)(weights=None).eval()
    reference.load_state_dict({**reference.state_dict(), **backbone.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        found = model.backbone.bottom_up.eval()(images)
        for number in (1, 2, 3, 4):
            expected = getattr(reference, f"layer{number}")(expected)
            torch.testing.assert_close(found[f"res{number + 1}"], expected, atol=1e-4, rtol=1e-4)


def test_a_half_load_is_refused(toy):
    backbone, info = load_backbone("random", "resnet18")
    cfg, _ = config.read(toy)
    config.fit(cfg, info, 1, torch.device("cpu"), 1)
    model = detection_model.build(cfg)
    del backbone.layer4[1].bn2
    with pytest.raises(ValueError, match=r"4 tensors missing \['res5.1.conv2.norm.bias'"):
        detection_model.take_backbone(model, backbone, info)


def test_another_batch_scales_the_rate_unless_a_rate_is_given(toy):
    cfg, remarks = config.read(toy, ["SOLVER.IMS_PER_BATCH", "1"])
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.01) and "0.02 x 1 / 2 = 0.01" in remarks[0]
    cfg, remarks = config.read(toy, ["SOLVER.IMS_PER_BATCH", "1", "SOLVER.BASE_LR", "0.5"])
    assert cfg.SOLVER.BASE_LR == 0.5 and not remarks


def test_the_recipe_is_the_published_one(repo_root):
    cfg, _ = config.read(repo_root / FOLDER / "configs" / "train_config.yaml")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (90000, 16, 0.01, 1e-6)
    assert (solver.STEPS, solver.WARMUP_ITERS, solver.WARMUP_METHOD) == ((60000, 80000), 1500, "linear")
    assert solver.CLIP_GRADIENTS.ENABLED and cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM == "SyncBN"


@pytest.mark.parametrize("more, complaint", [
    (["SOLVER.BASELR", "1"], "Detectron2 refuses a setting.*BASELR"), (["SOLVER.BASE_LR"], "come in pairs"),
    (["SOLVER.IMS_PER_BATCH", "7"], "6 training images do not fill a batch"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(tmp_path, words, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(words(tmp_path, *more))


def test_other_inputs_that_cannot_work_are_refused(tmp_path, words, trained):
    for more, complaint in [
        (["--pretrained", tmp_path / "none.pth"], "no checkpoint at"),
        (["--arch", "vit_tiny_patch16_224"], "Detectron2's build_resnet_backbone has no vit_tiny"),
        (["--config-file", tmp_path / "none.yaml"], "no settings at"), (["--resume"], "holds no run to go on with"),
        (["--data-dir", tmp_path], "no annotations at"), (["--eval-only"], "no checkpoint at"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, OSError), match=complaint):
            train(words(tmp_path / "run", *more))
    with pytest.raises(ValueError, match="other MODEL settings"):
        train(words(trained[0], "MODEL.FPN.OUT_CHANNELS", "16"))
    with pytest.raises(ValueError, match="holds a run with resnet18, not resnet34"):
        train([word.replace("resnet18", "resnet34") for word in words(trained[0])])


@pytest.mark.parametrize("spoil, complaint", [
    (lambda path: path.write_bytes(path.read_bytes()[:300]), r"train\d.png cannot be used"),
    (lambda path: Image.new("RGB", (32, 64)).save(path), r"train\d.png.*got \(32, 64\), expect \(64, 64\)"),
])  # fmt: skip
def test_an_image_that_cannot_be_used_is_named(tmp_path, data, words, spoil, complaint):
    copy = shutil.copytree(data, tmp_path / "data")
    for path in (copy / "train" / "images").iterdir():
        spoil(path)
    with pytest.raises(ValueError, match=complaint):
        train(words(tmp_path / "run", "--data-dir", copy, "DATALOADER.NUM_WORKERS", "1"))


def test_a_wrong_input_ends_the_script_with_one_line(tmp_path, run_script):
    words = ["--exp-dir", tmp_path, "--pretrained", "random", "--num-machines", 2]
    done = run_script(f"{FOLDER}/train_crowdai.py", *words)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--dist-url tcp://" in done.stderr


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, run_script, words):
    done = run_script(f"{FOLDER}/train_crowdai.py", *words(tmp_path, "--num-gpus", 2, "SOLVER.MAX_ITER", 2))
    assert done.returncode == 0, done.stderr
    assert "cpu x 2" in done.stdout and json.loads((tmp_path / "result.json").read_text())["val"]["box"]


def test_convert_writes_what_detectron2_reads(tmp_path, capsys):
    backbone, info = load_backbone("random", "resnet18")
    checkpoint.save_backbone(tmp_path / "b.pth", backbone, "resnet18", 3, [0.4] * 3, [0.2] * 3, "a test")
    words = [str(tmp_path / "b.pth"), str(tmp_path / "b.pkl")]
    convert_to_detectron2.main(convert_to_detectron2.get_parser().parse_args(words))
    assert "verified with detectron2" in capsys.readouterr().out and (tmp_path / "b.pkl.yaml").is_file()
