"""``export.py --to hf``: timm loads the folder with equal features; the card; uploads; and digests of safetensors."""

import json
import sys
import types

import pytest
import timm
import torch

from vicreg import export
from vicreg.engine import checkpoint
from vicreg.exporters import hugging_face, safetensors_file
from vicreg.models.backbones import create_backbone, load_backbone
from vicreg.models.weight_files import weights_digest

pytest.importorskip("safetensors")
MEAN, STD = [0.1, 0.2, 0.3, 0.15], [0.4, 0.5, 0.6, 0.45]


def write_trained(path, arch="test_resnet", channels=3):
    torch.manual_seed(0)
    backbone = create_backbone(arch, channels)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            module.running_var.uniform_(0.5, 1.5)
    checkpoint.save_backbone(path, backbone, arch, channels, MEAN[:channels], STD[:channels], "SN7, temporal pairs")
    return path


def run(*arguments):
    export.main(export.get_parser().parse_args([str(word) for word in arguments]))


@torch.no_grad()
def features(model, channels, size):
    return model.eval()(torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("arch", "channels", "size"),
    [("resnet18", 3, 64), ("resnet18", 4, 64), ("test_resnet", 2, 40), ("test_vit", 4, 160), ("test_convnext", 3, 64)],
)
def test_timm_loads_the_folder_with_equal_features_and_normalization(arch, channels, size, tmp_path, capsys):
    path = write_trained(tmp_path / "trained_model.pth", arch, channels)
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub")
    assert ": verified with timm" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "hub").iterdir()) == sorted(hugging_face.FILES)
    model = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    expected = features(load_backbone(path)[0], channels, size)
    assert torch.equal(features(model, channels, size), expected)
    data = timm.data.resolve_data_config(model=model)
    assert (list(data["mean"]), list(data["std"]), data["input_size"][0]) == (MEAN[:channels], STD[:channels], channels)
    backbone, info = load_backbone(f"local-dir:{tmp_path / 'hub'}")  # and --pretrained takes it too
    assert torch.equal(features(backbone, channels, size), expected)
    assert (info["arch"], info["in_chans"], info["mean"]) == (arch, channels, MEAN[:channels])
    backbone, info = load_backbone(tmp_path / "hub" / "model.safetensors")
    assert torch.equal(features(backbone, channels, size), expected) and info["source"] == "SN7, temporal pairs"


def test_the_card_holds_data_command_metrics_license_and_normalization(tmp_path):
    yaml = pytest.importorskip("yaml")
    path = write_trained(tmp_path / "trained_model.pth")
    config = {"plan": {"source": "SN7 of 60 AOIs"}, "command": "python vicreg/main_vicreg_sn7.py --epochs 3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = {"protocol": "freeze_100", "top1": 0.61234, "knn20_top1": 0.5, "seconds": 3.0, "args": {"top1": 0}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    words = ["--license", "cc-by-4.0", "--results", tmp_path / "result.json"]
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub", *words)
    _, header, body = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    assert (header["library_name"], header["license"]) == ("timm", "cc-by-4.0") and "vicreg" in header["tags"]
    for text in (
        "SN7, temporal pairs", "SN7 of 60 AOIs", "main_vicreg_sn7.py --epochs 3", "| freeze_100 | top1 | 0.6123 |",
        "| freeze_100 | knn20_top1 | 0.5 |", "mean [0.1, 0.2, 0.3], std [0.4, 0.5, 0.6]",
    ):  # fmt: skip
        assert text in body
    assert "seconds" not in body


def test_a_folder_is_replaced_only_if_it_is_an_earlier_export(tmp_path, monkeypatch):
    path = write_trained(tmp_path / "trained_model.pth")
    (tmp_path / "config.json").write_text('{"plan": {}}')
    with pytest.raises(ValueError, match="holds a .* of something else; choose another folder"):
        run("--pretrained", path, "--to", "hf", "--out", tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"plan": {}}' and len(list(tmp_path.iterdir())) == 2
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub")
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub")
    before = (tmp_path / "hub" / "model.safetensors").read_bytes()
    changed = load_backbone(path)[0]
    with torch.no_grad():
        next(changed.parameters()).add_(0.1)
    monkeypatch.setattr(safetensors_file, "state_of", lambda *_: changed.state_dict())
    for out in ("hub", "new"):
        with pytest.raises(ValueError, match="computes other features from the file"):
            run("--pretrained", path, "--to", "hf", "--out", tmp_path / out)
    assert (tmp_path / "hub" / "model.safetensors").read_bytes() == before and not (tmp_path / "new").exists()


def test_what_cannot_be_exported_is_refused(tmp_path):
    path = write_trained(tmp_path / "trained_model.pth")
    torch.save(create_backbone("test_resnet").state_dict(), tmp_path / "plain.pth")
    (tmp_path / "notes.json").write_text("[1]")
    cases = {
        f"{tmp_path / 'plain.pth'} --arch test_resnet --to hf": "name them: --mean and --std",
        f"{path} --to hf --license my/license": "--license my/license: an identifier of the Hub expected",
        f"{path} --to hf --results {tmp_path / 'notes.json'}": "not a result.json",
        f"{path} --to timm --push a/b": "are for --to hf",
    }
    for words, message in cases.items():
        with pytest.raises(ValueError, match=message):
            run("--pretrained", *words.split(), "--out", tmp_path / "hub")
    with pytest.raises(ValueError, match="is a file; --to hf writes a folder"):
        run("--pretrained", path, "--to", "hf", "--out", tmp_path / "notes.json")
    assert not (tmp_path / "hub").exists()


class Hub(types.ModuleType):
    """Stands for huggingface_hub."""

    def __init__(self, error=None):
        super().__init__("huggingface_hub")
        self.uploads, hub = [], self

        class HfApi:
            def create_repo(self, repository, exist_ok):
                if error:
                    raise error
                return types.SimpleNamespace(repo_id=repository)

            def upload_folder(self, **options):
                hub.uploads.append(options)

        self.HfApi = HfApi


def test_push_uploads_the_three_files_or_says_why_not(tmp_path, monkeypatch):
    path = write_trained(tmp_path / "trained_model.pth")
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    run("--pretrained", path, "--to", "hf", "--out", tmp_path / "hub", "--push", "me/mine")
    assert hub.uploads[0]["repo_id"] == "me/mine" and hub.uploads[0]["allow_patterns"] == list(hugging_face.FILES)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(OSError("no route to host\nmore")))
    with pytest.raises(
        ValueError, match=r"--push me/mine: not uploaded \(no route to host\); .*hub is complete.*token"
    ):
        hugging_face.push(tmp_path / "hub", "me/mine")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs the package huggingface_hub"):
        hugging_face.push(tmp_path / "hub", "me/mine")
    assert (tmp_path / "hub" / "README.md").read_text() == card


def test_names_that_timm_cannot_load_are_explained(tmp_path, monkeypatch):
    def offline(name, **options):
        raise OSError("offline")

    with pytest.raises(ValueError, match=r"local-dir:.*none: timm cannot load it"):
        load_backbone(f"local-dir:{tmp_path / 'none'}")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        ValueError, match=r"hf-hub:timm/none: timm cannot load it \(offline\); hf-hub: needs the network"
    ):
        load_backbone("hf-hub:timm/none")


def test_a_configuration_that_changes_the_architecture_is_refused(tmp_path):
    run("--pretrained", write_trained(tmp_path / "trained_model.pth"), "--to", "hf", "--out", tmp_path / "hub")
    assert weights_digest(f"local-dir:{tmp_path / 'hub'}") == weights_digest(f"local-dir:{tmp_path / 'hub'}/")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config["model_args"]["global_pool"] = "max"
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its configuration changes test_resnet"):
        load_backbone(f"local-dir:{tmp_path / 'hub'}")


def test_a_changed_safetensors_file_is_refused_by_its_digest(tmp_path):
    run("--pretrained", write_trained(tmp_path / "a.pth"), "--to", "safetensors", "--out", tmp_path / "a.safetensors")
    load_backbone(tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    for place in (len(content) - 3, content.index(b'"SN7, ') + 2):  # a weight; the source in the metadata
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "b.safetensors").write_bytes(changed)
        with pytest.raises(ValueError, match=r"b.safetensors: the content differs from its digest"):
            load_backbone(tmp_path / "b.safetensors")
