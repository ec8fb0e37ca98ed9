"""Checkpoint files: damage is detected, plain values of other projects are read, and other objects are named."""

import argparse
import pathlib
import random
import zipfile

import numpy as np
import pytest
import torch

from vicreg.common import checkpoint_io

CONTENT = {
    "model": {"weight": torch.arange(4000.0).reshape(1, 10, 20, 20).to(memory_format=torch.channels_last)},
    "half": torch.ones(3).bfloat16(), "count": torch.tensor(7), "empty": torch.empty(0),
    "config": {"lr": 0.1, "names": ["a", ("b", None)], "on": True},
}  # fmt: skip


class Custom:
    """Stands for a class of another project."""


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    return one == other


def test_load_returns_what_was_saved(tmp_path):
    checkpoint_io.save(CONTENT, tmp_path / "a.pth")
    assert equal(checkpoint_io.load(tmp_path / "a.pth"), CONTENT)


def test_load_detects_every_bit_flip_that_changes_the_content(tmp_path):
    path, flips = tmp_path / "a.pth", random.Random(0)
    checkpoint_io.save(CONTENT, path)
    whole, detected = path.read_bytes(), 0
    for _ in range(200):
        damaged, bit = bytearray(whole), flips.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert equal(checkpoint_io.load(path), CONTENT)  # a flip in padding
        except ValueError as error:
            assert str(path) in str(error)
            detected += 1
    assert detected >= 100


def test_load_compares_the_digest_where_the_checksums_are_those_of_changed_records(tmp_path):
    checkpoint_io.save(CONTENT, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "b.pth", "w") as target:
        for name in source.namelist():
            record = source.read(name)
            changed = b"\0" * len(record) if name.endswith("data/0") else record
            assert (changed != record) == name.endswith("data/0")
            target.writestr(name, changed)
    with pytest.raises(ValueError, match=r"b\.pth: the content differs from its digest"):
        checkpoint_io.load(tmp_path / "b.pth")


@pytest.mark.parametrize("change", ["value", "dtype", "shape", "key", "order of a list"])
def test_content_digest_depends_on_everything(change):
    first = {"a": torch.zeros(2, 3), "b": [1, 2]}
    second = {
        "value": {**first, "a": torch.eye(3)[1:]}, "dtype": {**first, "a": torch.zeros(2, 3).int()},
        "shape": {**first, "a": torch.zeros(3, 2)}, "key": {"c": first["a"], "b": first["b"]},
        "order of a list": {**first, "b": [2, 1]},
    }[change]  # fmt: skip
    assert checkpoint_io.content_digest(first) == checkpoint_io.content_digest({"a": torch.zeros(2, 3), "b": [1, 2]})
    assert checkpoint_io.content_digest(first) != checkpoint_io.content_digest(second)


@pytest.mark.parametrize("zipped", [True, False])
def test_load_reads_namespaces_paths_and_numpy_values_of_files_without_a_digest(tmp_path, zipped):
    args = argparse.Namespace(lr=np.float64(0.1), out=pathlib.Path("/a/b"), steps=np.int64(3), sizes=np.arange(3))
    content = {"args": args, "best": np.float32(2.5), "on": np.bool_(True), "to": pathlib.PureWindowsPath("c:/x")}
    torch.save({**content, "w": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    loaded = checkpoint_io.load(tmp_path / "a.pth")
    assert loaded["args"].lr == 0.1 and str(loaded["args"].out) == "/a/b" and loaded["args"].steps == 3
    assert loaded["args"].sizes.tolist() == [0, 1, 2] and [loaded["best"], loaded["on"]] == [2.5, True]
    assert str(loaded["to"]) == "c:\\x" and torch.equal(loaded["w"], torch.ones(2))


def test_load_reads_settings_of_omegaconf_without_its_classes(tmp_path):
    settings = pytest.importorskip("omegaconf").OmegaConf.create({"arch": "resnet18", "sizes": [1, 2.5, "x", None]})
    torch.save({"cfg": settings, "w": torch.ones(2)}, tmp_path / "a.pth")
    loaded = checkpoint_io.load(tmp_path / "a.pth")
    assert torch.equal(loaded["w"], torch.ones(2)) and type(loaded["cfg"]).__module__ == checkpoint_io.__name__


def test_load_names_the_type_that_it_refuses_and_a_way_out(tmp_path):
    torch.save({"w": torch.ones(2), "extra": Custom()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"\(a {__name__}\.Custom\).*torch\.save\(model\.state_dict"):
        checkpoint_io.load(tmp_path / "a.pth")
