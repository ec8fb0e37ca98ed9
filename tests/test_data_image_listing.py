"""Class folders, split folders, and names of image files."""

import importlib
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from vicreg import main_vicreg_imagery
from vicreg.common import files
from vicreg.common.logger import log
from vicreg.data.broken_files import find_broken
from vicreg.data.image_folder import load_folder, split_image_folder
from vicreg.data.image_listing import image_paths, list_images, split_folders
from vicreg.data.name_lists import choose_files
from vicreg.inference.image_files import find_images


def write_classes(folder, *classes, images=3):
    """Write <folder>/<class>/<n>.png, each of its own color."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for n in range(images):
            Image.new("RGB", (4, 4), (20 * n, 80 * label, 7)).save(folder / name / f"{n}.png")
    return folder


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Val"), ("TRAIN", "valid"), ("Training", "Validation")])
def test_split_folders_are_no_classes_in_any_spelling(tmp_path, names):
    for name in (*names, "test"):
        write_classes(tmp_path / name, "ant", "bee", images=len(name))
    for folder in (tmp_path, tmp_path / names[0]):
        train, val, line = split_image_folder(folder)
        assert train.classes == val.classes == ["ant", "bee"] and str(tmp_path / names[1]) in line
        assert [len(part.paths) for part in (train, val)] == [2 * len(name) for name in names]
    with pytest.raises(ValueError, match="holds the split folders .*; name one of them, which holds class folders"):
        list_images(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, "bus", "train", "test", images=10)
    assert split_folders(tmp_path) == {}
    train, val, _ = split_image_folder(tmp_path)
    assert train.classes == ["bus", "test", "train"] and len(train.paths) == 27 and len(val.paths) == 3


def test_a_train_folder_without_val_holds_out_images_of_its_own(tmp_path):
    for name in ("Train", "test"):
        write_classes(tmp_path / name, "ant", "bee", images=10)
    train, val, _ = split_image_folder(tmp_path)
    assert (len(train.paths), len(val.paths)) == (18, 2) and all("/Train/" in path for path in train.paths + val.paths)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda root: [write_classes(root / part, "a", "b") for part in ("Train", "train")],
            "two folders of one split",
        ),
        (
            lambda root: [write_classes(root / part, "a", "b") for part in ("val", "valid", "train")],
            "two folders of one",
        ),
        (lambda root: write_classes(root, "train", "val"), "images without class folders"),
        (
            lambda root: [write_classes(root / "train", "a", "b"), write_classes(root, "bus")],
            "beside folders of images",
        ),
        (lambda root: write_classes(root / "val", "a", "b"), "split folders val, and no train"),
        (lambda root: write_classes(root / "EuroSAT", "a", "b"), "one folder of folders; .*EuroSAT is perhaps"),
    ],
)
def test_a_folder_that_is_ambiguous_is_refused_with_the_reason(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        split_image_folder(tmp_path)


def test_one_folder_per_patch_is_not_a_folder_of_classes(tmp_path):
    for patch in ("S2A_1", "S2A_2"):
        (tmp_path / patch).mkdir()
        for band in ("B01", "B8A", "B12"):
            (tmp_path / patch / f"{patch}_{band}.tif").touch()
    with pytest.raises(ValueError, match="one folder per patch with one file per band, as BigEarthNet"):
        list_images(tmp_path)


def test_files_that_are_no_images_are_counted_and_pipes_are_not_opened(tmp_path, capsys):
    write_classes(tmp_path, "ant", "bee")
    for name in ("a.heic", "b.heic", "._x.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "ant" / name).touch()
    os.mkfifo(tmp_path / "bee" / "pipe.png")
    assert len(list_images(tmp_path).paths) == 6
    assert "3 files in" in (text := capsys.readouterr().out) and "a.heic" in text and "Thumbs" not in text
    assert len(find_images([tmp_path], tmp_path.parent / "out", recursive=True)) == 6
    assert "3 files in" in capsys.readouterr().out


def test_linked_folders_are_searched_once_in_training_and_prediction(tmp_path):
    write_classes(tmp_path / "elsewhere", "deep")
    write_classes(tmp_path / "in", "ant")
    (tmp_path / "in" / "ant" / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "in" / "ant" / "up").symlink_to("..")
    (tmp_path / "in" / "ant" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    assert len(image_paths(tmp_path / "in" / "ant")) == 6
    assert len(find_images([tmp_path / "in"], tmp_path / "out", recursive=True)) == 6
    assert len(find_images([tmp_path / "in" / "ant"], tmp_path / "out")) == 3


def test_lists_of_macos_and_windows_choose_the_same_files(tmp_path):
    write_classes(tmp_path, "Forêt", "bee")
    listing = list_images(tmp_path)
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "Forêt\\1.png\r\nbee/2.png\r\n")
        (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
        chosen = choose_files(listing, tmp_path / "list.txt")
        assert sorted(listing.paths[n][-7:] for n in chosen) == ["e/2.png", "t/1.png"]
    (tmp_path / "bee").rename(tmp_path / unicodedata.normalize("NFD", "été"))
    (tmp_path / "list.txt").write_text(unicodedata.normalize("NFC", "été/2.png"), encoding="utf-8")
    assert len(choose_files(list_images(tmp_path), tmp_path / "list.txt")) == 1
    (tmp_path / "list.txt").write_bytes("été/2.png".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list.txt: not UTF-8 .* at byte 0.; save it as UTF-8"):
        choose_files(listing, tmp_path / "list.txt")


def test_names_are_printed_without_control_codes(tmp_path, capsys):
    names = [b"\x1b[31mred.png", b"two\nlines.png", b"\xff.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"no image")
    write_classes(tmp_path, "ant", "bee", images=20)
    for name in names:
        shutil.copy(tmp_path / os.fsdecode(name), tmp_path / "ant" / os.fsdecode(name))

    load_folder(tmp_path, 4)
    text = capsys.readouterr().out
    assert "\x1b" not in text and "3 of" in text
    assert all(shown in text for shown in (r"\x1b[31mred.png:", r"two\nlines.png:", r"\udcff.png:"))
    log("a\x1b[0m\tb\u202e\nc…")
    assert capsys.readouterr().out == "a\\x1b[0m\\tb\\u202e\nc…\n"
    assert "\x1b" not in str(find_broken([tmp_path / os.fsdecode(names[0])]))


def test_errors_are_printed_without_control_codes(tmp_path, repo_root):
    script = "import sys; from vicreg.common import cli; cli.run(lambda path: open(path), sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "\x1b[31mred\udcff"], cwd=repo_root, capture_output=True, timeout=60
    )
    assert ran.returncode == 1 and b"\x1b" not in ran.stderr and b"Traceback" not in ran.stderr
    assert rb"red\udcff" in ran.stderr.replace(rb"\\", b"\\")


@pytest.mark.parametrize(
    ("name", "cell"), [("=1+1.jpg", "'=1+1.jpg"), ("@a", "'@a"), ("a=b", "a=b"), ("\x1b\n", r"\x1b\n"), ("-1", "'-1")]
)
def test_csv_cell_is_text_to_a_spreadsheet(name, cell):
    assert files.csv_cell(name) == cell


def test_check_outside_refuses_results_among_the_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    files.check_outside(tmp_path / "images_run", tmp_path / "images")
    for out in ("images", "images/exp", "link/exp", "images/../link"):
        with pytest.raises(ValueError, match="--exp-dir .* is in the folder of images"):
            files.check_outside(tmp_path / out, tmp_path / "images")


def test_order_of_files_is_by_folder_then_name(tmp_path):
    write_classes(tmp_path / "a", "b", "B")
    (tmp_path / "a" / "z.png").touch()
    assert [path[len(str(tmp_path)) :] for path in image_paths(tmp_path)] == [
        "/a/z.png", *(f"/a/{name}/{n}.png" for name in "Bb" for n in range(3)),
    ]  # fmt: skip
    assert np.bincount(list_images(tmp_path / "a").labels).tolist() == [3, 3]


def test_names_that_no_list_can_hold_are_refused(tmp_path):
    from preprocessing import make_folder_split

    for name in ("two\nlines.png", os.fsdecode(b"\xff.png")):
        tree = write_classes(tmp_path / str(len(name)), "ant", "bee")
        shutil.copy(tree / "ant" / "0.png", tree / "ant" / name)
        words = ["--data-dir", str(tree), "--out-dir", str(tmp_path / "out")]
        with pytest.raises(ValueError, match=r"ant/(two.nlines|.udcff).png: a line break or bytes that are not UTF-8"):
            make_folder_split.main(make_folder_split.get_parser().parse_args(words))
    assert not (tmp_path / "out").exists()


def test_predictions_of_any_file_name_are_text_in_a_table(tmp_path, capsys):
    import csv
    from pathlib import Path

    import torch

    from downstream.eurosat_landcover_clsf_task.predictions import write_predictions

    names = ["=1+1.jpg", "data/-1.jpg", "\x1b[31m.jpg", os.fsdecode(b"\xff.jpg")]
    write_predictions(tmp_path / "p.csv", list(map(Path, names)), torch.tensor([[0.9, 0.1]] * 4), ["=sum", "b"])
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "'=sum", "b"] and {row[1] for row in rows} == {"'=sum"}
    assert [row[0] for row in rows] == ["./=1+1.jpg", "data/-1.jpg", r"\x1b[31m.jpg", r"\udcff.jpg"]
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "high"), [("uint16", 3000), ("float32", 1)])
def test_eurosat_refuses_deeper_images_without_levels(tmp_path, dtype, high):
    import rasterio

    from downstream.eurosat_landcover_clsf_task.dataset import decode
    from vicreg.data.rasters import quiet_georeference

    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": dtype}
        with quiet_georeference(), rasterio.open(tmp_path / name / "0.tif", "w", **profile) as raster:
            raster.write(np.full((1, 4, 4), high * label).astype(dtype))
    listing = list_images(tmp_path)
    with pytest.raises(ValueError, match=f"2 of 2 images cannot be used: .*a/0.tif holds {dtype}.*--levels"):
        decode(listing, 4, 1, 3, None, None)
    assert decode(listing, 4, 1, 3, None, (0, high)).pixels[:, 0, 0, 0].tolist() == [0, 65535]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("FloodNet_segmentation_task.train_floodnet", "--exp-dir {0}/run --task building --pretrained random"),
        ("FloodNet_segmentation_task.make_harvey_patches", "--out-dir {0}"),
        ("eurosat_landcover_clsf_task.train_eurosat", "--exp-dir {0}/run --pretrained random"),
    ],
)
def test_scripts_of_tasks_do_not_write_to_the_folder_of_images(tmp_path, script, words):
    module = importlib.import_module(f"downstream.{script}")
    words = ["--data-dir", str(tmp_path), *words.format(tmp_path).split()]
    with pytest.raises(ValueError, match="is in the folder of images .*; choose a folder outside of it"):
        module.main(module.get_parser().parse_args(words))
    assert not list(tmp_path.iterdir())


def test_pretraining_does_not_write_to_the_folder_of_images(tmp_path):
    words = ["--data-dir", str(tmp_path), "--exp-dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="--exp-dir .*run is in the folder of images"):
        main_vicreg_imagery.main(main_vicreg_imagery.get_parser().parse_args(words))


def test_lists_name_images_in_folders_of_class_folders(tmp_path):
    for name in ("a/x/1.png", "b/x/1.png", "b/y/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = list_images(tmp_path)
    (tmp_path / "names.txt").write_text("b/x/1.tif\nb\\y\\1\n")
    assert choose_files(listing, tmp_path / "names.txt", any_suffix=True).tolist() == [1, 2]
    (tmp_path / "names.txt").write_text("x/1.png\n")
    with pytest.raises(ValueError, match=r"x/1.png in several class folders; write <class>/<name>"):
        choose_files(listing, tmp_path / "names.txt")


@pytest.mark.parametrize("folders", [("fold1", "fold2"), ("2018", "2019")])
def test_folders_that_hold_the_same_folders_are_not_taken_for_classes(tmp_path, folders):
    make_nested(tmp_path, folders, ("Forest", "River"))
    match = f"Forest, River are in each of its folders, such as {folders[0]}, which seem to be parts"
    with pytest.raises(ValueError, match=match):
        list_images(tmp_path)


def test_years_in_each_class_folder_are_parts_of_the_class_and_said_so(tmp_path, capsys):
    make_nested(tmp_path, ("Forest", "River"), ("2018", "2019"))
    assert list_images(tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert "its 2 folders are the classes; 2018, 2019 in each of them are not told apart" in capsys.readouterr().out


def make_nested(folder, outer, inner):
    for name in outer:
        for part in inner:
            (folder / name / part).mkdir(parents=True)
            (folder / name / part / "1.png").touch()


@pytest.mark.parametrize("names", [("trn", "dev", "tst"), ("Training", "Validation", "Testing")])
def test_split_folders_have_many_names(tmp_path, names):
    for folder in names:
        (tmp_path / folder / "Forest").mkdir(parents=True)
    assert [path.name for path in map(split_folders(tmp_path).get, ("train", "val", "test"))] == [*names]
