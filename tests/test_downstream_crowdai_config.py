"""Configuration of CrowdAI detectors and the backbone in Detectron2's model. Skipped without Detectron2."""

import pickle

import pytest
import torch

from tests.conftest import need_detectron2
from vicreg.models.backbones import load_backbone

FOLDER = "downstream/detectron2_crowdai_detection_task"

need_detectron2()

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from downstream.detectron2_crowdai_detection_task import config, convert_to_detectron2, model, train_crowdai
from vicreg.exporters import detectron2

FIXED = {"MODEL.ROI_HEADS.NUM_CLASSES": 1, "MODEL.WEIGHTS": "backbone.pkl", "SEED": 0}


@pytest.fixture
def smoke(repo_root):
    """Path of the smallest configuration."""
    return repo_root / FOLDER / "configs" / "smoke.yaml"


def build(config_file, *opts, arch="resnet18", **info):
    backbone = {"arch": arch, "in_chans": 3, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "source": "a test"}
    return config.build_config(config_file, list(opts), backbone | info, FIXED, "cpu")


def test_parser_has_every_option_of_detectron2_and_of_published_commands():
    ours = train_crowdai.get_parser()
    options = set(ours._option_string_actions)
    assert set(default_argument_parser()._option_string_actions) <= options
    published = "--pretrained --exp-dir --data-dir --config-file --device --precision --eval-on --eval-only --num-gpus"
    published += " --num-machines --machine-rank --dist-url --train-json --val-json --arch --seed --resume"
    assert set(published.split()) <= options
    args = ours.parse_args(["--exp-dir", "a", "SOLVER.IMS_PER_BATCH", "8"])
    assert args.opts == ["SOLVER.IMS_PER_BATCH", "8"] and args.config_file.endswith("train_config.yaml")


def test_recipe_is_the_published_one(repo_root):
    cfg = build(repo_root / FOLDER / "configs" / "train_config.yaml", arch="resnet50")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (90000, 16, 0.01, 1e-6)
    assert (solver.STEPS, solver.WARMUP_ITERS, solver.WARMUP_METHOD) == ((60000, 80000), 1500, "linear")
    assert solver.CLIP_GRADIENTS.ENABLED and cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM == "SyncBN"
    assert cfg.MODEL.MASK_ON and cfg.MODEL.RESNETS.DEPTH == 50


def test_build_config_takes_pixel_values_from_the_backbone(smoke):
    cfg = build(smoke)
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([25.5, 51, 76.5]) and cfg.MODEL.PIXEL_STD == [102, 127.5, 153]
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.RESNETS.DEPTH == 18 and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1


def test_build_config_honors_pixel_values_and_norm_of_the_user(smoke, tmp_path):
    cfg = build(smoke, "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "MODEL.RESNETS.NORM", "BN", "MODEL.MASK_ON", "False")
    assert cfg.MODEL.PIXEL_MEAN == [1, 2, 3] and cfg.MODEL.RESNETS.NORM == "BN" and not cfg.MODEL.MASK_ON
    (tmp_path / "a.yaml").write_text("MODEL: {PIXEL_STD: [7.0, 8.0, 9.0]}")
    assert build(tmp_path / "a.yaml").MODEL.PIXEL_STD == [7, 8, 9]


@pytest.mark.parametrize("key, value", [
    ("INPUT.FORMAT", "BGR"), ("MODEL.ROI_HEADS.NUM_CLASSES", "2"), ("MODEL.WEIGHTS", "a.pkl"), ("SEED", "7"),
    ("MODEL.RESNETS.DEPTH", "50"), ("MODEL.META_ARCHITECTURE", "RetinaNet"), ("MODEL.KEYPOINT_ON", "True"),
])  # fmt: skip
def test_build_config_refuses_settings_that_contradict_backbone_or_data(smoke, tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"^{key} is {value} in the configuration or on the command line, but"):
        build(smoke, key, value)
    *parents, last = key.split(".")
    (tmp_path / "a.yaml").write_text("".join(f"{'  ' * n}{name}:\n" for n, name in enumerate(parents)))
    with (tmp_path / "a.yaml").open("a") as file:
        file.write(f"{'  ' * len(parents)}{last}: {value}\n")
    with pytest.raises(ValueError, match=rf"^{key} is {value}"):
        build(tmp_path / "a.yaml")


@pytest.mark.parametrize("opts, error", [
    (["SOLVER.BASELR", "1"], "Detectron2 refuses a setting.*BASELR"), (["SOLVER.BASE_LR"], "come in pairs"),
    (["SOLVER.MAX_ITER", "many"], "Detectron2 refuses a setting"), (["SOLVER.AMP.ENABLED", "True"], "--precision bf16"),
])  # fmt: skip
def test_build_config_refuses_invalid_settings(smoke, opts, error):
    with pytest.raises(ValueError, match=error):
        build(smoke, *opts)


def test_build_config_refuses_missing_file_and_other_architectures(smoke, tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration at"):
        build(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="build_resnet_backbone has no vit_tiny"):
        build(smoke, arch="vit_tiny_patch16_224")


def test_build_config_scales_the_learning_rate_with_the_batch_size(smoke):
    assert build(smoke, "SOLVER.IMS_PER_BATCH", "1").SOLVER.BASE_LR == pytest.approx(0.02 / 4)
    assert build(smoke, "SOLVER.IMS_PER_BATCH", "1", "SOLVER.BASE_LR", "0.5").SOLVER.BASE_LR == 0.5
    assert build(smoke).SOLVER.BASE_LR == 0.02


def test_check_same_model_names_the_changed_setting(smoke, tmp_path):
    (tmp_path / "config.yaml").write_text(build(smoke).dump())
    config.check_same_model(tmp_path, build(smoke, "SOLVER.MAX_ITER", "9", "MODEL.DEVICE", "cuda"))
    with pytest.raises(ValueError, match="another MODEL.FPN"):
        config.check_same_model(tmp_path, build(smoke, "MODEL.FPN.OUT_CHANNELS", "16"))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_backbone_computes_the_features_of_the_source(arch, smoke, tmp_path):
    import torchvision

    backbone, info = load_backbone("random", arch)
    detectron2.save(tmp_path / "b.pkl", backbone, info)
    detector = build_model(build(smoke, arch=arch))
    DetectionCheckpointer(detector).load(str(tmp_path / "b.pkl"))
    model.check_backbone(detector, tmp_path / "b.pkl")
    reference = getattr(torchvision.models, arch)(weights=None).eval()
    reference.load_state_dict({**reference.state_dict(), **backbone.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        features = detector.backbone.bottom_up.eval()(images)
        for number in (1, 2, 3, 4):
            expected = getattr(reference, f"layer{number}")(expected)
            torch.testing.assert_close(features[f"res{number + 1}"], expected, atol=1e-4, rtol=1e-4)


def test_save_refuses_a_backbone_that_detectron2_loads_in_part(tmp_path):
    backbone, info = load_backbone("random", "resnet18")
    del backbone.layer4[1].bn2
    backbone.layer4[1].bn2 = torch.nn.Identity()
    with pytest.raises(ValueError, match="other features"):
        detectron2.save(tmp_path / "b.pkl", backbone, info)


def test_check_backbone_names_missing_left_over_and_different_tensors(smoke, tmp_path):
    detector = build_model(build(smoke))
    tensors = {key: value.numpy().copy() for key, value in detector.backbone.bottom_up.state_dict().items()}
    path = tmp_path / "b.pkl"

    def check(**changes):
        path.write_bytes(pickle.dumps({"model": {k: v for k, v in (tensors | changes).items() if v is not None}}))
        model.check_backbone(detector, path)

    check()
    key = "res5.1.conv2.norm.bias"
    for changes in ({key: None}, {key: tensors[key] + 1}):
        with pytest.raises(ValueError, match=rf"1 of \d+ tensors were not loaded: {key}"):
            check(**changes)
    with pytest.raises(ValueError, match="not loaded: extra"):
        check(extra=tensors[key])


def test_convert_writes_what_detectron2_loads(tmp_path, capsys):
    arguments = ["random", str(tmp_path / "b.pkl"), "--arch", "resnet18"]
    convert_to_detectron2.main(convert_to_detectron2.get_parser().parse_args(arguments))
    assert "verified with detectron2" in capsys.readouterr().out and (tmp_path / "b.pkl.yaml").is_file()
