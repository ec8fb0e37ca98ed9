"""Training on EuroSAT: what it leaves, lists, errors, and that a killed run ends as an undisturbed one."""

import json
import shutil
import signal

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from downstream.eurosat_landcover_clsf_task import (
    dataset,
    finetuning,
    inference,
    linear_probe,
    predict_eurosat,
    train_eurosat,
    transforms,
)
from tests.conftest import call_script
from vicreg.common import checkpoint_io
from vicreg.data.base import InputSpec
from vicreg.data.rasters import quiet_georeference
from vicreg.engine import checkpoint
from vicreg.models.backbones import create_backbone
from vicreg.models.heads import Classifier, LinearHead

SCRIPT = "downstream/eurosat_landcover_clsf_task/train_eurosat.py"
TOY = "--pretrained random --arch test_resnet --batch-size 8 --epochs 4 --device cpu --workers 1 --lr 0.01".split()


def words(tree, folder, *more):
    return [*TOY, "--data-dir", str(tree), "--exp-dir", str(folder), *map(str, more)]


def train(tree, folder, *more):
    train_eurosat.main(train_eurosat.get_parser().parse_args(words(tree, folder, *more)))
    return json.loads((folder / "result.json").read_text())


def weights(folder, name="model.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


@pytest.fixture(scope="module")
def finetuned(run_script, eurosat_tree, tmp_path_factory):
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    ran = run_script(SCRIPT, *words(eurosat_tree, folder))
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


def test_finetuning_leaves_figures_pictures_checkpoints_and_the_backbone(finetuned):
    folder, out = finetuned
    result = json.loads((folder / "result.json").read_text())
    assert result["top1"] == 1.0 and result["top5"] == 1.0 and result["classes"] == ["Forest", "Residential", "SeaLake"]
    assert result["train_samples"] == 24 and result["val_samples"] == 6 and result["image_size"] == 32
    assert result["last"]["per_class"]["Forest"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    assert result["overlap"] == {"samples": 6, "location_overlap": None, "exact_duplicates": 0.0}
    assert "precision  recall" in out and "0.0% equal a training sample" in out
    lines = [json.loads(line) for line in (folder / "stats.txt").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12] and lines[-1]["loss"] < lines[0]["loss"]
    for name in ("confusion.png", "examples.png"):
        assert Image.open(folder / name).size[0] > 300
    last, best = weights(folder), weights(folder, "best_model.pth")
    backbone = checkpoint_io.load(folder / "trained_model.pth")
    assert backbone["arch"] == "test_resnet" and len(backbone["mean"]) == 3
    assert all(torch.equal(value, last[f"module.backbone.{key}"]) for key, value in backbone["state_dict"].items())
    assert last.keys() == best.keys() and any((folder / "tensorboard").iterdir())


def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(finetuned, eurosat_tree, fork, tmp_path):
    code = "import sys; from vicreg.common import cli\n"
    code += "from downstream.eurosat_landcover_clsf_task import train_eurosat as script\n"
    given = words(eurosat_tree, tmp_path / "run", "--checkpoint-every", 2, "--log-freq-time", 0)
    code += f"cli.run(script.main, script.get_parser().parse_args({given!r}))"
    first = fork(code, tmp_path / "first.out", launcher=None, OMP_NUM_THREADS="1")
    first.folder = tmp_path / "run"
    first.reach(5)
    first.kill(0)
    assert first.wait(0) == -signal.SIGKILL
    assert not (tmp_path / "run" / "trained_model.pth").exists()
    again = fork(code, tmp_path / "again.out", launcher=None, OMP_NUM_THREADS="1")
    assert again.wait(0) == 0, again.text(0)
    assert "resume  from step" in again.text(0)
    for name in ("model.pth", "best_model.pth"):
        ours, theirs = weights(tmp_path / "run", name), weights(finetuned[0], name)
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_linear_head_on_frozen_features_leaves_the_backbone_as_it_was(eurosat_tree, tmp_path, capsys, monkeypatch):
    def fit_without_val(config, model, split, *more):  # the learning rate is not chosen on validation scenes
        return fit_head(config, model, split._replace(val=None), *more)

    fit_head = linear_probe.fit_head
    monkeypatch.setattr(linear_probe, "fit_head", fit_without_val)
    backbone = create_backbone("test_resnet")
    file = tmp_path / "given.pth"
    checkpoint.save_backbone(file, backbone, "test_resnet", 3, [0.4] * 3, [0.2] * 3, "a toy")
    more = ("--weights", "freeze", "--epochs", 30, "--pretrained", file)
    result = train(eurosat_tree, tmp_path / "run", *more)
    assert result["top1"] == 1.0 and result["knn20_top1"] == 1.0 and result["lr_head"] in train_eurosat.DEFAULT_LRS
    assert result["source"] == "a toy" and result["protocol"] == "EuroSAT linear"
    kept = checkpoint_io.load(tmp_path / "run" / "trained_model.pth")
    assert all(torch.equal(value, kept["state_dict"][key]) for key, value in backbone.state_dict().items())
    assert kept["mean"] == [0.4] * 3  # what the weights were trained with, not what EuroSAT has
    capsys.readouterr()
    again = train(eurosat_tree, tmp_path / "run", *more, "--weights", "frozen")  # the same, in other words
    assert "nothing left to do" in capsys.readouterr().out and again["last"] == result["last"]


def test_lists_choose_the_images_whatever_their_suffix(eurosat_tree, tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"{c}_{n}.tif\n" for c in data_classes(eurosat_tree) for n in (1, 2)))
    (tmp_path / "val.txt").write_text("Forest/Forest_3.jpg\nSeaLake_10.jpg\n")
    lists = tmp_path / "train.txt", tmp_path / "val.txt"
    trained, judged, line = dataset.find_scenes(eurosat_tree, 0.2, 0, *lists)
    assert [path.rpartition("/")[2] for path in judged.paths] == ["Forest_3.jpg", "SeaLake_10.jpg"]
    assert len(trained.paths) == 6 and trained.labels.tolist() == [0, 0, 1, 1, 2, 2] and "train.txt" in line


def data_classes(tree):
    return sorted(path.name for path in tree.iterdir())


@pytest.mark.parametrize(
    "train_names, val_names, message",
    [
        ("Forest_1.tif\nForest_99.tif", "Forest_2.tif", "train.txt: 1 of 2 names.*Forest_99.tif"),
        ("Forest_1.tif\nSeaLake_1.tif\nResidential_1.tif", "Forest_1.jpg", "1 images are in both lists"),
        ("Forest_1.tif\nSeaLake_1.tif", "Forest_2.tif", "no image of the class Residential"),
        ("Forest_1.tif", None, "come together"),
    ],
)
def test_lists_that_do_not_fit_are_refused(eurosat_tree, tmp_path, train_names, val_names, message):
    (tmp_path / "train.txt").write_text(train_names)
    (tmp_path / "val.txt").write_text(val_names or "")
    lists = tmp_path / "train.txt", tmp_path / "val.txt" if val_names else None
    with pytest.raises(ValueError, match=message):
        dataset.find_scenes(eurosat_tree, 0.2, 0, *lists)


def test_the_split_is_stratified_and_follows_its_own_seed(eurosat_tree):
    parts = [dataset.find_scenes(eurosat_tree, 0.2, seed) for seed in (0, 0, 1)]
    assert [np.bincount(val.labels).tolist() for _, val, _ in parts] == [[2, 2, 2]] * 3
    assert parts[0][1].paths == parts[1][1].paths != parts[2][1].paths
    assert not set(parts[0][0].paths) & set(parts[0][1].paths) and len(parts[0][0].paths) == 24


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda tree: (tree / "Forest" / "Forest_4.jpg").write_bytes(b"no image"), "1 of 24 images.*Forest_4.jpg"),
        (lambda tree: (tree / "River").mkdir(), "no image in .*River"),
        (lambda tree: [shutil.rmtree(tree / name) for name in ("SeaLake", "Residential")], "one class only"),
        (lambda tree: [path.unlink() for path in sorted((tree / "SeaLake").iterdir())[1:]], "one image only"),
        (shutil.rmtree, "no folder"),
    ],
)
def test_a_tree_that_cannot_be_trained_on_is_named(eurosat_tree, tmp_path, spoil, message):
    tree = shutil.copytree(eurosat_tree, tmp_path / "tree")
    spoil(tree)
    with pytest.raises((ValueError, OSError), match=message):
        train(tree, tmp_path / "run", "--split-seed", 3)
    assert not (tmp_path / "run").exists()


def test_a_wrong_list_ends_with_one_line_and_exit_code_1(eurosat_tree, tmp_path):
    ran = call_script(
        SCRIPT, *words(eurosat_tree, tmp_path / "run", "--train-list", tmp_path / "a.txt", "--val-list", 1)
    )
    assert ran.returncode == 1 and "no list of files" in ran.stderr and "Traceback" not in ran.stderr


def test_split_folders_are_a_split_and_not_classes(eurosat_tree, tmp_path):
    for part, numbers in (("Train", range(1, 7)), ("Val", (7, 8)), ("test", (9, 10))):
        for name in data_classes(eurosat_tree):
            (tmp_path / "split" / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(eurosat_tree / name / f"{name}_{number}.jpg", tmp_path / "split" / part / name)
    train_part, val_part, description = dataset.find_scenes(tmp_path / "split", 0.5, 0)
    assert train_part.classes == val_part.classes == data_classes(eurosat_tree)
    assert np.bincount(train_part.labels).tolist() == [6] * 3 and np.bincount(val_part.labels).tolist() == [2] * 3
    assert "folders Train and Val" in description
    shutil.rmtree(tmp_path / "split" / "Val")
    with pytest.raises(ValueError, match="split folders Train, test, and not both train and val"):
        dataset.find_scenes(tmp_path / "split", 0.5, 0)
    for name in ("train", "val"):
        shutil.copytree(eurosat_tree / "Forest", tmp_path / "classes" / name)
    with pytest.raises(ValueError, match="classes/train, .*/val: images without class folders"):
        dataset.find_scenes(tmp_path / "classes", 0.5, 0)
    shutil.copytree(eurosat_tree / "Forest", tmp_path / "classes" / "plane")  # a class that is called train
    assert dataset.find_scenes(tmp_path / "classes", 0.5, 0)[0].classes == ["plane", "train", "val"]


def test_images_of_other_sizes_are_resized_to_the_most_frequent_size(eurosat_tree, tmp_path, capsys):
    tree = shutil.copytree(eurosat_tree, tmp_path / "tree")
    for name, size in (("Forest_1.jpg", (8, 8)), ("Forest_2.jpg", (40, 50))):
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tree / "Forest" / name)
    result = train(tree, tmp_path / "run", "--epochs", 1, "--split-seed", 5)
    assert result["image_size"] == 32
    assert "all are resized to 32 px, the size of" in capsys.readouterr().out


def test_deeper_images_need_levels_which_prediction_then_uses(tmp_path):
    rng, tree = np.random.default_rng(0), tmp_path / "deep"
    for name, color in zip(("Forest", "SeaLake"), ((30, 90, 40), (20, 40, 120)), strict=True):
        (tree / name).mkdir(parents=True)
        for number in range(10):
            pixels = (np.array(color)[:, None, None] + rng.integers(-20, 21, (3, 32, 32))) * 10
            profile = {"driver": "GTiff", "count": 3, "height": 32, "width": 32, "dtype": "uint16"}
            with quiet_georeference(), rasterio.open(tree / name / f"{name}_{number}.tif", "w", **profile) as raster:
                raster.write(pixels.clip(0, 2550).astype(np.uint16))
    with pytest.raises(
        ValueError,
        match="16 of 16 images cannot be used: .*Forest_0.tif, .*, … holds uint16, not 8-bit colors; .*--levels",
    ):
        train(tree, tmp_path / "run")
    result = train(tree, tmp_path / "run", "--levels", 0, 2550)
    assert result["top1"] == 1.0
    best = tmp_path / "run" / "best_model.pth"
    assert checkpoint_io.load(best)["task"]["levels"] == [0.0, 2550.0]
    given = ["--checkpoint", best, "--image", tree / "Forest", "--out", tmp_path / "out", "--device", "cpu"]
    predict_eurosat.main(predict_eurosat.get_parser().parse_args(list(map(str, given))))
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == 10 and all(",Forest," in row for row in rows)
    with pytest.raises(ValueError, match="finished run with --levels|with --levels"):
        train(tree, tmp_path / "run", "--levels", 0, 255)


@pytest.mark.parametrize("weights_mode", ["finetune", "freeze"])
def test_a_run_of_the_former_layout_is_taken_for_finished(eurosat_tree, tmp_path, capsys, weights_mode):
    folder, more = tmp_path / "run", ("--weights", weights_mode, "--epochs", 2)
    before = train(eurosat_tree, folder, *more)
    for name in ("model.pth", "best_model.pth"):
        state = torch.load(folder / name, weights_only=True)
        config = state.pop("config")
        decay = config.pop("weight_decay")
        args = {**config, "wd": 1e-4, "wd_head": decay, "augment_set": config.pop("aug_override"), "in_chans": 3}
        former = {key: value for key, value in state.items() if key not in ("kind", "batch_size")}
        checkpoint_io.save({"args": args, **former}, folder / name)
    capsys.readouterr()
    assert train(eurosat_tree, folder, *more)["last"] == before["last"]
    assert "nothing left to do" in capsys.readouterr().out
    model, task = inference.load_classifier(folder / "best_model.pth", torch.device("cpu"))
    assert task["classes"] == before["classes"] and not model.training


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pretrained", "stats"], "stats has no weights"),
        (["--aug-override", "scale=0.3,1"], "--aug-override changes the values of a preset"),
        (["--train-percent", "0"], "--train-percent 0"),
        (["--epochs", "0"], "--epochs 0"),
        (["--weights", "freeze", "--max-steps", "3"], "--max-steps shortens finetuning only"),
    ],
)
def test_arguments_that_cannot_work_are_refused(eurosat_tree, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        train(eurosat_tree, tmp_path / "run", *more)


def test_a_backbone_of_four_channels_does_not_take_rgb(eurosat_tree, tmp_path):
    file, about = tmp_path / "four.pth", {"mean": [0.5] * 4, "std": [0.2] * 4, "source": "a test"}
    checkpoint.save_backbone(file, create_backbone("test_resnet", 4), arch="test_resnet", in_chans=4, **about)
    with pytest.raises(ValueError, match=r"24 of 24 images cannot be used: .*has 3 band\(s\), 4 are needed"):
        train(eurosat_tree, tmp_path / "run", "--pretrained", str(file))


def test_few_labels_a_regime_and_a_larger_view_train_in_bf16(eurosat_tree, tmp_path):
    more = ["--train-percent", "50", "--augment", "crop", "--augment-set", "scale=0.5,1", "--image-size", "48"]
    result = train(eurosat_tree, tmp_path / "run", *more, "--precision", "bf16", "--batch-size", "4")
    assert result["train_samples"] == 12 and result["image_size"] == 48
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plan"]["bf16"] is True


def test_other_optimizers_leave_biases_and_norms_undecayed_and_adam_stays_adam(eurosat_tree, tmp_path):
    model = create_backbone("test_resnet")
    kinds = {name: finetuning.create_optimizer(name, model, 0.05) for name in ("adam", "adamw", "sgd")}
    assert [type(found) for found in kinds.values()] == [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD]
    for name in ("adamw", "sgd"):
        decays = {p: group["weight_decay"] for group in kinds[name].param_groups for p in group["params"]}
        assert all(decays[p] == (0.05 if p.ndim > 1 else 0.0) for p in model.parameters())
    more = ["--optimizer", "adamw", "--wd", "0.05", "--epochs", "1"]
    train(eurosat_tree, tmp_path / "run", *more)
    assert len(torch.load(tmp_path / "run" / "model.pth", weights_only=True)["optimizer"]["param_groups"]) == 2
    with pytest.raises(ValueError, match="--optimizer adamw, not adam"):
        train(eurosat_tree, tmp_path / "run", "--weight-decay", "0.05", "--epochs", "1")


def test_turns_show_all_eight_orientations_of_a_scene_and_nothing_else():
    scene = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    batch, options = scene.repeat(64, 1, 1, 1), {"seed": 0, "step": 0, "device": torch.device("cpu")}
    views = transforms.training_view(batch, transforms.TURNS, 4, **options)
    expected = {tuple((t.float() / 255).flatten().tolist()) for t in inference.dihedral_views(scene)}
    assert len(expected) == 8 and {tuple(view.flatten().tolist()) for view in views} == expected
    assert torch.equal(views, transforms.training_view(batch, transforms.TURNS, 4, **options))


def test_test_time_augmentation_does_not_depend_on_the_orientation_of_an_image():
    torch.manual_seed(0)
    backbone = create_backbone("test_resnet")
    model = Classifier(backbone, LinearHead(backbone.num_features, 3), frozen=True).eval()
    torch.nn.init.normal_(model.heads.weight[0])
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    views, spec = list(inference.dihedral_views(images)), InputSpec(32, [0.4] * 3, [0.2] * 3)
    assert torch.equal(views[0], images) and len({tuple(one.flatten().tolist()) for one in views}) == 8
    plain = torch.stack([inference.predict_proba(model, view, spec, False) for view in views])
    assert (plain - plain[0]).abs().max() > 1e-4
    for view in views:
        averaged = inference.predict_proba(model, view, spec, False, tta=True)
        torch.testing.assert_close(averaged, plain.mean(0), atol=1e-6, rtol=0)


def test_a_finished_run_can_be_judged_again_over_eight_positions(finetuned, eurosat_tree, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finetuned[0], folder)
    before = json.loads((folder / "result.json").read_text())
    result = train(eurosat_tree, folder, "--tta")
    assert "tta_top1" not in before and result["tta_top1"] == 1.0 and result["tta_macro_f1"] == 1.0
    assert result["last"] == before["last"] and result["best"] == before["best"]
    assert all(torch.equal(value, weights(finetuned[0])[key]) for key, value in weights(folder).items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "0.5"], "holds a finished run with --lr 0.01, not 0.5; choose another --exp-dir"),
        (["--split-seed", "9"], "holds a run with other data"),
        (["--train-percent", "50"], "holds a run with other data"),
    ],
)
def test_a_finished_run_is_not_told_of_what_did_not_make_it(finetuned, eurosat_tree, tmp_path, more, message):
    folder = tmp_path / "run"
    shutil.copytree(finetuned[0], folder)
    before = (folder / "result.json").read_text()
    with pytest.raises(ValueError, match=message):
        train(eurosat_tree, folder, *more)
    assert (folder / "result.json").read_text() == before


def test_a_run_goes_on_where_its_data_has_moved(finetuned, eurosat_tree, tmp_path):
    shutil.copytree(finetuned[0], tmp_path / "run")
    shutil.copytree(eurosat_tree, tmp_path / "moved")
    before = json.loads((finetuned[0] / "result.json").read_text())
    assert train(tmp_path / "moved", tmp_path / "run")["last"] == before["last"]


def test_statistics_are_those_of_all_pixels():
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = dataset.Scenes(pixels, torch.zeros(5), ["a"]).statistics()
    whole = pixels.double().div(255)
    assert mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(whole.std((0, 2, 3), unbiased=False).tolist(), abs=1e-4)


@pytest.mark.real_data
def test_real_scenes_are_told_apart_by_a_linear_head_on_random_features(real_data, tmp_path):
    for name in ("Forest", "SeaLake", "Industrial"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(1, 21):
            file = f"{name}_{number}.jpg"
            (tmp_path / "few" / name / file).symlink_to(real_data / "EuroSAT" / "2750" / name / file)
    result = train(tmp_path / "few", tmp_path / "run", "--weights", "freeze", "--epochs", 30)
    assert result["image_size"] == 64 and result["top1"] > 0.6  # guessing: 0.33
