"""Views that grow during pretraining: sizes per epoch, resume, the log, and what the network and the probe see."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_engine_pretrain import Stripes, configure, kill_after_saving, train
from vicreg.common import cli
from vicreg.common.logger import read_stats
from vicreg.data.image_dataset import ImageDataset
from vicreg.engine import pretrain as engine
from vicreg.engine import pretrain_config
from vicreg.engine.run_folder import RunFolder

SIZES = {  # --image-size, epochs: sides in pixels
    ("32:64", 1): [64],
    ("32:64", 2): [32, 64],
    ("32:64", 9): [32, 32, 32, 48, 48, 48, 64, 64, 64],
    ("20:60", 6): [20, 20, 32, 48, 60, 60],  # both ends as given, multiples of 16 between them
    ("96:224", 12): [96, 112, 128, 144, 160, 176, 192, 208, 224, 224, 224, 224],
    ("64", 3): [64, 64, 64],
}
GROWING = {"image_size": (16, 32), "epochs": 3, "batch_size": 8}  # 40 samples: sizes 16, 16 and 32, 5 steps each


class FourBands(Stripes):
    """Stripes of four bands."""

    def __init__(self, count=40):
        super().__init__(count)
        self.mean, self.std = [0.5] * 4, [0.5] * 4

    def images(self, indices):
        images = super().images(indices)
        return torch.cat([images, images[:, :1]], 1)


def parse(*words):
    parser = pretrain_config.get_parser("a test")
    return pretrain_config.build_config(cli.parse(parser, ["--exp-dir", "unused", *words]))


@pytest.mark.parametrize(("text", "epochs"), SIZES, ids=str)
def test_views_grow_in_multiples_of_16_and_are_full_in_the_last_third(text, epochs):
    assert parse("--image-size", text).view_sizes(256, epochs) == SIZES[text, epochs]


def test_one_number_or_none_stays_one_size():
    assert parse("--image-size", "64").image_size == parse("--image-size", "64").final_image_size == 64
    assert parse("--image-size", "32:64").final_image_size == 64
    assert parse().final_image_size is None and parse().view_sizes(256, 2) == [224, 224]


@pytest.mark.parametrize("text", ["64:32", "32:32", "0:32"])
def test_sizes_that_do_not_grow_are_refused(text):
    with pytest.raises(ValueError, match=f"--image-size {text}: both must be positive, and the first smaller"):
        parse("--image-size", text)


@pytest.mark.parametrize("text", ["32:", "32:48:64", "a:b", "32-64", "32:99999999999"])
def test_text_that_is_no_size_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse("--image-size", text)
    assert "argument --image-size" in capsys.readouterr().err


def folder_of_images(tmp_path):
    """Six noisy JPEGs, whose crops the loader cuts."""
    paths = [tmp_path / f"{number}.jpg" for number in range(16)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return ImageDataset(paths, [0, 1] * 8, ["a", "b"], side=36)


def assert_same_state(one, other):
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())


@pytest.mark.parametrize("kind", ["pairs", "bands", "files"])
def test_growing_run_resumes_to_the_same_weights(tmp_path, monkeypatch, kind):
    """After step 3 of the first size, and after step 11, the first one of the last size."""
    make = {"pairs": Stripes, "bands": FourBands, "files": lambda: folder_of_images(tmp_path)}[kind]
    changes = GROWING | ({"in_chans": 4} if kind == "bands" else {}) | ({"batch_size": 4} if kind == "files" else {})
    changes |= {"probe_every": 0}
    whole = train(tmp_path / "whole", make(), **changes)
    steps_per_epoch = len(make()) // changes["batch_size"]
    for step in (3, 2 * steps_per_epoch + 1):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            kill_after_saving(patch, step)
            train(tmp_path / "resumed", make(), **changes)
    assert_same_state(whole, train(tmp_path / "resumed", make(), **changes))
    for run in ("whole", "resumed"):
        lines = read_stats(tmp_path / run / "stats.txt")
        assert [line["image_size"] for line in lines] == [16] * 2 * steps_per_epoch + [32] * steps_per_epoch


def test_loading_processes_and_micro_batches_use_the_size_of_the_epoch(tmp_path, monkeypatch):
    dataset, seen = folder_of_images(tmp_path), []
    values = GROWING | {"batch_size": 4, "probe_every": 0}
    one = train(tmp_path / "here", dataset, **values)
    assert_same_state(one, train(tmp_path / "processes", folder_of_images(tmp_path), workers=2, **values))
    forward = engine.VICReg.forward
    monkeypatch.setattr(engine.VICReg, "forward", lambda self, *x: seen.append(x[0].shape[-1]) or forward(self, *x))
    train(tmp_path / "parts", folder_of_images(tmp_path), accumulate=2, **values)
    assert seen == [16] * 8 * 4 + [32] * 4 * 4  # each of two micro-batches twice


def test_last_epochs_are_those_of_a_run_at_full_size(tmp_path, monkeypatch):
    """A run whose checkpoint is from before the last size ends as if its views never had another size."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_after_saving(patch, 10)
        train(tmp_path / "run", **GROWING)
    saved = torch.load(tmp_path / "run" / "model.pth", weights_only=True)
    grown = train(tmp_path / "run", **GROWING)
    fixed = configure(tmp_path / "fixed", **GROWING | {"image_size": 32})
    RunFolder(fixed, "pretraining", torch.device("cpu")).save(saved | {"config": {**saved["config"], "image_size": 32}})
    assert_same_state(grown, train(tmp_path / "fixed", **GROWING | {"image_size": 32}))


def test_probe_and_plan_use_the_last_size(tmp_path, monkeypatch, capsys):
    sizes = []
    monkeypatch.setattr(engine, "knn_probe", lambda backbone, sets, spec, device: sizes.append(spec.size) or {})
    train(tmp_path, **GROWING)
    assert sizes == [32, 32, 32]
    assert "views vicreg 16, 32 px" in capsys.readouterr().out
