"""What export.py writes is read by each library's own loader, with the printed lines, and gives the same features."""

import json
import os
import pickle
import sys

import numpy as np
import pytest
import timm
import torch

from vicreg import export
from vicreg.common import checkpoint_io
from vicreg.engine import checkpoint
from vicreg.exporters import detectron2 as detectron2_exporter
from vicreg.exporters import formats, safetensors_file, verify
from vicreg.exporters import onnx as onnx_exporter
from vicreg.models.backbones import create_backbone, load_backbone

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
ENDINGS = {"torchvision": "pth", "timm": "pth", "smp": "pt", "detectron2": "pkl", "safetensors": "safetensors"}
ENDINGS["onnx"] = "onnx"
IMPORTED = {"smp": "segmentation_models_pytorch", "onnx": "onnxruntime"}


def write_trained(path, arch, in_chans=3):
    """A trained_model.pth in which each weight counts: timm begins with zeros where a residual branch ends."""
    torch.manual_seed(0)
    backbone = create_backbone(arch, in_chans)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    mean, std = (MEAN * 2)[:in_chans], (STD * 2)[:in_chans]
    checkpoint.save_backbone(path, backbone, arch, in_chans, mean, std, "a test")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Function arch, in_chans -> path of a trained_model.pth; do not change it."""
    folder, made = tmp_path_factory.mktemp("trained"), {}

    def make(arch="resnet18", in_chans=3):
        key = f"{arch}_{in_chans}"
        if key not in made:
            made[key] = write_trained(folder / f"{key}.pth", arch, in_chans)
        return made[key]

    return make


def run(*arguments):
    export.main(export.get_parser().parse_args([str(word) for word in arguments]))


def recipe_of(printed):
    """The lines of Python that the script ends with."""
    return [line[2:] for line in printed.partition("load it with\n")[2].split("\n\n")[0].splitlines()]


@torch.no_grad()
def ours(path, images=IMAGES):
    """Pooled features, and those of the five stages, the latter by timm's own way of taking them."""
    backbone, info = load_backbone(path)
    stages = timm.create_model(info["arch"], features_only=True, in_chans=info["in_chans"]).eval()
    stages.load_state_dict(backbone.state_dict())
    return backbone.eval()(images), stages(images)


@pytest.mark.parametrize(
    ("to", "arch"),
    [
        *((to, "resnet18") for to in ENDINGS),
        *(pytest.param(to, "resnet50", marks=pytest.mark.slow) for to in ("torchvision", "smp", "detectron2")),
    ],
)
def test_the_printed_lines_load_the_file_and_give_the_same_features(to, arch, trained, tmp_path, capsys):
    pytest.importorskip(IMPORTED.get(to, to))
    path = trained(arch)
    run("--pretrained", path, "--to", to, "--out", tmp_path / f"out.{ENDINGS[to]}")
    printed = capsys.readouterr().out
    assert "tensors matched, 0 missing" in printed and ": verified with " in printed
    assert len(recipe_of(printed)) in (2, 3, 4)
    found = {"images": IMAGES.numpy()}
    on_cpu = "\n".join(recipe_of(printed)).replace("; model = modeling", "; cfg.MODEL.DEVICE = 'cpu'; model = modeling")
    exec(on_cpu, found)
    pooled, stages = ours(path)
    with torch.no_grad():
        if to == "onnx":
            pairs = [(pooled, torch.from_numpy(found["features"]))]
        elif to == "smp":
            pairs = list(zip(stages, found["model"].encoder.eval()(IMAGES)[1:], strict=True))
        elif to == "detectron2":
            backbone = found["model"].eval().backbone.bottom_up
            pairs = [(ours, backbone(IMAGES)[f"res{n}"]) for n, ours in enumerate(stages[1:], 2)]
        else:
            pairs = [(pooled, found["model"].eval()(IMAGES))]
    for expected, got in pairs:
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert not list(tmp_path.glob(".*"))


def test_detectron2_normalizes_raw_pixels_as_the_weights_want(trained, tmp_path):
    pytest.importorskip("detectron2")
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    detectron2_exporter.save(tmp_path / "r18.pkl", *load_backbone(trained()))
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    cfg.merge_from_file(str(tmp_path / "r18.pkl.yaml"))
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "r18.pkl")
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.BACKBONE.FREEZE_AT == 0 and not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    cfg.MODEL.DEVICE = "cpu"
    image = torch.arange(3 * 32 * 32).reshape(3, 32, 32) % 256
    given = build_model(cfg).preprocess_image([{"image": image.to(torch.uint8)}]).tensor[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(given, (image / 255 - mean) / std)


@pytest.mark.parametrize("arch", detectron2_exporter.RESNETS)
def test_every_resnet_has_the_weights_that_each_library_asks_for(arch):
    """Names and shapes, on the meta device, where the largest cost nothing."""
    detectron2 = pytest.importorskip("detectron2.modeling")
    smp = pytest.importorskip("segmentation_models_pytorch")
    import torchvision
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec

    info = {"arch": f"{arch}.tag", "in_chans": 3}
    formats.TARGETS["smp"].check(info)
    cfg = get_cfg()
    cfg.merge_from_list(detectron2_exporter.flat(detectron2_exporter.config(info)))
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    with torch.device("meta"):
        mine = {key: value.shape for key, value in create_backbone(arch).state_dict().items()}
        theirs = detectron2.build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
        assert {key: value.shape for key, value in theirs.items()} == {
            detectron2_exporter.rename(key): shape for key, shape in mine.items()
        }
        model = getattr(torchvision.models, arch)()
        model.fc = torch.nn.Identity()
        assert {key: value.shape for key, value in model.state_dict().items()} == mine
        name = formats._smp_encoder(info)
        encoder = smp.encoders.get_encoder(name, weights=None).state_dict()
        prefix = "model." if name.startswith("tu-") else ""
        assert {key: value.shape for key, value in encoder.items()} == {f"{prefix}{k}": v for k, v in mine.items()}


def test_arch_normalization_and_source_travel_with_every_format(trained, tmp_path):
    onnx = pytest.importorskip("onnx")
    safetensors = pytest.importorskip("safetensors")
    expected = {"arch": "test_resnet", "in_chans": 3, "mean": MEAN, "std": STD, "source": "a test"}
    path = trained("test_resnet")
    run("--pretrained", path, "--to", "timm", "--out", tmp_path / "a.pth")
    assert json.loads((tmp_path / "a.pth.json").read_text()) == {"library": "timm", **expected}
    run("--pretrained", path, "--to", "safetensors", "--out", tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        words = file.metadata()
    run("--pretrained", path, "--to", "onnx", "--out", tmp_path / "a.onnx")
    props = {prop.key: prop.value for prop in onnx.load(tmp_path / "a.onnx").metadata_props}
    for said in (words, props):
        assert [said["arch"], said["source"]] == ["test_resnet", "a test"]
        assert [json.loads(said[key]) for key in ("in_chans", "mean", "std")] == [3, MEAN, STD]
    payload = detectron2_exporter.convert(*load_backbone(trained()))
    assert payload["metadata"] == expected | {"arch": "resnet18"} and payload["matching_heuristics"] is True
    assert all(isinstance(value, np.ndarray) for value in payload["model"].values())


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_load_backbone_reads_an_exported_file_with_its_architecture_and_normalization(name, trained, tmp_path):
    pytest.importorskip("safetensors")
    out = tmp_path / name
    to = "timm" if name == "a.pth" else "safetensors"
    run("--pretrained", trained("test_resnet"), "--to", to, "--out", out)
    backbone, info = load_backbone(out)
    assert (info["arch"], info["mean"], info["std"], info["source"]) == ("test_resnet", MEAN, STD, "a test")
    expected = load_backbone(trained("test_resnet"))[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "image_size", "shapes"),
    [
        ("test_resnet", None, [(1, 3, 32, 32), (5, 3, 48, 80)]),
        ("test_resnet", 40, [(1, 3, 40, 40), (5, 3, 40, 40)]),
        ("test_vit", 96, [(1, 3, 96, 96), (5, 3, 96, 96)]),
    ],
)
def test_onnx_takes_any_batch_and_any_size_unless_one_is_named(arch, image_size, shapes, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    size = ["--image-size", image_size] if image_size else []
    run("--pretrained", trained(arch), "--to", "onnx", "--out", tmp_path / "a.onnx", *size)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    backbone = load_backbone(trained(arch))[0].eval()
    for shape in shapes:
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = backbone(images)
        got = session.run(None, {"images": images.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=0)
    assert session.get_inputs()[0].shape[2:] == ([image_size] * 2 if image_size else ["height", "width"])


def test_a_network_of_patches_is_not_written_for_any_size(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="name one size with --image-size"):
        run("--pretrained", trained("test_vit"), "--to", "onnx", "--out", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["timm", "safetensors", "smp", "onnx"])
def test_four_channels_go_where_the_library_can_take_them(to, trained, tmp_path, capsys):
    pytest.importorskip(IMPORTED.get(to, to))
    run("--pretrained", trained("resnet18", 4), "--to", to, "--out", tmp_path / f"a.{ENDINGS[to]}")
    printed = capsys.readouterr().out
    assert ": verified with " in printed
    if to != "onnx":
        found = {}
        exec("\n".join(recipe_of(printed)), found)
        model = found["model"].encoder if to == "smp" else found["model"]
        assert model.conv1.in_channels == 4


@pytest.mark.parametrize("to", ["timm", "smp", "safetensors", "detectron2", "onnx"])
def test_a_file_that_gives_other_features_is_removed_and_the_old_one_stays(to, trained, tmp_path, monkeypatch):
    pytest.importorskip(IMPORTED.get(to, to))
    out = tmp_path / f"a.{ENDINGS[to]}"
    out.write_bytes(b"old")
    backbone, info = load_backbone(trained())
    changed, _ = load_backbone(trained())
    with torch.no_grad():
        changed.bn1.bias += 0.01
    if to == "onnx":
        real = onnx_exporter.encode
        monkeypatch.setattr(onnx_exporter, "encode", lambda _, *rest: real(changed, *rest))
    elif to == "detectron2":
        real = detectron2_exporter.convert
        monkeypatch.setattr(detectron2_exporter, "convert", lambda _, info: real(changed, info))
    else:
        monkeypatch.setattr(safetensors_file, "state_of", lambda *_: changed.state_dict())
    with pytest.raises(ValueError, match=r"computes other features.*largest difference .*0\.0001 allowed"):
        formats.export(to, out, backbone, info)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_a_weight_that_detectron2_does_not_find_shows(trained, tmp_path, monkeypatch):
    pytest.importorskip("detectron2")
    monkeypatch.setattr(detectron2_exporter, "_RENAMES", detectron2_exporter._RENAMES[:-1])  # downsample.1 stays
    with pytest.raises(ValueError, match="largest difference nan"):
        detectron2_exporter.save(tmp_path / "a.pkl", *load_backbone(trained()))
    assert not list(tmp_path.iterdir())


def test_features_that_are_not_finite_are_no_agreement():
    bad = [torch.tensor([[1.0, torch.nan]])]
    with pytest.raises(ValueError, match="other features"):
        verify.verify("a", "torch", bad, lambda path: bad)
    with pytest.raises(ValueError, match="other features"):  # in a later stage
        verify.verify("a", "torch", [torch.zeros(1, 2), *bad], lambda path: [torch.zeros(1, 2), *bad])
    assert verify.largest_difference([torch.tensor([0.5, 0.0])], [torch.tensor([0.5, 0.25])]) == 0.25
    assert verify.largest_difference([torch.tensor([100.0, 0.0])], [torch.tensor([100.0, 1.0])]) == pytest.approx(0.01)


@pytest.mark.parametrize("to", ["detectron2", "smp", "onnx"])
def test_without_the_library_the_file_is_written_and_said_to_be_unverified(to, trained, tmp_path, monkeypatch, capsys):
    if to == "onnx":
        pytest.importorskip("onnx")
    out = tmp_path / f"a.{ENDINGS[to]}"
    monkeypatch.setitem(sys.modules, IMPORTED.get(to, to), None)
    run("--pretrained", trained(), "--to", to, "--out", out)
    assert f"UNVERIFIED: {IMPORTED.get(to, to)} cannot be imported here" in capsys.readouterr().out
    assert out.stat().st_size > 44e6


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnx"), ("safetensors", "safetensors.torch")])
def test_a_format_whose_package_is_missing_names_it(to, package, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"need.? the package {to}.*pip install {to}"):
        run("--pretrained", trained("test_resnet"), "--to", to, "--out", tmp_path / f"a.{to}")


def test_mean_and_std_can_be_said_where_the_file_does_not(trained, tmp_path, capsys):
    state = checkpoint_io.load(trained())["state_dict"]
    torch.save(state, tmp_path / "plain.pth")
    base = [
        "--pretrained",
        tmp_path / "plain.pth",
        "--arch",
        "resnet18",
        "--out",
        tmp_path / "a.pkl",
        "--to",
        "detectron2",
    ]
    run(*base)
    printed = capsys.readouterr().out
    assert "are not known, ImageNet's are written" in printed and "PIXEL_MEAN: [123.675, 116.28, 103.53]" in printed
    run(*base, "--mean", 0.2, 0.4, 0.6, "--std", 1, 1, 0.5)
    printed = capsys.readouterr().out
    assert "PIXEL_MEAN: [51.0, 102.0, 153.0]" in printed and "PIXEL_STD: [255.0, 255.0, 127.5]" in printed
    assert "normalized with mean 0.2 0.4 0.6, std 1 1 0.5 (given by --mean and --std)" in printed
    assert pickle.loads((tmp_path / "a.pkl").read_bytes())["metadata"]["mean"] == [0.2, 0.4, 0.6]


REFUSALS = {  # architecture, channels; other arguments (OUT: the folder of the test); words of the error
    "convnext to torchvision": ("test_convnext", 3, "--to torchvision --out OUT/a.pth", "it shares resnet18, resnet34"),
    "convnext to detectron2": ("test_convnext", 3, "--to detectron2 --out OUT/a.pkl", "has no test_convnext; it knows"),
    "convnext to smp": (
        "test_convnext",
        3,
        "--to smp --out OUT/a.pth",
        "segmentation_models_pytorch has no network with the weights of timm's",
    ),
    "channels to torchvision": ("resnet18", 4, "--to torchvision --out OUT/a.pth", "take 3 channels, this one 4"),
    "channels to detectron2": ("resnet18", 4, "--to detectron2 --out OUT/a.pkl", "3 channels, this resnet18 takes 4"),
    "ending": ("resnet18", 3, "--to detectron2 --out OUT/a.pth", "use .pkl"),
    "endings": ("resnet18", 3, "--to timm --out OUT/a.safetensors", "use .pth or .pt"),
    "no folder": ("resnet18", 3, "--to timm --out OUT/none/a.pth", "none to write a.pth to; make it"),
    "a folder": ("resnet18", 3, "--to timm --out OUT", "is a folder; name a file in it"),
    "size": ("resnet18", 3, "--to timm --out OUT/a.pth --image-size 64", "--image-size is for --to onnx"),
    "size 0": ("resnet18", 3, "--to onnx --out OUT/a.onnx --image-size 0", "must be positive"),
    "said twice": ("resnet18", 3, "--to timm --out OUT/a.pth --mean 0 0 0 --std 1 1 1", "records its mean and std"),
    "other arch": ("resnet18", 3, "--to timm --out OUT/a.pth --arch resnet50", "a resnet18, --arch says resnet50"),
    "onto itself": ("resnet18", 3, "--to timm --out PRETRAINED", "is the file to export"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_exported_is_refused_with_the_reason(case, trained, tmp_path):
    arch, in_chans, words, reason = REFUSALS[case]
    path = trained(arch, in_chans)
    before = path.read_bytes()
    words = words.replace("OUT", str(tmp_path)).replace("PRETRAINED", str(path)).split()
    with pytest.raises((ValueError, OSError)) as error:
        run("--pretrained", path, *words)
    assert reason in str(error.value)
    assert not list(tmp_path.iterdir()) and path.read_bytes() == before


@pytest.mark.parametrize("name", ["model.pth", "best_model.pth", "trained_model.pth"])
def test_checkpoints_of_runs_are_not_replaced(trained, tmp_path, name):
    (tmp_path / name).write_bytes(b"a run")
    with pytest.raises(ValueError, match=f"{name} is a checkpoint of a run"):
        run("--pretrained", trained("test_resnet"), "--to", "timm", "--out", tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"a run"


def test_std_without_mean_and_baselines_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 numbers each are needed"):
        run("--pretrained", "random", "--arch", "resnet18", "--std", 1, "--to", "timm", "--out", tmp_path / "a.pth")
    with pytest.raises(ValueError, match="no weights to export"):
        run("--pretrained", "stats", "--to", "timm", "--out", tmp_path / "a.pth")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(fails, trained, tmp_path, monkeypatch):
    out = tmp_path / "a.pth"
    out.write_bytes(b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        run("--pretrained", trained("test_resnet"), "--to", "timm", "--out", out)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="shut cannot be written"):
        run("--pretrained", trained("test_resnet"), "--to", "timm", "--out", tmp_path / "shut" / "a.pth")


def test_the_script_exports_a_file_and_says_how_to_load_it(run_script, trained, tmp_path):
    arguments = ["--pretrained", trained("test_resnet"), "--to", "timm", "--out", "new.pth"]
    ran = run_script("vicreg/export.py", *arguments, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "new.pth (" in ran.stdout and ": verified with timm" in ran.stdout
    assert 'checkpoint_path="new.pth"' in ran.stdout and "normalized with mean 0.1 0.2 0.3" in ran.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pth", "new.pth.json"]


def test_a_file_that_is_not_ours_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no weights\n")
    with pytest.raises(ValueError, match="notes.txt"):
        run("--pretrained", tmp_path / "notes.txt", "--to", "timm", "--out", tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pth"):
        run("--pretrained", tmp_path / "none.pth", "--to", "timm", "--out", tmp_path / "a.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
