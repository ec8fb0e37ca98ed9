"""Readers answer damaged files with a result, or with an error that names the file."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.detectron2_crowdai_detection_task import coco
from preprocessing import text_files
from preprocessing.audit import samples
from preprocessing.sn7 import geocode
from tests.conftest import write_geojson, write_tif
from tests.fuzz import mutations
from tests.fuzz.harness import check_reader, file_bytes, npy
from vicreg.common import checkpoint_io
from vicreg.common.logger import read_stats
from vicreg.data import broken_files, fmow, image_listing, images, name_lists, sn7, sn7_format
from vicreg.engine import checkpoint
from vicreg.eval import feature_cache
from vicreg.inference import label_rasters
from vicreg.models import backbones, weight_files

AOI = "L15-0331E-1257N_1327_3160_13"
ROWS = [
    f"{n},global_monthly_2018_0{n + 1}_mosaic_{AOI}.tif,{n},{AOI},2018,{n + 1},Oakley,California,US,{n},train"
    for n in range(3)
]
PATCH_LIST = "\n".join([",".join(sn7_format.COLUMNS), *ROWS])
FIRST_VERSION = "".join(f"{n}!global_monthly_2018_12_mosaic_{AOI}.tif,Oakley,California,{n}\n" for n in range(2))
IMAGE_LIST = ",".join(fmow.COLUMNS) + "\n" + "\n".join(
    f"train/airport/airport_{n}/airport_{n}_0_rgb.jpg,airport_{n},airport,0,2016,{n + 1},train" for n in range(3)
)  # fmt: skip
META = {"classes": ["a", "b", "c", "d"], "grid": 4, "patch_size": 8, "rows": 3, "mean": [0.5] * 3, "std": [0.2] * 3,
        "format": 1, "source": "/nowhere", "split": {"rule": "block", "seed": 0}}  # fmt: skip
RING = [10, 10, 30, 10, 30, 30, 10, 30]
COCO = {"images": [{"id": n, "file_name": f"{n}.jpg", "height": 48, "width": 64} for n in range(2)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [RING]}
                        for n in range(2)],
        "categories": [{"id": 1, "name": "building"}]}  # fmt: skip
STATS = [{"step": n, "epoch": 0, "loss": 2.0 / n, "pairs_per_second": 3.0, "loss_lower_bound": 0.1} for n in (1, 2)]
TIMESTAMP = {"timestamp": "2015-07-25T14:23:52Z", "raw_location": "POLYGON ((2.0 48.5, 2.5 48.5, 2.5 49))", "gsd": 0.5}
PIXELS = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)


def encoded(name, **options):
    """Bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, name, **options)
    return buffer.getvalue()


def safetensors():
    from safetensors.torch import save

    return save({"conv1.weight": torch.zeros(2, 3)}, {"arch": "test_resnet", "mean": "[0.5]"})


def tiff():
    bounds = (500000, 5999760, 500320, 6000000)
    return file_bytes(lambda path: write_tif(path, PIXELS.transpose(2, 0, 1), bounds), ".tif")


def geojson():
    content = file_bytes(lambda path: write_geojson(path, [(-121.66, 37.98), (-121.65, 37.97)]), ".geojson")
    return json.loads(content)


def backbone():
    info = {"arch": "test_resnet", "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3, "source": "a test"}
    return info | {"state_dict": backbones.create_backbone("test_resnet").state_dict()}


def small_state():
    return {"conv1.weight": torch.zeros(2, 3), "fc.weight": torch.zeros(2, 2), "bn.counter": torch.tensor(1)}


def run_state():
    return {"step": 5, "plan": {"batch_size": 8}, "config": {"lr": 0.1, "epochs": 2},
            "model": {"module.backbone.conv1.weight": torch.zeros(2, 3)},
            "backbone": {"arch": "test_resnet", "mean": None},
            "task": {"name": "a task", "classes": ["a"]}}  # fmt: skip


def read_image(path):
    """Read an image file in all ways: whole, as crops, as a mask, as a raster in windows."""
    images.image_size(path)
    images.load_rgb(path)
    with images.open_reader(path) as reader:
        reader.read(0, 0, min(8, reader.height), min(8, reader.width))
        reader.preview(16)


def read_pack(path):
    """Read patches of a prepared folder."""
    (path.parent / "train.csv").write_text(PATCH_LIST)
    data = sn7.SN7Patches(path.parent / "train.csv", data_dir="/nowhere")
    data.images([0, len(data) - 1])


def read_pack_list(path):
    """Read the patches that a damaged list names."""
    (path.parent / "patches.npy").write_bytes(NPY)
    (path.parent / "meta.json").write_text(json.dumps(META))
    data = sn7.SN7Patches(path, positives="temporal")
    data.images(list(range(len(data))))
    assert len(data.labels) == len(data)


def read_meta(path):
    """Read patches with a damaged meta.json."""
    (path.parent / "patches.npy").write_bytes(NPY)
    (path.parent / "train.csv").write_text(PATCH_LIST)
    data = sn7.SN7Patches(path.parent / "train.csv")
    data.images([0, 1, 2])


def read_image_list(path):
    """Read an fMoW list whose meta.json is right."""
    (path.parent / "meta.json").write_text(json.dumps(META))
    fmow.read_image_list(path)


def read_fmow_meta(path):
    (path.parent / "train.csv").write_text(IMAGE_LIST)
    fmow.read_image_list(path.parent / "train.csv")


def read_coco(path):
    """Read a split of CrowdAI: its annotations, corrected."""
    coco.load_split(path.parent)


def read_listing(path):
    """Choose files by a list."""
    listing = image_listing.Listing(["d/A/1.jpg", "d/A/2.jpg", "d/B/1.jpg"], np.array([0, 0, 1]), ["A", "B"])
    name_lists.choose_files(listing, path)


def read_features(path):
    """Read cached features; None means that they are extracted again."""
    feature_cache._read(path, 3, "float32")


NPY = npy(np.zeros((3, 3, 8, 8), np.uint8))
FEATURES = npy(np.zeros((3, 4), np.float32))
AUDIT_LIST = "path,location,class\na.jpg,1,x\nb.jpg,2,y\n"
# reader -> (file, strategy of its content, function)
READERS = {
    "sn7 patch list": ("train.csv", mutations.damaged_csv(PATCH_LIST), sn7_format.read_patch_list),
    "sn7 patch list, first version": ("train.csv", mutations.damaged_csv(FIRST_VERSION), sn7_format.read_patch_list),
    "sn7 patches by list": ("train.csv", mutations.damaged_csv(PATCH_LIST), read_pack_list),
    "sn7 meta.json": ("meta.json", mutations.damaged_json(META), read_meta),
    "sn7 patches.npy": ("patches.npy", mutations.damaged_bytes(NPY, 128), read_pack),
    "sn7 mosaic": ("a.tif", mutations.damaged_bytes(tiff(), 300), sn7_format.read_mosaic),
    "sn7 labels": ("a.geojson", mutations.damaged_json(geojson()), geocode.footprint_points),
    "fmow list": ("train.csv", mutations.damaged_csv(IMAGE_LIST), read_image_list),
    "fmow meta.json": ("meta.json", mutations.damaged_json(META), read_fmow_meta),
    "fmow image json": ("a_rgb.json", mutations.damaged_json(TIMESTAMP), fmow.read_timestamp),
    "list of files": ("list.txt", mutations.damaged_text("A/1.jpg\nB/1.jpg\n2.jpg\n"), read_listing),
    "table": ("table.csv", mutations.damaged_csv("aoi,city,country\na,b,US\n"), text_files.read_csv),
    "tiff": ("a.tif", mutations.damaged_bytes(tiff(), 300), read_image),
    "png": ("a.png", mutations.damaged_bytes(encoded("PNG"), 80), read_image),
    "jpeg": ("a.jpg", mutations.damaged_bytes(encoded("JPEG"), 700), read_image),
    "webp": ("a.webp", mutations.damaged_bytes(encoded("WEBP"), 60), read_image),
    "gif": ("a.gif", mutations.damaged_bytes(encoded("GIF"), 60), read_image),
    "bmp": ("a.bmp", mutations.damaged_bytes(encoded("BMP"), 60), read_image),
    "pnm": ("a.ppm", mutations.damaged_bytes(encoded("PPM"), 20), read_image),
    "audit image": ("a.tif", mutations.damaged_bytes(tiff(), 300), samples.open_image),
    "mask": ("a.png", mutations.damaged_bytes(encoded("PNG"), 80), images.load_mask),
    "labels of a map": (
        "a.tif",
        mutations.damaged_bytes(tiff(), 300),
        lambda path: label_rasters.read_labels(path, (24, 32)),
    ),
    "broken files": (
        "a.jpg",
        mutations.damaged_bytes(encoded("JPEG"), 700),
        lambda path: broken_files.find_broken([str(path)]),
    ),
    "coco": ("annotation.json", mutations.damaged_json(COCO), read_coco),
    "audit coco": ("a.json", mutations.damaged_json(COCO), samples.from_coco),
    "audit list": ("train.csv", mutations.damaged_csv(AUDIT_LIST), samples.from_list),
    "stats.txt": ("stats.txt", mutations.damaged_lines(STATS), read_stats),
    "cached features": ("a.npy", mutations.damaged_bytes(FEATURES, 128), read_features),
    "backbone": ("a.pth", mutations.damaged_checkpoint(backbone()), backbones.load_backbone),
    "state dict": ("a.pth", mutations.damaged_checkpoint(small_state()), weight_files.read_weights),
    "safetensors": ("a.safetensors", mutations.damaged_bytes(safetensors(), 250), weight_files.read_weights),
    "weights of a run": ("model.pth", mutations.damaged_checkpoint(run_state()), weight_files.read_weights),
    "checkpoint": (
        "model.pth",
        mutations.damaged_checkpoint(run_state()),
        lambda path: checkpoint.load_latest(path.parent),
    ),
    "checkpoint of a task": (
        "best_model.pth",
        mutations.damaged_checkpoint(run_state()),
        lambda path: checkpoint.load_task(path, "a task"),
    ),
    "checkpoint file": ("a.pth", mutations.damaged_checkpoint(small_state()), checkpoint_io.load),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_damaged_files_with_an_error_that_names_them(reader, tmp_path_factory):
    check_reader(READERS[reader], tmp_path_factory.mktemp("fuzz"))
