"""Overlap of validation and training sets."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from preprocessing import make_sn7_csv
from vicreg.data import leakage
from vicreg.data.base import BaseDataset
from vicreg.data.leakage import digest, format_overlap, location_keys, overlap, overlap_mask, overlap_of_images
from vicreg.data.sn7 import SN7Patches


class Images(BaseDataset):
    """A data set of constant 2 x 2 images and, if a table is given, their locations."""

    in_memory = True

    def __init__(self, values, table=None):
        self.pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
        self.keys = None if table is None else location_keys(pd.DataFrame(table))

    def location_keys(self):
        return self.keys

    def __len__(self):
        return len(self.pixels)

    def images(self, indices):
        return self.pixels[indices]


def test_digest_is_equal_for_equal_shape_and_pixels_only():
    pixels = np.arange(12, dtype=np.uint8)
    assert digest(pixels.reshape(3, 4)) == digest(pixels.reshape(4, 3).reshape(3, 4).copy())
    assert digest(pixels.reshape(2, 3, 2).transpose(2, 1, 0)) == digest(np.ascontiguousarray(pixels.reshape(2, 3, 2).T))
    others = {digest(pixels.reshape(3, 4)), digest(pixels.reshape(4, 3)), digest(pixels.reshape(3, 4) + np.uint8(1))}
    assert len(others) == 3


def test_overlap_compares_sn7_locations_by_aoi_and_patch(sn7_prepared):
    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    assert set(train.location_ids) & set(val.location_ids)  # the numbers are the same, the places are not
    assert overlap(train, val)["location_overlap"] == 0


def test_overlap_returns_fractions_of_locations_and_pixels():
    train = Images([1, 2], {"aoi": ["A", "A"], "patch": [0, 1]})
    val = Images([2, 8, 9, 9, 2, 7], {"aoi": list("ABAABB"), "patch": [0, 0, 1, 1, 1, 2]})
    assert overlap(train, val) == {"samples": 6, "location_overlap": 0.5, "exact_duplicates": pytest.approx(1 / 3)}


def test_overlap_of_the_whole_list_with_its_validation_part_is_one(sn7_prepared):
    found = overlap(*(SN7Patches(sn7_prepared / f"{part}.csv") for part in ("all", "val")))
    assert found == {"samples": 60, "location_overlap": 1.0, "exact_duplicates": 1.0}


def test_a_location_is_one_whatever_its_class_and_the_program_that_wrote_its_id():
    train = pd.DataFrame({"class": ["port", "farm", "farm"], "location": ["7.0", " S\u00e3o", "x"]})
    val = pd.DataFrame({"class": ["port", "port", "port"], "location": ["7", "Sa\u0303o ", "7.5"]})
    assert overlap_mask(location_keys(train), location_keys(val)).tolist() == [True, True, False]
    assert location_keys(pd.DataFrame({"location": [0, 1]})) == [(0,), (1,)] and location_keys(train[["class"]]) is None


def test_overlap_skips_pixels_beyond_max_bytes(monkeypatch):
    monkeypatch.setattr(leakage, "MAX_BYTES", 3 * 4 * 4 - 1)
    location_ids = {"aoi": ["A", "B"], "patch": [0, 0]}
    found = overlap(Images([1, 2], location_ids), Images([1, 2], location_ids))
    assert found == {"samples": 2, "location_overlap": 1.0, "exact_duplicates": None}
    assert format_overlap(found) == "split: of 2 validation samples 100.0% show a training location"


def test_overlap_without_locations_compares_pixels():
    found = overlap(Images([1, 2]), Images([2, 3]))
    assert found["location_overlap"] is None
    assert format_overlap(found) == "split: of 2 validation samples 50.0% equal a training sample"
    assert "unknown; check it with preprocessing/audit_split.py" in format_overlap({**found, "exact_duplicates": None})


def test_overlap_does_not_decode_images(sn7_tree, tmp_path, monkeypatch):
    options = ["--data-dir", str(sn7_tree), "--out-dir", str(tmp_path), "--no-pack"]
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(options))
    train, val = (SN7Patches(tmp_path / f"{part}.csv") for part in ("train", "val"))
    monkeypatch.setattr(SN7Patches, "images", None)
    assert overlap(train, val) == {"samples": 60, "location_overlap": 0.0, "exact_duplicates": None}


def test_evaluation_prints_and_writes_the_overlap(repo_root, sn7_prepared, tmp_path):
    command = "vicreg/evaluate_sn7.py --pretrained stats --batch-size 16 --epochs 1 --image-size 8 --workers 0"
    ran = subprocess.run(
        [sys.executable, *command.split(), "--device", "cpu", "--csv-dir", sn7_prepared, "--exp-dir", tmp_path],
        cwd=repo_root, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    line = "split: of 60 validation samples 0.0% show a training location, 0.0% equal a training sample"
    assert ran.stdout.splitlines().count(line) == 1
    result = json.loads((tmp_path / "freeze_100" / "result.json").read_text())
    assert result["overlap"] == {"samples": 60, "location_overlap": 0.0, "exact_duplicates": 0.0}


def test_overlap_of_images_compares_shape_and_pixels():
    train = [np.zeros((2, 3), np.uint8), np.ones((2, 2), np.uint8)]
    val = [
        np.ones((2, 2), np.uint8),
        np.zeros((3, 2), np.uint8),
        np.full((2, 2), 2, np.uint8),
        np.ones((2, 2), np.uint8),
    ]
    found = overlap_of_images(iter(train), iter(val))
    assert found == {"samples": 4, "location_overlap": None, "exact_duplicates": 0.5}
    with pytest.raises(ValueError, match="no validation images"):
        overlap_of_images(train, [])
