"""SpaceNet-7: names, the patch grid, patch lists, the data set and its pairs."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from vicreg.data.sn7 import SN7Patches
from vicreg.data.sn7_format import (
    COLUMNS,
    cut_patches,
    parse_aoi_name,
    parse_mosaic_name,
    patch_side,
    read_mosaic,
    read_patch_list,
)
from vicreg.data.tables import read_meta

NAME = "global_monthly_2018_12_mosaic_L15-1025E-1366N_4102_2726_13"
FIRST_VERSION = f'0!{NAME}.tif,Dartford,England,17\n5!{NAME}.tif,"Newport, West",Wales,3\n'


@pytest.mark.parametrize("suffix", ["", ".tif", ".TIF", ".tiff"])
def test_parse_mosaic_name_returns_aoi_month_and_tile(suffix):
    name = parse_mosaic_name(NAME + suffix)
    assert name == ("L15-1025E-1366N_4102_2726_13", 2018, 12, 4102, 2726, 13)
    assert parse_aoi_name(name.aoi) == (4102, 2726, 13)


@pytest.mark.parametrize("wrong", ["mosaic.tif", NAME.replace("_12_", "_13_"), NAME + ".png", "x" + NAME, NAME[:-3]])
def test_parse_mosaic_name_refuses_other_names(wrong):
    with pytest.raises(ValueError, match="not a SpaceNet-7 mosaic name"):
        parse_mosaic_name(wrong)


def test_cut_patches_numbers_patches_row_by_row():
    mosaic = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    patches = cut_patches(mosaic, grid=4)
    assert patches.shape == (16, 3, 4, 4)
    for k in range(16):
        row, column = k // 4 * 4, k % 4 * 4
        assert (patches[k] == mosaic[:, row : row + 4, column : column + 4]).all()


def test_cut_patches_pads_1023_rows_with_zeros():
    mosaic = np.full((3, 1023, 1024), 7, np.uint8)
    patches = cut_patches(mosaic, grid=4)
    assert patches.shape == (16, 3, 256, 256) and patches.dtype == np.uint8
    assert (patches[:12] == 7).all() and (patches[12:, :, :255] == 7).all() and (patches[12:, :, 255] == 0).all()


def test_patch_side_rounds_up():
    assert [patch_side(width, 4) for width in (1024, 1023, 1025, 30)] == [256, 256, 257, 8]
    assert cut_patches(np.ones((3, 30, 30), np.uint8), 4)[15].sum() == 3 * 6 * 6


def test_cut_patches_refuses_mosaics_taller_than_wide():
    with pytest.raises(ValueError, match="taller than wide"):
        cut_patches(np.zeros((3, 20, 16), np.uint8))


def test_read_patch_list_keeps_columns_and_unusual_names(tmp_path):
    row = dict(zip(COLUMNS, [0, NAME, 3, "a", 2018, 12, "NA", "", "Saint Helena, Ascension", 4, "train"], strict=True))
    pd.DataFrame([row]).to_csv(tmp_path / "train.csv", index=False)
    assert read_patch_list(tmp_path / "train.csv").to_dict("records") == [row]


def test_read_patch_list_reads_first_version_lists(tmp_path):
    (tmp_path / "train.csv").write_text(FIRST_VERSION)
    table = read_patch_list(tmp_path / "train.csv")
    assert list(table) == COLUMNS
    assert list(table.iloc[1]) == [-1, f"{NAME}.tif", 5, NAME[30:], 2018, 12, "Newport, West", "Wales", "", 3, "train"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a patch list"),
        ("a,b\n1,2\n", "not a patch list"),
        ("row,image_id,patch\n", "columns missing: aoi"),
        (f"0!{NAME}.tif,Dartford,England,17\n{NAME}.tif,Dartford,England,17\n", "train.csv"),
        ("0!mosaic.tif,Dartford,England,17\n", "not a SpaceNet-7 mosaic name"),
        (f"0!{NAME}.tif,Dartford,England,x\n", "train.csv"),
    ],
)
def test_read_patch_list_refuses_other_formats(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_patch_list(tmp_path / "train.csv")
    assert "train.csv" in str(error.value)


def test_read_patch_list_names_the_script_that_writes_a_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="make_sn7_csv.py"):
        read_patch_list(tmp_path / "train.csv")


def test_sn7_patches_from_the_pack_equal_those_from_mosaics(sn7_prepared, tmp_path):
    shutil.copytree(sn7_prepared, tmp_path / "csv")
    (tmp_path / "csv" / "patches.npy").unlink()
    packed, cut = (SN7Patches(folder / "all.csv") for folder in (sn7_prepared, tmp_path / "csv"))
    indices = [0, 17, 100, 239]
    assert torch.equal(packed.images(indices), cut.images(indices))
    assert packed.images(indices).dtype == torch.uint8 and packed.patch_size == 8
    row = packed.table.iloc[100]
    mosaic = read_mosaic(sn7_prepared.parent / "train" / row.aoi / "images" / row.image_id)
    assert (packed.images([100])[0].numpy() == cut_patches(mosaic)[row.patch]).all()


def test_sn7_patches_have_labels_classes_and_statistics_of_the_list(sn7_prepared):
    dataset, meta = SN7Patches(sn7_prepared / "val.csv"), read_meta(sn7_prepared)
    assert dataset.classes == meta["classes"] == ["China", "United Kingdom", "United States"]
    assert [dataset.classes[label] for label in dataset.labels] == dataset.table.country.tolist()
    assert (dataset.mean, dataset.std) == (meta["mean"], meta["std"]) and len(dataset) == 15 * 4


def test_sn7_patches_of_a_first_version_list_come_from_mosaics(sn7_tree, tmp_path):
    mosaic = next(sn7_tree.glob("*/images/*.tif"))
    (tmp_path / "old.csv").write_text(f"15!{mosaic.name},Stockton,California,2\n")
    dataset = SN7Patches(tmp_path / "old.csv", data_dir=sn7_tree)
    assert (dataset.images([0])[0].numpy() == cut_patches(read_mosaic(mosaic))[15]).all()
    assert dataset.labels.tolist() == [2] and len(dataset.classes) == 3
    assert np.multiply(dataset.mean, 255) == pytest.approx([121.8, 106.5, 78.4])
    assert np.multiply(dataset.std, 255) == pytest.approx([56.7, 44.5, 40.5])
    with pytest.raises(FileNotFoundError, match="--data-dir"):
        SN7Patches(tmp_path / "old.csv")


def test_sn7_same_pairs_are_one_image_twice(sn7_prepared):
    first, second = SN7Patches(sn7_prepared / "train.csv").__getitems__([(0, 5), (7, 6)])
    assert torch.equal(first, second) and first.shape == (2, 3, 8, 8)


def test_sn7_temporal_pairs_are_uniform_over_the_other_months(sn7_prepared):
    dataset = SN7Patches(sn7_prepared / "train.csv", positives="temporal")
    rng = np.random.default_rng(0)
    for index in (0, 50, 179):
        row, counts = dataset.table.iloc[index], Counter()
        for sample_seed in rng.integers(2**63, size=3000).tolist():
            other = dataset.table.iloc[dataset.positive_index(index, sample_seed)]
            assert (other.aoi, other.patch) == (row.aoi, row.patch) and other.month != row.month
            counts[other.month] += 1
        others = {4: 3, 3: 2}[(dataset.table.aoi == row.aoi).sum() // 12]
        assert len(counts) == others
        assert all(abs(count - 3000 / others) < 5 * (3000 / others) ** 0.5 for count in counts.values())


def test_sn7_pair_depends_on_its_key_alone(sn7_prepared):
    dataset = SN7Patches(sn7_prepared / "train.csv", positives="temporal")
    first, second = dataset.__getitems__([(3, 11), (8, 2**62 + 5)])
    again, other = dataset[(8, 2**62 + 5)]
    assert torch.equal(first[1], again) and torch.equal(second[1], other) and not torch.equal(again, other)


def test_sn7_temporal_pair_of_a_single_month_is_the_image_itself(sn7_prepared, tmp_path):
    shutil.copytree(sn7_prepared, tmp_path / "csv")
    table = pd.read_csv(tmp_path / "csv" / "train.csv")
    table[table.month == 1].to_csv(tmp_path / "csv" / "january.csv", index=False)
    dataset = SN7Patches(tmp_path / "csv" / "january.csv", positives="temporal")
    assert [dataset.positive_index(5, sample_seed) for sample_seed in range(10)] == [5] * 10


def test_sn7_patches_refuse_a_folder_without_meta(sn7_prepared, tmp_path):
    shutil.copytree(sn7_prepared, tmp_path / "csv")
    (tmp_path / "csv" / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="meta.json; write the folder with make_sn7_csv.py"):
        SN7Patches(tmp_path / "csv" / "train.csv")


def test_sn7_patches_refuse_a_pack_shorter_than_the_list(sn7_prepared, tmp_path):
    shutil.copytree(sn7_prepared, tmp_path / "csv")
    np.save(tmp_path / "csv" / "patches.npy", np.zeros((10, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="patches.npy has 10 rows"):
        SN7Patches(tmp_path / "csv" / "all.csv")


def test_sn7_patches_from_the_pack_import_no_geo_library(sn7_prepared, repo_root):
    code = (
        "import json, sys\n"
        "from vicreg.data.sn7 import SN7Patches\n"
        "SN7Patches(sys.argv[1], 'temporal').__getitems__([(0, 1)])\n"
        "print(json.dumps(sorted({'rasterio', 'geopandas', 'reverse_geocode'} & set(sys.modules))))\n"
    )
    command = [sys.executable, "-c", code, str(sn7_prepared / "train.csv")]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout) == [], done.stderr
