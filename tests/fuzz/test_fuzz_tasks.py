"""Damaged inputs of downstream tasks, weights, exports and embeddings end in an error that names the file."""

import functools
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from downstream.detectron2_crowdai_detection_task.experiment import RUN_FILE, load_run
from downstream.eurosat_landcover_clsf_task import inference
from downstream.eurosat_landcover_clsf_task.dataset import find_scenes
from downstream.FloodNet_segmentation_task import cached_dataset, floodnet, harvey, image_mask_io, segmentation_folder
from downstream.FloodNet_segmentation_task import model as segmenter
from tests.floodnet_fixtures import write_pair, write_tile
from tests.fuzz import mutations
from tests.fuzz.harness import check_reader, file_bytes, npy
from vicreg.common import logger, provenance, trackers
from vicreg.data.image_dataset import ImageDataset
from vicreg.data.image_pack import PackedImages
from vicreg.engine import preemption
from vicreg.exporters import hugging_face
from vicreg.inference import embeddings
from vicreg.models import checkpoint_layouts, weight_files

LABELS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 10


@functools.cache
def files_of(kind):
    """Return the files of a FloodNet pair or a Harvey tile, by name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, random = Path(temporary), np.random.default_rng(0)
        if kind == "pair":
            write_pair(folder, folder, "a", LABELS, random)
        else:
            write_tile(folder, random, 32, 24)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_others(path, kind):
    for name, content in files_of(kind).items():
        if name != path.name:
            (path.parent / name).write_bytes(content)


def read_pair(path):
    """Read an image and its mask, as they are and as bands."""
    write_others(path, "pair")
    pair = floodnet.Pair(path.parent / "a.jpg", path.parent / "a_lab.png", "", 10)
    image_mask_io.read_pair(pair, image_size=6)
    image_mask_io.read_pair(pair, bands=(3, 1))


def read_tile(path):
    write_others(path, "tile")
    harvey.read_tile(path.parent, levels=(0, 255))


def read_cached(path):
    """Read a damaged file of the cache, which is named after its image."""
    write_others(path, "pair")
    pair = floodnet.Pair(path.parent / "a.jpg", path.parent / "a_lab.png", "", 10)
    name = cached_dataset.CachedPairs([pair], path.parent / "cache", "floodnet").files[0]
    name.write_bytes(path.read_bytes())
    data = cached_dataset.CachedPairs([pair], path.parent / "cache", "floodnet")
    data.image(0), data.labels(0), data.crop(0, 0, 0, 4)


def read_classes(path):
    segmentation_folder.task_classes.cache_clear()
    segmentation_folder.find_folder_parts(path.parent, 0.5, 0)


def read_lists(path):
    """Split a folder of two classes by a damaged list and a right one."""
    for name in ("A/A_1", "A/A_2", "B/B_1", "B/B_2"):
        (path.parent / f"{name}.jpg").parent.mkdir(exist_ok=True)
        (path.parent / f"{name}.jpg").touch()
    val = path.parent / "val.txt"
    val.write_text("A/A_2.tif\nB_2.jpg\n")
    find_scenes(path.parent, 0.5, 0, path, val)


EXPECTED = {"conv1.weight": torch.zeros(2, 3), "bn1.bias": torch.zeros(2)}


def read_layout(path):
    """Find a backbone in a checkpoint of another library."""
    state, record = weight_files.read_weights(path)
    found = checkpoint_layouts.find_backbone(state, EXPECTED, record.get("containers", ""), path)
    weight_files.check_fit(found, EXPECTED, "a network", path)


def renamed(prefix):
    return {prefix + key: value for key, value in EXPECTED.items()}


MOCO = {"epoch": 3, "arch": "resnet18", "state_dict": renamed("module.encoder_q.") | renamed("module.encoder_k.")}
LIGHTNING = {"state_dict": renamed("backbone.") | {"projector.0.weight": torch.zeros(2, 2)},
             "hyper_parameters": {"backbone": {"name": "resnet18"}}}  # fmt: skip
DINO = {"student": renamed("module.backbone."), "teacher": renamed("backbone."), "args": {"lr": 0.1}}


def read_sidecar(path):
    torch.save(EXPECTED, path.with_suffix(""))
    weight_files.read_weights(path.with_suffix(""))


def read_run(path):
    """Read what a model card says of a run."""
    hugging_face._run_of(path.with_name("trained_model.pth"))


def read_exported(path):
    hugging_face.check_folder(path.parent)


class Tiny(nn.Linear):
    """A network in place of timm's."""

    num_features = 2

    def __init__(self, *_):
        super().__init__(3, 2)


def read_classifier(path):
    with mock.patch.object(inference, "create_backbone", Tiny):
        inference.load_classifier(path, torch.device("cpu"))


def read_segmenter(path):
    with mock.patch.object(segmenter, "Segmenter", Tiny):
        segmenter.load_segmenter(path, torch.device("cpu"))


def of_task(name, state):
    """Return a checkpoint of a downstream task."""
    task = {"name": name, "classes": ["a", "b"], "image_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3}
    about = {"backbone": {"arch": "resnet18", "in_chans": 3}, "config": {"lr": 0.1}}
    return {"step": 1, "model": state, "task": task | {"decoder": "unet"}} | about


HEADS = {"heads.weight.0": torch.zeros(2, 2), "heads.bias.0": torch.zeros(2)}
CLASSIFIER = {f"backbone.{key}": value for key, value in Tiny().state_dict().items()} | HEADS


def table():
    """Return the bytes of an embeddings.parquet."""
    columns = pd.DataFrame({"path": ["a.tif", "b.tif", "c.tif"], "date": ["2020-01-01", "", "2020-02-01"]})
    columns = columns.assign(longitude=[1.0, np.nan, 2.0], latitude=[1.0, np.nan, 2.0])
    chunks = [(np.arange(3), np.eye(3, 4, dtype=np.float32))]
    return file_bytes(lambda path: embeddings.write_table(path, columns, chunks, 4, {"arch": "x"}), ".parquet")


def read_pack(path):
    """Read the packed squares of two images."""
    paths = [path.with_name(name) for name in ("a.png", "b.png")]
    for image in paths:
        Image.new("RGB", (8, 8)).save(image)
    packed = PackedImages(ImageDataset(paths, [0, 1], ["x", "y"]), path)
    packed.images([0, 1])


def read_marker(path):
    """Resume after a preemption, as torchrun restarts it; a right marker ends the process."""
    try:
        preemption.clear_preempted_marker(path.parent)
    except SystemExit as end:
        assert end.code > 128


def read_results(path):
    """Announce results that will be replaced."""
    logger.lock_results(path.parent, [path]).close()


PACK = npy(np.zeros((2, 3, 8, 8), np.uint8))
CACHED = npy(np.zeros((4, 12, 16), np.uint8))
RESULT = {"protocol": "freeze_100", "top1": 0.5, "knn20_top1": 0.4, "val": {"top1": 0.1}}
RUN = {"config": {"lr": 0.1}, "plan": {"source": "SN7", "steps": 2}}
CLASSES = {"names": ["background", "field"], "colors": [[40, 40, 40], [214, 39, 40]]}
SESSIONS = {"schema": 1, "kind": "pretraining", "sessions": [{"command": "python x", "status": "finished"}]}
HUB = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.5] * 3}}
DETECTION = {"backbone": {"arch": "resnet18"}, "image_size": [8, 8], "classes": ["building"]}
READERS = {
    **{
        f"floodnet {name}": (name, mutations.damaged_bytes(files_of("pair")[name], 400), read_pair)
        for name in ("a.jpg", "a_lab.png")
    },
    **{
        f"harvey {name}": (name, mutations.damaged_bytes(files_of("tile")[name], 600), read_tile)
        for name in ("vhr.tif", "buildings1m.tif")
    },
    "harvey meta.json": (
        "meta.json",
        mutations.damaged_json({"kind": floodnet.PATCHES, "patch_size": 8}),
        lambda path: floodnet.find_parts(path.parent, "building"),
    ),
    "cached pair": ("x.npy", mutations.damaged_bytes(CACHED, 128), read_cached),
    "classes.json": ("classes.json", mutations.damaged_json(CLASSES), read_classes),
    "eurosat list": ("train.txt", mutations.damaged_text("A/A_1.tif\nB_1.jpg\n"), read_lists),
    "classifier": (
        "best_model.pth",
        mutations.damaged_checkpoint(of_task(inference.TASK, CLASSIFIER)),
        read_classifier,
    ),
    "segmenter": (
        "best_model.pth",
        mutations.damaged_checkpoint(of_task(segmenter.TASK, Tiny().state_dict())),
        read_segmenter,
    ),
    "detection run.json": (RUN_FILE, mutations.damaged_json(DETECTION), lambda path: load_run(path.parent)),
    "moco": ("a.pth", mutations.damaged_checkpoint(MOCO), read_layout),
    "lightning": ("a.pth", mutations.damaged_checkpoint(LIGHTNING), read_layout),
    "dino": ("a.pth", mutations.damaged_checkpoint(DINO), read_layout),
    "weights .json": ("a.pth.json", mutations.damaged_json({"arch": "test_resnet", "mean": [0.5] * 3}), read_sidecar),
    "result.json for a card": ("result.json", mutations.damaged_json(RESULT), hugging_face._read_results),
    "config.json for a card": ("config.json", mutations.damaged_json(RUN), read_run),
    "config.json of an export": ("config.json", mutations.damaged_json(HUB), read_exported),
    "provenance": (
        "provenance.json",
        mutations.damaged_json(SESSIONS),
        lambda path: provenance.read(path.parent).get("sessions"),
    ),
    "replaced result.json": ("result.json", mutations.damaged_json(RESULT), read_results),
    "embeddings": ("a.parquet", mutations.damaged_bytes(table()), lambda path: embeddings.nearest(path, "1", 2)),
    "packed images": ("x.npy", mutations.damaged_bytes(PACK, 128), read_pack),
    "preempted marker": (
        preemption.MARKER_FILE,
        mutations.damaged_text("SIGTERM at step 5\n"),
        read_marker,
    ),
    "tracker id": (
        trackers._ID_FILE,
        mutations.damaged_text("wandb ab12\n"),
        lambda path: trackers._read_id(path.parent, "wandb"),
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_task_readers_refuse_damaged_files_with_an_error_that_names_them(reader, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # for the marker of preempted runs
    check_reader(READERS[reader], tmp_path_factory.mktemp("fuzz"))
