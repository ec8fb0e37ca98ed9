"""Checkpoints of other libraries: each layout gives the features of the network in it, or is refused."""

import argparse
import collections
import copy
import functools
import re
import sys
import types

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from vicreg.common import checkpoint_io
from vicreg.models.backbones import create_backbone, init_backbone, load_backbone


def randomized(model, seed=0):
    """Give every weight and statistic a value that counts, also where networks begin with zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.1 + (0.5 if value.dim() == 1 else -0.05))
    return model.eval()


def resnet(seed=0, channels=3):
    """torchvision's ResNet18, as the projects below build it, with the classifier."""
    return copy.deepcopy(_resnet(seed, channels))


@functools.cache
def _resnet(seed, channels):
    model = torchvision.models.resnet18()
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return randomized(model, seed)


def vit(seed=0, channels=3):
    return randomized(timm.create_model("test_vit", num_classes=0, in_chans=channels), seed)


@torch.no_grad()
def features(model, channels=3, size=64):
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(7))
    model = copy.deepcopy(model).eval()
    if isinstance(model, torchvision.models.ResNet):
        model.fc = nn.Identity()
    return model(images).flatten(1)


def under(prefix, model, without=()):
    return {f"{prefix}{key}": value for key, value in model.state_dict().items() if not key.startswith(tuple(without))}


def sequential(model):
    return nn.Sequential(*list(model.children())[:-1])


def head(prefix, *parts):
    return {f"{prefix}{part}": torch.ones(2, 2) for part in parts}


def moco_v2(model):
    """facebookresearch/moco main_moco.py: DistributedDataParallel of encoder_q, encoder_k and a queue."""
    state = under("module.encoder_q.", model, ["fc."]) | under("module.encoder_k.", resnet(9), ["fc."])
    state |= head("module.encoder_q.fc.", "0.weight", "2.weight") | head("module.", "queue", "queue_ptr")
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def moco_v3(model):
    state = under("module.base_encoder.", model, ["fc."]) | under("module.momentum_encoder.", resnet(9), ["fc."])
    state |= head("module.base_encoder.fc.", "0.weight") | head("module.predictor.", "0.weight")
    return {"epoch": 1, "arch": "resnet18", "state_dict": state, "scaler": {"scale": 65536.0}}


def dino(model):
    teacher = under("backbone.", model) | head("head.", "mlp.0.weight", "last_layer.weight_g")
    student = under("module.backbone.", vit(9)) | head("module.head.", "mlp.0.weight")
    args = argparse.Namespace(arch="vit_tiny", lr=np.float64(0.1))
    return {"student": student, "teacher": teacher, "epoch": 3, "args": args, "dino_loss": {"center": torch.ones(1, 2)}}


def solo(model, name):
    state = under(f"{name}.", model, ["fc."]) | under(f"momentum_{name}.", resnet(9), ["fc."])
    state |= head("classifier.", "weight") | head("projector.", "0.weight") | head("momentum_projector.", "0.weight")
    return {"state_dict": state, "pytorch-lightning_version": "1.6.4", "hyper_parameters": {"method": "byol"}}


def seco(model):
    state = under("encoder_q.", sequential(model)) | under("encoder_k.", sequential(resnet(9)))
    state |= head("heads_q.0.", "0.weight") | head("", "queue")
    settings = collections.OrderedDict(base_encoder="resnet18", emb_spaces=3)
    return {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "1.1.8"}


def barlow_twins(model):
    state = under("module.backbone.", model, ["fc."]) | head("module.projector.", "0.weight")
    return {"epoch": 9, "model": state, "optimizer": {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": []}}


def mae(model):
    decoder = {"mask_token": torch.ones(1, 1, 4), "decoder_pos_embed": torch.ones(1, 4, 4)}
    args = argparse.Namespace(model="mae_vit_base_patch16")
    return {"model": under("", model) | decoder | head("decoder_blocks.0.attn.", "qkv.weight"), "args": args}


def compiled(model):
    return {"model": under("_orig_mod.module.backbone._orig_mod.", model, ["fc."])}


LAYOUTS = {  # function of the source network -> file; the source network; words of the report
    "lightning backbone": (lambda m: {"state_dict": under("backbone.", m), "epoch": 1}, resnet, "Lightning checkpoint"),
    "lightning model": (lambda m: {"state_dict": under("model.", m)}, resnet, "Lightning checkpoint, state_dict model"),
    "lightning encoder": (lambda m: {"state_dict": under("encoder.", m)}, resnet, "Lightning checkpoint"),
    "lightning nested": (lambda m: {"state_dict": under("model.backbone.", m)}, resnet, "state_dict model.backbone"),
    "lightly": (
        lambda m: {"state_dict": under("backbone.", sequential(m)) | head("projection_head.layers.", "0.weight")},
        resnet, r"lightly\) checkpoint, state_dict backbone",
    ),
    "lightly, momentum": (
        lambda m: under("backbone.", sequential(m)) | under("backbone_momentum.", sequential(resnet(9))),
        resnet, r"120 tensors matched, 0 missing, 120 unused \(backbone_momentum 120\)",
    ),
    "lightly, whole": (lambda m: sequential(m).state_dict(), resnet, "nn.Sequential"),
    "solo-learn": (lambda m: solo(m, "backbone"), resnet, "solo-learn checkpoint, state_dict backbone"),
    "solo-learn, older": (lambda m: solo(m, "encoder"), resnet, "solo-learn checkpoint, state_dict encoder"),
    "MoCo v2": (moco_v2, resnet, r"124 unused \(encoder_k 120, fc 2, queue 1, queue_ptr 1\); recognized: MoCo v2"),
    "MoCo v3": (moco_v3, resnet, "recognized: MoCo v3 checkpoint, state_dict base_encoder"),
    "DINO": (dino, vit, r"2 unused \(head 2\); recognized: DINO checkpoint, teacher backbone"),
    "DINO, released backbone": (lambda m: m.state_dict(), vit, "0 missing, 0 unused$"),
    "Barlow Twins": (barlow_twins, resnet, r"1 unused \(projector 1\); recognized: Barlow Twins or VICReg checkpoint"),
    "Barlow Twins, VICReg: resnet50.pth": (lambda m: under("", m, ["fc."]), resnet, "0 missing, 0 unused$"),
    "SeCo": (seco, resnet, "recognized: SeCo checkpoint, state_dict encoder_q"),
    "MAE": (mae, vit, "recognized: MAE checkpoint, model"),
    "torchgeo": (
        lambda m: {"state_dict": under("model.", m), "hyper_parameters": {"model": "resnet18", "in_channels": 3}},
        resnet, r"2 unused \(fc 2\); recognized: Lightning",
    ),
    "timm, average": (
        lambda m: {"arch": "resnet18", "state_dict": under("", resnet(9)), "state_dict_ema": under("module.", m)},
        resnet, "recognized: checkpoint, state_dict_ema",
    ),
    "torch.compile": (compiled, resnet, "0 unused; recognized"),
    "any name": (lambda m: {"epoch": 1, "network": under("net.image_encoder.", m)}, resnet, "network net.image_enc"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_features_of_its_network_and_is_named(name, tmp_path):
    build, network, words = LAYOUTS[name]
    source = network()
    torch.save(build(source), tmp_path / "theirs.pth")
    backbone, info = load_backbone(tmp_path / "theirs.pth", "test_vit" if network is vit else "resnet18")
    assert torch.equal(features(backbone), features(source))
    assert not torch.equal(features(backbone), features(network(9)))
    assert re.search(words, info["report"]), info["report"]


def test_an_architecture_that_the_file_names_need_not_be_given(tmp_path):
    for build in (moco_v2, seco, LAYOUTS["torchgeo"][0]):
        torch.save(build(resnet()), tmp_path / "theirs.pth")
        assert load_backbone(tmp_path / "theirs.pth")[1]["arch"] == "resnet18"
    torch.save(barlow_twins(resnet()), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="does not name its architecture; say it with --arch"):
        load_backbone(tmp_path / "theirs.pth")


def test_timm_safetensors_load_with_and_without_a_prefix(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    source = vit()
    for prefix in ("", "model."):
        safetensors.save_file(under(prefix, source), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
        assert torch.equal(features(load_backbone(tmp_path / "theirs.safetensors", "test_vit")[0]), features(source))


def test_a_lightning_file_with_its_own_classes_of_settings_loads_without_them(tmp_path, monkeypatch):
    settings = type("AttributeDict", (dict,), {"__module__": "pytorch_lightning.utilities.parsing"})
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.utilities", settings.__module__):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[settings.__module__].AttributeDict = settings
        content = LAYOUTS["lightning model"][0](resnet()) | {"hyper_parameters": settings(model="resnet18")}
        torch.save(content, tmp_path / "theirs.ckpt")
    assert torch.equal(features(load_backbone(tmp_path / "theirs.ckpt")[0]), features(resnet()))


REFUSALS = {
    "another library's network": (
        lambda: {"state_dict": under("features.", torchvision.models.vgg11())},
        r"does not fit resnet18: 100 of 120 tensors missing.*the names in the file begin with \(features 22\)",
    ),
    "another depth": (
        lambda: {"state_dict": under("backbone.", sequential(torchvision.models.resnet34()))},
        "does not fit resnet18: 96 tensors belong to a network of another depth",
    ),
    "a part is missing": (
        lambda: moco_v2(resnet())["state_dict"] | {"module.encoder_q.bn1.weight": torch.ones(3)},
        r"1 of another shape \(bn1.weight\)",
    ),
    "two modalities": (
        lambda: under("optical.", resnet()) | under("radar.", resnet(9)), r"holds 2 backbones \(optical., radar.\)",
    ),
    "a small first convolution": (
        lambda: {"state_dict": under("backbone.", resnet()) | {"backbone.conv1.weight": torch.ones(64, 3, 3, 3)}},
        r"1 of another shape \(conv1.weight\)",
    ),
    "the ViT-S of MoCo v3": (
        lambda: {"arch": "vit_small", "state_dict": under("module.base_encoder.", vit())},
        "vit_small of MoCo v3 has 12 attention heads, and timm's has 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused_in_one_line(name, tmp_path):
    build, words = REFUSALS[name]
    torch.save(build(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=words) as error:
        load_backbone(tmp_path / "theirs.pth", "resnet18")
    assert "theirs.pth" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [13, 2])
@pytest.mark.parametrize(
    ("wrap", "network"),
    [(lambda m: m.state_dict(), resnet), (moco_v2, resnet), (dino, vit), (mae, vit)],
    ids=["plain", "MoCo", "DINO", "MAE"],
)
def test_ssl4eo_weights_tell_their_channels(channels, wrap, network, tmp_path):
    source = network(0, channels)
    torch.save(wrap(source), tmp_path / "ssl4eo.pth")
    backbone, info = load_backbone(tmp_path / "ssl4eo.pth", "resnet18" if network is resnet else "test_vit")
    assert info["in_chans"] == channels and info["mean"] is None
    assert torch.equal(features(backbone, channels), features(source, channels))


def test_selected_bands_are_those_of_the_source_network_with_the_others_at_zero(tmp_path):
    source = resnet(0, 13)
    torch.save(source.state_dict(), tmp_path / "theirs.pth")
    backbone, info = load_backbone(tmp_path / "theirs.pth", "resnet18", 3, bands=[4, 3, 2])
    assert torch.equal(backbone.conv1.weight, source.conv1.weight[:, [3, 2, 1]]) and info["in_chans"] == 3
    assert info["report"].endswith("; conv1.weight takes the channels 4 3 2 of 13")
    images = torch.randn(2, 3, 64, 64)
    full = torch.zeros(2, 13, 64, 64)
    full[:, [3, 2, 1]] = images
    source.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(images), source(full))
    run = create_backbone("resnet18")
    assert "takes the channels 4 3 2 of 13" in init_backbone(run, tmp_path / "theirs.pth", "resnet18", 3, [4, 3, 2])
    assert torch.equal(run.conv1.weight, backbone.conv1.weight)


def test_mean_and_std_follow_the_selected_bands_and_are_dropped_where_channels_repeat(tmp_path):
    about = {"arch": "test_resnet", "in_chans": 4, "mean": [0.1, 0.2, 0.3, 0.4], "std": [1.0, 2.0, 3.0, 4.0]}
    state = randomized(create_backbone("test_resnet", 4)).state_dict()
    checkpoint_io.save({**about, "source": "a test", "state_dict": state}, tmp_path / "four.pth")
    info = load_backbone(tmp_path / "four.pth", bands=[3, 1])[1]
    assert (info["in_chans"], info["mean"], info["std"]) == (2, [0.3, 0.1], [3.0, 1.0])
    backbone, info = load_backbone(tmp_path / "four.pth", in_chans=6)
    assert (info["in_chans"], info["mean"], info["std"], info["normalization"]) == (6, None, None, None)
    key = next(key for key, value in state.items() if value.dim() == 4)
    expected = state[key][:, [0, 1, 2, 3, 0, 1]] * (4 / 6)
    assert torch.equal(backbone.state_dict()[key], expected) and "inflated from 4 to 6" in info["report"]
    swapped = load_backbone(tmp_path / "four.pth", bands=[4, 3, 2, 1])[0].state_dict()[key]
    assert torch.equal(swapped, state[key].flip(1))


CHANNELS = {
    "fewer": ({"in_chans": 3}, "takes 13 channels, 3 are asked for; select them with --weight-bands"),
    "no such band": ({"bands": [14, 1]}, r"--weight-bands 14 1: .* has the channels 1 to 13"),
    "band 0": ({"bands": [0, 1]}, "has the channels 1 to 13"),
    "contradiction": ({"bands": [1, 2], "in_chans": 3}, "--weight-bands 1 2: 2 channels, --in-chans says 3"),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_that_cannot_be_adapted_are_refused_with_the_option(name, tmp_path):
    options, words = CHANNELS[name]
    torch.save(create_backbone("test_resnet", 13).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=words):
        load_backbone(tmp_path / "theirs.pth", "test_resnet", **options)
    with pytest.raises(ValueError, match="--weight-bands selects channels of a file"):
        load_backbone("random", "test_resnet", bands=[1])
