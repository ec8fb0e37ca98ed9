"""Facts about the line on overlap that every evaluation prints."""

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
from vicreg.data.leakage import digest, format_overlap, location_keys, overlap, overlap_of_images, overlap_share
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


def test_equal_pixels_have_equal_digests_and_other_shapes_or_values_do_not():
    pixels = np.arange(12, dtype=np.uint8)
    assert digest(pixels.reshape(3, 4)) == digest(pixels.reshape(4, 3).reshape(3, 4).copy())
    assert digest(pixels.reshape(2, 3, 2).transpose(2, 1, 0)) == digest(np.ascontiguousarray(pixels.reshape(2, 3, 2).T))
    others = {digest(pixels.reshape(3, 4)), digest(pixels.reshape(4, 3)), digest(pixels.reshape(3, 4) + np.uint8(1))}
    assert len(others) == 3


def test_places_are_compared_by_aoi_and_patch_and_not_by_their_numbers_in_each_list(sn7_prepared):
    train, val = (SN7Patches(sn7_prepared / f"{part}.csv") for part in ("train", "val"))
    assert set(train.location_ids) & set(val.location_ids)  # the numbers are the same, the places are not
    assert overlap(train, val)["location_overlap"] == 0


def test_half_of_the_places_and_a_third_of_the_pixels():
    train = Images([1, 2], {"aoi": ["A", "A"], "patch": [0, 1]})
    val = Images([2, 8, 9, 9, 2, 7], {"aoi": list("ABAABB"), "patch": [0, 0, 1, 1, 1, 2]})
    assert overlap(train, val) == {"samples": 6, "location_overlap": 0.5, "exact_duplicates": pytest.approx(1 / 3)}


def test_the_whole_list_contains_all_of_its_validation_part(sn7_prepared):
    found = overlap(*(SN7Patches(sn7_prepared / f"{part}.csv") for part in ("all", "val")))
    assert found == {"samples": 60, "location_overlap": 1.0, "exact_duplicates": 1.0}


def test_locations_are_told_apart_by_class_because_their_numbers_may_start_anew():
    train = pd.DataFrame({"class": ["port", "farm"], "location": [0, 1]})
    val = pd.DataFrame({"class": ["port", "port"], "location": [0, 1]})
    assert overlap_share(location_keys(train), location_keys(val)).tolist() == [True, False]
    assert location_keys(train.drop(columns="class")) == [(0,), (1,)] and location_keys(train[["class"]]) is None


def test_too_many_bytes_are_not_compared_and_the_line_does_not_claim_they_were(monkeypatch):
    monkeypatch.setattr(leakage, "MOST_BYTES", 3 * 4 * 4 - 1)
    location_ids = {"aoi": ["A", "B"], "patch": [0, 0]}
    found = overlap(Images([1, 2], location_ids), Images([1, 2], location_ids))
    assert found == {"samples": 2, "location_overlap": 1.0, "exact_duplicates": None}
    assert format_overlap(found) == "split: of 2 validation samples 100.0% share their place with training"


def test_without_places_the_pixels_speak_alone():
    found = overlap(Images([1, 2]), Images([2, 3]))
    assert found["location_overlap"] is None
    assert format_overlap(found) == "split: of 2 validation samples 50.0% equal a training sample"
    assert "is not known; preprocessing/audit_split.py looks" in format_overlap({**found, "exact_duplicates": None})


def test_pixels_that_would_have_to_be_decoded_are_not_compared(sn7_tree, tmp_path, monkeypatch):
    options = ["--data-dir", str(sn7_tree), "--out-dir", str(tmp_path), "--no-pack"]
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(options))
    train, val = (SN7Patches(tmp_path / f"{part}.csv") for part in ("train", "val"))
    monkeypatch.setattr(SN7Patches, "images", None)
    assert overlap(train, val) == {"samples": 60, "location_overlap": 0.0, "exact_duplicates": None}


def test_each_evaluation_prints_the_line_and_keeps_it(repo_root, sn7_prepared, tmp_path):
    command = "vicreg/evaluate_sn7.py --pretrained stats --batch-size 16 --epochs 1 --image-size 8 --workers 0"
    ran = subprocess.run(
        [sys.executable, *command.split(), "--device", "cpu", "--csv-dir", sn7_prepared, "--exp-dir", tmp_path],
        cwd=repo_root, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    line = "split: of 60 validation samples 0.0% share their place with training, 0.0% equal a training sample"
    assert ran.stdout.splitlines().count(line) == 1
    result = json.loads((tmp_path / "freeze_100" / "result.json").read_text())
    assert result["overlap"] == {"samples": 60, "location_overlap": 0.0, "exact_duplicates": 0.0}


def test_images_one_by_one_are_compared_by_shape_and_pixels():
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
