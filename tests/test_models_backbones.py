"""Weights go from file to backbone and on to other libraries unchanged, or are refused with the reason and the path."""

import copy
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from vicreg.common import checkpoint_io
from vicreg.engine import checkpoint
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD, create_backbone, init_backbone, load_backbone
from vicreg.models.vicreg import VICReg

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SAYS = {"arch": "resnet18", "in_chans": 3, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "source": "a test"}


def lived_in(model):
    """Give BatchNorm statistics other than the first ones, so that losing them shows."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
            module.num_batches_tracked.fill_(7)
    return model.eval()


@torch.no_grad()
def features(backbone):
    return backbone.eval()(IMAGES)


@pytest.fixture(scope="module")
def ours():
    """A resnet18 of this repository; do not change it."""
    torch.manual_seed(0)
    return lived_in(create_backbone("resnet18"))


@pytest.fixture(scope="module")
def theirs():
    """A resnet18 of torchvision, with its classifier; do not change it."""
    torch.manual_seed(1)
    return lived_in(torchvision.models.resnet18())


@pytest.fixture
def trained(ours, tmp_path):
    """Path of a trained_model.pth with the weights of ``ours``."""
    checkpoint.save_backbone(tmp_path / "trained_model.pth", ours, **SAYS)
    return tmp_path / "trained_model.pth"


def without_classifier(model):
    model = copy.deepcopy(model)
    model.fc = torch.nn.Identity()
    return model


def test_trained_model_loads_strictly_into_torchvision_with_equal_features(ours, theirs, trained):
    payload = torch.load(trained, weights_only=True)
    assert payload.keys() == {*SAYS, "state_dict", "content_sha256"} and SAYS.items() <= payload.items()
    model = without_classifier(theirs)
    model.load_state_dict(payload["state_dict"], strict=True)
    assert (features(model) - features(ours)).abs().max() <= 1e-5
    assert (features(model) - features(without_classifier(theirs))).abs().max() > 0.01


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_names_and_shapes_are_torchvisions(arch):
    with torch.device("meta"):
        mine, reference = create_backbone(arch), torchvision.models.get_model(arch)
    expected = {k: v.shape for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in mine.state_dict().items()} == expected


def test_trained_model_comes_back_bit_for_bit_with_what_it_says(ours, trained):
    backbone, info = load_backbone(trained)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in backbone.state_dict().items())
    report = f"resnet18 from {trained}: 120 tensors matched, 0 missing, 0 unused"
    assert info == SAYS | {"report": report, "normalization": "stored in trained_model.pth"}


@pytest.mark.parametrize("counters", [True, False], ids=["with counters", "older, without counters"])
def test_torchvision_state_dict_loads_with_equal_features(theirs, tmp_path, counters):
    state = {k: v for k, v in theirs.state_dict().items() if counters or "num_batches_tracked" not in k}
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    backbone, info = load_backbone(path, arch="resnet18")
    assert (features(backbone) - features(without_classifier(theirs))).abs().max() <= 1e-5
    assert (info["mean"], info["std"], info["source"]) == (IMAGENET_MEAN, IMAGENET_STD, str(path))
    assert info["report"].endswith(f"{120 if counters else 100} tensors matched, 0 missing, 2 unused (fc 2)")


def test_full_checkpoint_of_pretraining_gives_its_backbone(ours, tmp_path):
    model = VICReg(copy.deepcopy(ours), [8, 4])
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model": state, "backbone": SAYS, "step": 3}, tmp_path / "model.pth")
    backbone, info = load_backbone(tmp_path / "model.pth")
    assert torch.equal(features(backbone), features(ours)) and SAYS.items() <= info.items()


def test_other_channel_counts_come_back(tmp_path):
    four = create_backbone("resnet18", in_chans=4)
    checkpoint.save_backbone(tmp_path / "four.pth", four, "resnet18", 4, [0.5] * 4, [0.5] * 4, "a test")
    backbone, info = load_backbone(tmp_path / "four.pth")
    assert info["in_chans"] == 4 and torch.equal(backbone.conv1.weight, four.conv1.weight)


REFUSALS = {  # what the file holds, given torchvision's state dict; --arch; words of the error
    "missing": (lambda state: {"conv1.weight": state["conv1.weight"]}, "resnet18", "99 of 120 tensors missing (bn1.we"),
    "shape": (lambda state: state | {"bn1.bias": torch.zeros(1)}, "resnet18", "1 of another shape (bn1.bias)"),
    "too deep": (lambda state: state, "resnet34", "does not fit resnet34"),
    "other": (lambda state: {"arch": "resnet18", "state_dict": state}, "resnet50", "a resnet18, --arch says resnet50"),
    "no arch": (lambda state: state, None, "does not name its architecture; say it with --arch"),
    "list": (lambda state: [torch.zeros(1)], "resnet18", "dict of weights expected, got list"),
    "no weights": (lambda state: {"epoch": 3}, "resnet18", "nor a state dict of tensors"),
    "empty": (lambda state: {}, "resnet18", "nor a state dict of tensors"),
    "other run": (lambda state: {"model": state}, None, "does not name its architecture; say it with --arch"),
    "prefixes": (lambda state: {"net.bn1.bias": state["bn1.bias"]}, "resnet18", "names in the file begin with (net 1)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_does_not_fit_is_refused_with_its_path_and_the_reason(theirs, tmp_path, case):
    content, arch, words = REFUSALS[case]
    path = tmp_path / "weights.pth"
    torch.save(content(theirs.state_dict()), path)
    with pytest.raises(ValueError) as error:
        load_backbone(path, arch=arch)
    assert str(path) in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("resnet81", "resnet18"),
        ("resnet5O", "resnet50"),
        ("???", "resnet18"),
        ("vit_small", "vit_small_patch16_224"),
        ("", "resnet18"),
    ],
)
def test_an_unknown_architecture_is_refused_with_the_nearest_names(asked, meant):
    with pytest.raises(ValueError, match="no backbone named") as error:
        create_backbone(asked)
    named = str(error.value).partition("nearest: ")[2].split(", ")
    assert repr(asked) in str(error.value) and meant in named
    assert all(timm.is_model(name) for name in named)


@pytest.mark.parametrize(
    ("deep", "arch"), [("resnet34", "resnet18"), pytest.param("resnet101", "resnet50", marks=pytest.mark.slow)]
)
def test_load_backbone_refuses_weights_of_a_deeper_network(tmp_path, deep, arch):
    checkpoint_io.save(create_backbone(deep).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(ValueError, match=rf"deep.pth does not fit {arch}: \d+ tensors belong to a network of another"):
        load_backbone(tmp_path / "deep.pth", arch)
    with pytest.raises(ValueError, match="another depth"):
        init_backbone(create_backbone(arch), tmp_path / "deep.pth", arch, 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_load_backbone_refuses_weights_that_are_not_finite(tmp_path, value):
    state = create_backbone("test_resnet").state_dict()
    key = next(iter(state))
    state[key][0] = value
    checkpoint_io.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=re.escape(f"weights.pth: 1 tensors are NaN or infinite ({key})")):
        load_backbone(tmp_path / "weights.pth", "test_resnet")


@pytest.mark.parametrize("outer", ["state_dict", None])
def test_load_backbone_removes_the_prefix_of_another_library(tmp_path, outer):
    backbone = create_backbone("test_resnet").eval()
    state = {f"module.encoder.{key}": value for key, value in backbone.state_dict().items()}
    state |= {"module.projector.weight": torch.zeros(2, 2)}
    checkpoint_io.save({outer: state, "epoch": 3} if outer else state, tmp_path / "theirs.pth")
    loaded, info = load_backbone(tmp_path / "theirs.pth", "test_resnet")
    assert torch.equal(features(loaded), features(backbone))
    assert "0 missing, 1 unused (projector 1); recognized: " in info["report"]
    state |= {key.replace("encoder", "radar"): value for key, value in state.items()}
    checkpoint_io.save(state, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two.pth holds 2 backbones \(encoder., radar.\)"):
        load_backbone(tmp_path / "two.pth", "test_resnet")


def test_normalization_is_stored_assumed_or_given_but_never_overridden(theirs, trained, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    torch.save(without_classifier(theirs).state_dict(), tmp_path / "plain.pth")
    given = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.5]}
    expected = {
        "trained_model.pth": (SAYS["mean"], SAYS["std"], "stored in trained_model.pth"),
        "torchvision.pth": (IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, assumed for a torchvision classifier"),
        "plain.pth": (None, None, None),
    }
    for name, values in expected.items():
        info = load_backbone(tmp_path / name, "resnet18")[1]
        assert (info["mean"], info["std"], info["normalization"]) == values
    for name in ("torchvision.pth", "plain.pth"):
        info = load_backbone(tmp_path / name, "resnet18", **given)[1]
        assert info["mean"] == given["mean"] and info["normalization"] == "given by --mean and --std"
    with pytest.raises(ValueError, match="records its mean and std"):
        load_backbone(trained, **given)
    for wrong in ({"mean": [0.5] * 3}, {"mean": [0.5] * 2, "std": [0.5] * 2}, given | {"std": [0.0, 1, 1]}):
        with pytest.raises(ValueError, match="--std"):
            load_backbone(tmp_path / "plain.pth", "resnet18", **wrong)


@pytest.mark.parametrize("read", [checkpoint_io.load, load_backbone], ids=["load", "load_backbone"])
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at {re.escape(str(path))}$"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"epoch,loss\n1,2\n" * 50, b"PK\x03\x04" + bytes(99)])
def test_a_file_that_is_no_pytorch_file_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "stats.pth").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "stats.pth"))):
        checkpoint_io.load(tmp_path / "stats.pth")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused_with_its_path(trained, share):
    os.truncate(trained, int(share * trained.stat().st_size))
    with pytest.raises(ValueError, match=re.escape(str(trained))):
        load_backbone(trained)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class PlainUnpickler(pickle.Unpickler):
    """Runs what a checkpoint holds; an attribute instead of the method is refused by Python 3.13."""

    def persistent_load(self, pid):
        return None


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_a_pickled_object_is_refused_and_does_not_run(tmp_path, write):
    path, mark = tmp_path / "model.pth", tmp_path / "mark"
    write({"arch": "resnet18", "state_dict": Bomb(mark)}, path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: contains more than tensors and plain values"):
        load_backbone(path)
    assert not mark.exists()
    if write is torch.save:
        with zipfile.ZipFile(path) as archive:
            PlainUnpickler(archive.open("model/data.pkl")).load()
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists()  # armed it was


@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "os.replace"])
def test_only_a_write_that_succeeds_replaces_the_old_file_and_none_leaves_another(tmp_path, monkeypatch, fails):
    path = tmp_path / "model.pth"
    checkpoint_io.save({"step": 1}, path)

    def full(*arguments):
        if fails == "torch.save":
            arguments[1].write(b"half a checkp")
        assert len(list(tmp_path.iterdir())) == 2  # it was writing beside
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch if fails == "torch.save" else os, fails.partition(".")[2], full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint_io.save({"step": 2}, path)
    monkeypatch.undo()
    assert checkpoint_io.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
    checkpoint_io.save({"step": 2}, path)
    assert checkpoint_io.load(path) == {"step": 2}


def test_random_weights_depend_on_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, info = load_backbone("random", arch="resnet18", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = (load_backbone("random", arch="resnet18", seed=seed)[0] for seed in (1, 2))
    assert torch.equal(first.conv1.weight, again.conv1.weight) and torch.equal(features(first), features(again))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert info["mean"] is None and info["report"] == "resnet18 with random weights (seed 1)"


def test_stats_are_the_mean_and_deviation_of_each_channel():
    backbone, info = load_backbone("stats", in_chans=2)
    image = torch.tensor([[[0.0, 2.0], [4.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])[None]
    torch.testing.assert_close(backbone(image), torch.tensor([[2.0, 1.0, (8 / 3) ** 0.5, 0.0]]))
    assert backbone.num_features == 4 and list(backbone.parameters()) == [] and info["arch"] == "stats"


def test_a_named_baseline_without_architecture_is_refused():
    for name in ("random", "imagenet"):
        with pytest.raises(ValueError, match=f"--pretrained {name} needs --arch"):
            load_backbone(name)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("offline")], ids=repr)
def test_imagenet_weights_out_of_reach_are_explained(monkeypatch, error):
    def create_model(arch, pretrained, **kwargs):
        assert pretrained
        raise error

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match=r"ImageNet weights of resnet18.*network or from timm's cache") as found:
        load_backbone("imagenet", arch="resnet18")
    assert str(error) in str(found.value)


def test_imagenet_weights_come_with_their_normalization(monkeypatch):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda arch, pretrained, **more: real(arch, pretrained=False, **more))
    info = load_backbone("imagenet", arch="resnet18")[1]
    assert (info["mean"], info["std"]) == (IMAGENET_MEAN, IMAGENET_STD)
    info = load_backbone("imagenet", arch="resnet18", in_chans=4)[1]
    assert info["mean"] is None and "first convolution adapted from 3 to 4 channels" in info["report"]


def test_a_run_may_begin_with_a_files_weights_and_inflates_the_first_convolution(tmp_path):
    given = create_backbone("test_resnet")
    checkpoint_io.save(given.state_dict(), tmp_path / "weights.pth")
    same, more = create_backbone("test_resnet"), create_backbone("test_resnet", in_chans=4)
    init_backbone(same, tmp_path / "weights.pth", "test_resnet", 3)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in given.state_dict().items())
    report = init_backbone(more, tmp_path / "weights.pth", "test_resnet", 4)
    (key,) = [key for key, value in more.state_dict().items() if value.shape != given.state_dict()[key].shape]
    assert f"{key} inflated from 3 to 4 channels" in report
    weight, inflated = given.state_dict()[key], more.state_dict()[key]
    assert torch.equal(inflated, weight[:, [0, 1, 2, 0]] * 0.75)


@pytest.mark.parametrize("name", ["random", "stats"])
def test_a_run_cannot_begin_with_a_baseline_that_has_no_weights(name):
    with pytest.raises(ValueError, match=f"--init-from {name}: a file"):
        init_backbone(create_backbone("test_resnet"), name, "test_resnet", 3)


def test_a_file_that_names_an_unknown_architecture_is_named_with_it(tmp_path):
    payload = {"arch": "resnet_18", "in_chans": 3, "mean": None, "std": None, "source": "", "state_dict": {}}
    checkpoint_io.save(payload, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd.pth: no backbone named 'resnet_18' in timm; nearest: .*resnet18"):
        load_backbone(tmp_path / "odd.pth")


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "mobilenetv3_small_100", "resnet34"])
def test_families_take_small_views_of_any_channel_count_and_say_their_width(arch):
    backbone = create_backbone(arch, in_chans=5).eval()
    with torch.no_grad():
        assert backbone(torch.randn(2, 5, 40, 40)).shape == (2, backbone.num_features)
