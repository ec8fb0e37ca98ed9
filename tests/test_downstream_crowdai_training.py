"""Mask R-CNN on toy CrowdAI data: training, resume, metrics and refused inputs. Skipped without Detectron2."""

import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, need_detectron2
from vicreg.common import checkpoint_io

FOLDER = "downstream/detectron2_crowdai_detection_task"

need_detectron2()

from downstream.detectron2_crowdai_detection_task import config, dataset, experiment, train_crowdai, trainer

TOY = """
_BASE_: {smoke}
MODEL:
  FPN: {{OUT_CHANNELS: 8}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
  ROI_MASK_HEAD: {{CONV_DIM: 8}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, RANDOM_FLIP: horizontal}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 4, STEPS: [3], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 2}}
TEST: {{DETECTIONS_PER_IMAGE: 10}}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Toy models gain nothing from threads."""
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
            (x, y), (width, height) = random.integers(4, 30, 2).tolist(), random.integers(12, 28, 2).tolist()
            pixels[y : y + height, x : x + width] = 230
            Image.fromarray(pixels).save(folder / part / "images" / f"{part}{number}.png")
            images.append({"id": number, "file_name": f"{part}{number}.png", "height": 64, "width": 64})
            ring = [x, y, x + width, y, x + width, y + height, x, y + height, x, y]
            same = {"image_id": number, "category_id": 100, "bbox": [y, y, 1, 1]}
            annotations.append({"id": number, **same, "segmentation": [ring]})
        annotations.append({"id": 99, **same, "segmentation": [[1, 1, 2, 2, 3, 3]]})
        coco = {"images": images, "annotations": annotations, "categories": [{"id": 100, "name": "building"}]}
        (folder / part / "annotation.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory, repo_root):
    """Path of a toy configuration."""
    path = tmp_path_factory.mktemp("settings") / "toy.yaml"
    path.write_text(TOY.format(smoke=repo_root / FOLDER / "configs" / "smoke.yaml"))
    return path


@pytest.fixture(scope="module")
def arguments(data, toy):
    """Function (run folder, *more arguments) -> arguments of a toy training, as strings."""

    def make(folder, *more):
        given = ["--data-dir", data, "--config-file", toy, "--pretrained", "random", "--arch", "resnet18"]
        return [*map(str, given), "--device", "cpu", "--seed", "3", "--exp-dir", str(folder), *map(str, more)]

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_script, arguments):
    """Folder of a toy training from the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = run_script(f"{FOLDER}/train_crowdai.py", *arguments(folder, "--eval-on", "both"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def run(arguments):
    """Run the script in this process."""
    train_crowdai.main(train_crowdai.get_parser().parse_args(arguments))


def read_result(folder):
    return json.loads((folder / "result.json").read_text())


def test_training_prints_checks_and_writes_results(trained):
    folder, printed = trained
    assert "verified with detectron2" in printed
    assert "train: 6 images, 6 polygons (dropped: 1 no area; boxes corrected: 6; images without polygons: 0)" in printed
    result = read_result(folder)
    for split in ("train", "val"):
        assert f"{split}: box AP {result[split]['box']['AP']:.4f}" in printed
        assert all(0 <= result[split][task][name] <= 1 for task in ("box", "mask") for name in ("AP", "AP50", "AP75"))
    assert result["overlap"]["exact_duplicates"] == 0 and result["step"] == 4
    assert result["data"]["train"]["dropped"] == {"no area": 1} and result["backbone"]["source"] == "random"
    logged = {key: value for line in (folder / "metrics.json").open() for key, value in json.loads(line).items()}
    assert math.isfinite(logged["loss_mask"]) and logged["crowdai_val/bbox/AP"] == pytest.approx(
        100 * result["val"]["box"]["AP"], abs=1e-3
    )
    assert (folder / "examples.png").stat().st_size > 10_000 and (result["train_samples"], result["task"]) == (
        6,
        "detection",
    )
    (session,) = json.loads((folder / "provenance.json").read_text())["sessions"]
    assert session["status"] == "finished" and session["data"]["train annotations"]
    assert (folder / "config.yaml").is_file() and (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_ground_truth_has_the_corrected_boxes(trained):
    for annotation in json.loads((trained[0] / "ground_truth_val.json").read_text())["annotations"]:
        xs, ys = annotation["segmentation"][0][::2], annotation["segmentation"][0][1::2]
        assert annotation["bbox"] == [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]


def test_existing_run_is_not_overwritten_without_resume(trained, arguments):
    before = (trained[0] / "run.json").read_text()
    with pytest.raises(ValueError, match="holds a run; add --resume"):
        run(arguments(trained[0]))
    assert (trained[0] / "run.json").read_text() == before


def test_refused_start_writes_nothing(tmp_path, arguments, monkeypatch):
    def refuse(folder):
        raise ValueError("another run is writing")

    monkeypatch.setattr(train_crowdai, "lock_run_dir", refuse)
    with pytest.raises(ValueError, match="another run is writing"):
        run(arguments(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_other_machines_write_no_files_into_the_run_folder(tmp_path, arguments, monkeypatch):
    def check(function, gpus, machines, rank, url, given):
        _, cfg, splits, _ = given
        assert all(Path(path).is_file() for path in (cfg.MODEL.WEIGHTS, splits["val"].json_file)) and rank == 1

    monkeypatch.setattr("detectron2.engine.launch", check)
    more = ("--num-machines", 2, "--machine-rank", 1, "--dist-url", "tcp://localhost:1")
    run(arguments(tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resume_continues_from_the_last_checkpoint(tmp_path, arguments, monkeypatch):
    with monkeypatch.context() as patch:
        step = trainer.Trainer.run_step

        def interrupt(self):
            if self.iter == 3:
                raise KeyboardInterrupt
            step(self)

        patch.setattr(trainer.Trainer, "run_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(arguments(tmp_path))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    run(arguments(tmp_path, "--resume"))
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    state = checkpoint_io.load(tmp_path / "model_final.pth")
    assert state["iteration"] == 3 and read_result(tmp_path)["step"] == 4
    group = state["trainer"]["_trainer"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.002)  # past the step at 3
    before = read_result(tmp_path)
    (tmp_path / "result.json").unlink()
    run(arguments(tmp_path, "--resume"))  # a run that was killed while it was evaluated
    assert (read_result(tmp_path)["val"], read_result(tmp_path)["step"]) == (before["val"], 4)


def test_resume_without_checkpoint_starts_from_the_backbone(tmp_path, arguments):
    run(arguments(tmp_path, "--resume", "SOLVER.MAX_ITER", 1))
    assert read_result(tmp_path)["step"] == 1


def test_resume_refuses_other_annotations(trained, arguments):
    recorded = trained[0] / "ground_truth_train.json"
    before = recorded.read_text()
    recorded.write_text(before.replace('"id": 1', '"id": 11', 1))
    with pytest.raises(ValueError, match=r"--resume: .*annotation.json differs from .*ground_truth_train.json"):
        run(arguments(trained[0], "--resume"))
    recorded.write_text(before)


def test_resume_refuses_another_backbone_or_model(trained, arguments):
    for old, new, error in (
        ("random", "imagenet", "--pretrained random, not imagenet"),
        ("resnet18", "resnet34", "--arch resnet18, not resnet34"),
    ):
        with pytest.raises(ValueError, match=error):
            run([new if word == old else word for word in arguments(trained[0], "--resume")])
    with pytest.raises(ValueError, match="another MODEL.FPN"):
        run(arguments(trained[0], "--resume", "MODEL.FPN.OUT_CHANNELS", 16))


def test_eval_only_computes_the_same_metrics(trained, data, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    before = read_result(trained[0])
    command = ["--exp-dir", str(tmp_path / "run"), "--data-dir", str(data), "--device", "cpu", "--eval-only"]
    run([*command, "--eval-on", "both"])
    after = read_result(tmp_path / "run")
    assert after["val"] == before["val"] and after["train"] == before["train"] and after["step"] == 4
    assert (tmp_path / "run" / "config.yaml").read_text() == (trained[0] / "config.yaml").read_text()
    shorter = json.loads((data / "val" / "annotation.json").read_text())
    shorter["images"].pop()
    (tmp_path / "shorter.json").write_text(json.dumps(shorter))
    given = ["--val-json", str(tmp_path / "shorter.json"), "MODEL.WEIGHTS", str(trained[0] / "model_0000001.pth")]
    run([*command, *given])
    assert (read_result(tmp_path / "run")["step"], read_result(tmp_path / "run")["val_samples"]) == (2, 2)
    for name in ("ground_truth_train.json", "ground_truth_val.json"):
        assert (tmp_path / "run" / name).read_text() == (trained[0] / name).read_text()


def test_seed_determines_the_random_backbone(tmp_path, arguments):
    for seed in (3, 4):
        run(arguments(tmp_path / str(seed), "--seed", seed, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-9))
    one, other = (checkpoint_io.load(tmp_path / seed / "model_final.pth")["model"] for seed in "34")
    key = next(key for key in one if "res2" in key and key.endswith("conv1.weight"))
    assert (one[key] - other[key]).abs().mean() > 0.01


def test_training_without_masks_reports_boxes_only(tmp_path, arguments):
    run(arguments(tmp_path, "--precision", "bf16", "MODEL.MASK_ON", "False", "SOLVER.MAX_ITER", 2))
    assert set(read_result(tmp_path)["val"]) == {"box"}
    assert not any("mask" in key for key in checkpoint_io.load(tmp_path / "model_final.pth")["model"])


def test_tracker_receives_the_scalars_of_metrics_json(tmp_path, arguments, monkeypatch):
    module, logged = types.ModuleType("wandb"), {}
    module.init = lambda **options: logged.update(options["config"])
    module.log = lambda values, step: logged.update({step: logged.get(step, {}) | values})
    module.finish = lambda: logged.update(finished=True)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(arguments(tmp_path, "--tracker", "wandb", "SOLVER.MAX_ITER", 2))
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").open()]
    for line in lines:
        values = logged[line.pop("iteration")]
        assert values == pytest.approx(line, nan_ok=True)
    assert {"loss_mask", "lr", "total_loss", "segm/AP"} <= {key for line in lines for key in line}
    assert (logged["pretrained"], logged["SOLVER.MAX_ITER"], logged["finished"]) == ("random", 2, True)
    assert not list(tmp_path.glob("events.*"))


def test_a_tracker_that_fails_or_is_missing_is_named(tmp_path, arguments, monkeypatch, capsys):
    module = types.ModuleType("wandb")
    module.init, module.log = (lambda **options: None), (lambda values, step: 1 / 0)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(arguments(tmp_path, "--tracker", "wandb", "SOLVER.MAX_ITER", 1))
    assert capsys.readouterr().out.count("the tracker failed and gets no more values") == 1
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    with pytest.raises(ValueError, match="--tracker mlflow needs the package mlflow"):
        run(arguments(tmp_path / "other", "--tracker", "mlflow"))
    with pytest.raises(SystemExit):
        run(arguments(tmp_path / "other", "--tracker", "comet"))
    assert "invalid choice: 'comet'" in capsys.readouterr().err and not (tmp_path / "other").exists()


class KnownDetector(torch.nn.Module):
    """Return the ground truth, with boxes that are shifted by a fraction of their width."""

    def __init__(self, split, shift):
        super().__init__()
        coco = json.loads(open(split.json_file).read())
        self.rings = {image["id"]: [] for image in coco["images"]}
        for annotation in coco["annotations"]:
            self.rings[annotation["image_id"]].append(annotation["segmentation"])
        self.shift = shift

    def forward(self, inputs):
        return [{"instances": self.instances(one)} for one in inputs]

    def instances(self, record):
        import pycocotools.mask
        from detectron2.structures import Boxes, Instances, PolygonMasks

        height, width, rings = record["height"], record["width"], self.rings[record["image_id"]]
        if self.shift is None:
            return Instances((height, width), scores=torch.zeros(0), pred_boxes=Boxes(torch.zeros(0, 4)))
        boxes = PolygonMasks(rings).get_bounding_boxes().tensor
        boxes[:, ::2] += self.shift * (boxes[:, 2:3] - boxes[:, :1])
        masks = [pycocotools.mask.decode(pycocotools.mask.frPyObjects(ring, height, width)).any(2) for ring in rings]
        predicted = {"pred_boxes": Boxes(boxes), "pred_masks": torch.from_numpy(np.stack(masks))}
        scores, classes = torch.ones(len(rings)), torch.zeros(len(rings), dtype=torch.int64)
        return Instances((height, width), scores=scores, pred_classes=classes, **predicted)


def evaluate(data, toy, out, shift):
    """Return the summary of a KnownDetector on the validation images."""
    splits = dataset.prepare_splits(data, {"train": "annotation.json", "val": "annotation.json"}, out)
    dataset.register(splits["val"])
    backbone = {"arch": "resnet18", "in_chans": 3}
    cfg = config.build_config(toy, [], backbone, {"DATASETS.TEST": (splits["val"].dataset_name,)}, "cpu")
    return experiment.summarize(trainer.Trainer.test(cfg, KnownDetector(splits["val"], shift)))


@pytest.mark.parametrize(("shift", "box"), [
    (0.0, {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}),
    (0.235, {"AP": 0.3, "AP50": 1.0, "AP75": 0.0}),  # IoU (1 - 0.235) / (1 + 0.235) = 0.62: 0.50, 0.55, 0.60 of the ten
    (0.5, {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}),
])  # fmt: skip
def test_evaluation_gives_the_known_precision(data, toy, tmp_path, shift, box):
    metrics = evaluate(data, toy, tmp_path, shift)
    assert {name: metrics["box"][name] for name in box} == pytest.approx(box)
    assert [metrics["mask"][name] for name in box] == pytest.approx([1.0, 1.0, 1.0])
    assert metrics["box"]["APl"] is None  # no object of 96 x 96 pixels


def test_evaluation_without_detections_is_zero(data, toy, tmp_path):
    metrics = evaluate(data, toy, tmp_path, None)
    assert [metrics[task][name] for task in ("box", "mask") for name in ("AP", "AP50", "AP75")] == [0.0] * 6
    assert metrics["box"]["APs"] is None


@pytest.mark.parametrize("damage, error", [
    (lambda path: path.write_bytes(path.read_bytes()[:300]), r"train\d.png cannot be used"),
    (lambda path: Image.new("RGB", (32, 64)).save(path), r"train\d.png.*got \(32, 64\), expect \(64, 64\)"),
])  # fmt: skip
@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_image_is_named_in_one_line(tmp_path, data, arguments, monkeypatch, damage, error, workers):
    monkeypatch.setattr(dataset, "MAX_COMPARED", 0)  # as with a long list
    copy = shutil.copytree(data, tmp_path / "data")
    for path in (copy / "train" / "images").iterdir():
        damage(path)
    with pytest.raises(ValueError, match=error) as caught:
        run(arguments(tmp_path / "run", "--data-dir", copy, "DATALOADER.NUM_WORKERS", workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more, error", [
    (["--pretrained", "none.pth"], "no checkpoint at"), (["--config-file", "none.yaml"], "no configuration at"),
    (["--eval-only"], "--eval-only: no checkpoint in"), (["--num-gpus", 64], "this machine has"),
    (["--num-machines", 2], "--dist-url tcp://"), (["SOLVER.IMS_PER_BATCH", 0], "not a multiple"),
])  # fmt: skip
def test_invalid_options_are_refused(tmp_path, arguments, more, error):
    with pytest.raises((ValueError, OSError), match=error):
        run(arguments(tmp_path / "run", *more))


def test_invalid_input_ends_the_script_with_one_line(tmp_path, run_script):
    done = run_script(f"{FOLDER}/train_crowdai.py", "--exp-dir", tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--pretrained is missing" in done.stderr


TWO_PROCESSES = """
import functools, sys
sys.path[:0] = [{root!r}]
from detectron2.engine import defaults, launch
from downstream.detectron2_crowdai_detection_task import train_crowdai

def work(*arguments):
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)  # for processes on a CPU
    train_crowdai.run_process(*arguments)

def launch_two(function, gpus, machines, rank, url, arguments):
    launch(work, 2, machines, rank, url, arguments)

if __name__ == "__main__":
    import detectron2.engine
    detectron2.engine.launch = launch_two
    train_crowdai.main(train_crowdai.get_parser().parse_args(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(tmp_path, arguments):
    (tmp_path / "two.py").write_text(TWO_PROCESSES.format(root=str(ROOT)))
    more = ["SOLVER.MAX_ITER", 2, "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]  # SyncBN needs GPUs
    command = [sys.executable, tmp_path / "two.py", *arguments(tmp_path / "run", *more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in (tmp_path / "run" / "log.txt").read_text() and done.stdout.count("val: box AP") == 1
    assert read_result(tmp_path / "run")["step"] == 2
