"""Files of weights: bounds of their memory, recorded levels; and the sizes of images that networks take."""

import argparse
import pickle
import zipfile

import pytest
import torch

from vicreg.common import checkpoint_io
from vicreg.engine import checkpoint
from vicreg.exporters.formats import export
from vicreg.models.backbones import create_backbone, load_backbone
from vicreg.models.input_size import check_input_size
from vicreg.models.weight_files import read_record, read_weights, recorded_levels


def write_backbone(path, levels=None):
    backbone = create_backbone("test_resnet")
    checkpoint.save_backbone(path, backbone, "test_resnet", 3, [0.5] * 3, [0.2] * 3, "a test", levels)
    return path


def test_levels_are_recorded_exported_and_read(tmp_path):
    deep, plain = write_backbone(tmp_path / "deep.pth", (0, 2750)), write_backbone(tmp_path / "plain.pth")
    assert "levels" not in torch.load(plain, weights_only=True)
    assert recorded_levels(map(read_record, [deep, plain])) == (0, 2750)
    assert recorded_levels([read_record(plain), {}]) is None
    backbone, info = load_backbone(deep)
    assert info["levels"] == [0, 2750]
    for name, kind in (("a.safetensors", "safetensors"), ("a.pth", "timm")):
        export(kind, tmp_path / name, backbone, info)
        assert recorded_levels([read_record(tmp_path / name)]) == (0, 2750)
    other = write_backbone(tmp_path / "other.pth", (0, 1))
    with pytest.raises(ValueError, match="trained with different --levels .*; name them with --levels"):
        recorded_levels(map(read_record, [deep, other]))


def test_a_compressed_file_that_unpacks_to_much_more_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2_000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as stored, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
        for record in stored.infolist():
            packed.writestr(record.filename, stored.read(record), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "b.pth").stat().st_size < 100_000
    assert len(checkpoint_io.load(tmp_path / "a.pth")["conv1.weight"]) == 2_000_000
    for load in (checkpoint_io.load, read_weights):
        with pytest.raises(ValueError, match="b.pth: 8 MB of tensors in a file of 0 MB; is it intact?"):
            load(tmp_path / "b.pth")


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1).expand(10**9)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth: a tensor of 4000 MB in a smaller file; save it anew"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("nested", [lambda tensor: {"a": [tensor]}, lambda tensor: {"a": argparse.Namespace(b=tensor)}])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_larger_than_their_file_are_refused_before_their_digest(tmp_path, nested, zipped, monkeypatch):
    monkeypatch.setattr(checkpoint_io, "content_digest", lambda content: pytest.fail("reads terabytes"))
    content = {**nested(torch.zeros(1).expand(10**12)), "content_sha256": "0"}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="a.pth: a tensor of 4000000 MB in a smaller file; save it anew"):
        checkpoint_io.load(tmp_path / "a.pth")


def test_files_of_old_pytorch_are_read_and_other_pickles_are_not_unpickled(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert checkpoint_io.load(tmp_path / "old.pth")["a"].equal(torch.ones(3))
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": [1] * 10}))
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="pickle.pth: .*is not a PyTorch file"):
        checkpoint_io.load(tmp_path / "pickle.pth")


def test_check_input_size_leaves_the_network_as_it_is():
    backbone = create_backbone("test_resnet").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = torch.random.get_rng_state()
    check_input_size(backbone, 3, 33, "test_resnet")
    assert backbone.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_check_input_size_refuses_sizes_that_a_network_does_not_take():
    check_input_size(create_backbone("test_vit"), 3, 41, "test_vit")  # resampled position embeddings
    with pytest.raises(ValueError, match=r"--image-size 40: swinv2_cr_tiny_224 does not take images of 40.*; 224 is"):
        check_input_size(create_backbone("swinv2_cr_tiny_224"), 3, 40, "swinv2_cr_tiny_224")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layer1.0.se.fc1.weight", torch.ones(4, 4), r"1 tensors belong to a network of another kind \(layer1.0.se"),
        ("reg_token", torch.ones(1, 4, 8), "of another kind"), ("conv1.weight", torch.int8, "1 tensors of torch.int8"),
        ("conv1.weight", torch.complex64, "1 tensors of torch.complex64"), ("bn1.running_var", -1.0, "NaN or infinite"),
        ("conv1.weight", "sparse", "a sparse tensor; save it as a dense one"),
    ],
)  # fmt: skip
def test_weights_that_would_be_left_out_or_cast_are_refused(tmp_path, key, value, message):
    state = create_backbone("test_resnet").state_dict()
    key = next((name for name in state if name.endswith(key)), key)
    if isinstance(value, str):
        state[key] = state[key].to_sparse()
    elif isinstance(value, torch.dtype):
        state[key] = state[key].to(value)
    else:
        state[key] = value if isinstance(value, torch.Tensor) else torch.full_like(state[key], value)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path / "a.pth", "test_resnet")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": [0.5] * 2, "std": [0.2] * 2}, "records 2 means and 2 standard deviations of 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.2] * 4}, "records 3 means and 4 "),
        ({"mean": [0.5] * 3}, "records 3 means and 0 "),
        ({"levels": [3, 1]}, "levels is .*damaged"),
        ({"levels": [[0, 1], [2, 2]]}, "levels is .*damaged"),
    ],
    ids=str,
)
def test_records_that_do_not_fit_the_weights_are_refused(tmp_path, wrong, message):
    path, state = tmp_path / "a.pth", create_backbone("test_resnet").state_dict()
    torch.save({"arch": "test_resnet", "in_chans": 3, "state_dict": state, **wrong}, path)
    with pytest.raises(ValueError, match=f"a.pth.* {message}|a.pth: {message}"):
        load_backbone(path)


def test_buffers_and_heads_of_other_libraries_are_left_out(tmp_path):
    state = create_backbone("test_resnet").state_dict()
    more = {"layer1.0.attn_mask": torch.ones(2), "layer1.0.index": torch.ones(2, dtype=torch.int64)}
    torch.save({**state, **more, "fc.weight": torch.ones(2, 2), "mask_token": torch.ones(1)}, tmp_path / "a.pth")
    assert "4 unused" in load_backbone(tmp_path / "a.pth", "test_resnet")[1]["report"]
