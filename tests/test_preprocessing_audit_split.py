"""Facts about audit_split.py: it finds what was planted, in every form of split, and says so in every way it can."""

import io
import json
import shutil
import weakref

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from preprocessing import audit_split, make_folder_split
from preprocessing.audit import compare, samples
from tests.conftest import call_script

SCRIPT = "preprocessing/audit_split.py"
MAKE = "preprocessing/make_sn7_csv.py"


def texture(number, side=64):
    """A random smooth color image that looks like no other."""
    small = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.BICUBIC))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)


def jpeg(pixels, quality=60):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def moved(pixels, down, right):
    side = pixels.shape[0]
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="edge")
    return padded[4 - down : 4 - down + side, 4 - right : 4 - right + side]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of 12 training and 8 validation images: one equal, three nearly equal, one featureless, three new."""
    root = tmp_path_factory.mktemp("folders")
    for number in range(10):
        save(root / "train" / f"c{number % 2}" / f"{number}.png", texture(number))
    faint = texture(50) // 50 + 118  # 118 to 123
    save(root / "train" / "sea" / "a.png", faint)
    save(root / "train" / "sea" / "b.png", texture(51) // 50 + 118)
    save(root / "val" / "c0" / "equal.bmp", texture(0))  # another file, the same pixels
    save(root / "val" / "c0" / "encoded.jpg", texture(1), quality=60)
    save(root / "val" / "c0" / "turned.png", np.rot90(texture(2))[:, ::-1])
    save(root / "val" / "c1" / "moved.png", moved(texture(3), 2, -1))
    save(root / "val" / "new" / "sea.png", faint + np.uint8(1))
    for number in (100, 101, 102):
        save(root / "val" / "c1" / f"{number}.png", texture(number))
    return root


def audit(*arguments):
    """Run the script with --json - -> its findings."""
    ran = call_script(SCRIPT, *arguments, "--json", "-")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_fingerprint_holds_one_image_of_a_thread_at_a_time():
    read = []

    def texture_or_error(number):
        assert sum(image() is not None for image in read) <= 1
        if number == 1:
            raise ValueError("image 1 cannot be read")
        image = np.full((64, 64, 3), 90, np.uint8) if number == 3 else texture(number).copy()
        read.append(weakref.ref(image))
        return image

    found = compare.fingerprint(samples.Subset("a", ["x"] * 5, texture_or_error, {}, None), (0,), False, 1, "")
    assert [key is None for key in found.digests] == [False, True, False, False, False]
    assert found.uniform.tolist() == [False, False, False, True, False] and found.errors == ["image 1 cannot be read"]
    assert found.contrast[1] == -1 and found.contrast[3] == 0 and found.contrast[[0, 2, 4]].min() > 2


def names(pairs):
    return {(pair["val"].split("/")[-1], pair["train"].split("/")[-1]) for pair in pairs}


def test_planted_copies_are_found_in_folders_of_images_and_nothing_else_is(folders):
    found = audit(folders / "train", folders / "val", "--examples", "9")
    assert (found["train"]["samples"], found["val"]["samples"]) == (12, 8)
    assert names(found["exact"]["pairs"]) == {("equal.bmp", "0.png")}
    assert names(found["near"]["pairs"]) == {("encoded.jpg", "1.png"), ("turned.png", "2.png"), ("moved.png", "3.png")}
    assert (found["near"]["excluded_train"], found["near"]["excluded_val"]) == (2, 1)
    assert found["overlap"] == {"samples": 4, "fraction": 0.5} and "location" not in found


def test_classes_are_counted_in_both_parts(folders):
    classes = audit(folders / "train", folders / "val", "--no-pixels")["classes"]
    assert classes["counts"] == {"c0": [5, 3], "c1": [5, 4], "new": [0, 1], "sea": [2, 0]}
    assert classes["only_val"] == ["new"] and classes["only_train"] == ["sea"]


def test_turns_and_shifts_can_be_left_out_and_featureless_images_kept(folders):
    plain = audit(folders / "train", folders / "val", "--no-turns", "--no-shifts", "--examples", "9")
    assert names(plain["near"]["pairs"]) == {("encoded.jpg", "1.png")}
    all_in = audit(folders / "train", folders / "val", "--min-contrast", "0", "--examples", "9")
    assert ("sea.png", "a.png") in names(all_in["near"]["pairs"])
    strict = audit(folders / "train", folders / "val", "--max-bits", "0", "--examples", "9")
    assert ("encoded.jpg", "1.png") not in names(strict["near"]["pairs"])


def test_the_text_the_picture_and_the_files_say_the_same(folders, tmp_path):
    ran = call_script(SCRIPT, folders / "train", folders / "val", "--json", tmp_path / "found.json",
                     "--picture", tmp_path / "pairs.png", "--examples", "2")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "equal pixels: 1 validation samples (12.50%)" in ran.stdout
    assert "near duplicates: 3 validation samples (37.50%)" in ran.stdout
    assert "1 validation and 2 training images" in ran.stdout
    assert f"{folders / 'val' / 'c0' / 'equal.bmp'}  =  {folders / 'train' / 'c0' / '0.png'}" in ran.stdout
    assert "in validation only: 1 classes (new)" in ran.stdout
    assert "with any overlap: 4 (50.00%)" in ran.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["near"]["pairs"]) == 2 and found["near"]["samples"] == 3
    assert Image.open(tmp_path / "pairs.png").width > 300


@pytest.mark.parametrize(("most", "code"), [("49.9", 1), ("50", 0), ("100", 0), ("0", 1)])
def test_the_exit_code_is_1_only_above_the_overlap_that_is_allowed(folders, most, code):
    ran = call_script(SCRIPT, folders / "train", folders / "val", "--max-overlap", most)
    assert ran.returncode == code and "with any overlap" in ran.stdout
    assert ("more than --max-overlap" in ran.stderr) == bool(code)


def test_an_unreadable_image_is_counted_named_and_left_out(folders, tmp_path):
    shutil.copytree(folders / "val", tmp_path / "val")
    (tmp_path / "val" / "c0" / "encoded.jpg").write_bytes(b"no image")
    whole = (tmp_path / "val" / "c0" / "turned.png").read_bytes()
    (tmp_path / "val" / "c0" / "turned.png").write_bytes(whole[: len(whole) // 2])
    found = audit(folders / "train", tmp_path / "val")
    assert found["val"]["unreadable"] == 2 and found["near"]["samples"] == 1
    assert all(name in str(found["val"]["errors"]) for name in ("encoded.jpg", "turned.png"))


def coco(folder, files, boxes):
    content = {"images": [{"id": n, "file_name": name} for n, name in enumerate(files)],
               "categories": [{"id": 100, "name": "building"}, {"id": 7, "name": "road"}],
               "annotations": [{"id": n, "image_id": 0, "category_id": c} for n, c in enumerate(boxes)]}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "annotation.json").write_text(json.dumps(content))
    return folder / "annotation.json"


def test_coco_files_are_audited_and_their_annotations_counted(tmp_path):
    save(tmp_path / "a" / "images" / "0.png", texture(0))
    save(tmp_path / "a" / "images" / "unlisted.png", texture(5))
    save(tmp_path / "b" / "same_name_elsewhere" / "0.png", texture(5))
    save(tmp_path / "b" / "same_name_elsewhere" / "1.png", np.flipud(texture(0)))
    train, val = coco(tmp_path / "a", ["0.png"], [100, 100]), coco(tmp_path / "b", ["0.png", "1.png"], [100, 7, 9])
    images = ["--coco-images", tmp_path / "a" / "images", tmp_path / "b" / "same_name_elsewhere"]
    found = audit("--coco", train, val, *images)
    assert found["overlap"]["samples"] == 1 and names(found["near"]["pairs"]) == {("1.png", "0.png")}
    assert found["classes"]["counts"] == {"building": [2, 1], "category 9": [0, 1], "road": [0, 1]}
    ran = call_script(SCRIPT, "--coco", train, val)
    assert ran.returncode == 2 and "--coco-images" in ran.stderr


def test_patch_lists_share_no_place_by_block_and_every_place_by_image(sn7_prepared, sn7_tree, tmp_path):
    found = audit(sn7_prepared)
    assert found["location"]["samples"] == found["location"]["locations_shared"] == 0
    assert found["location"]["locations"] == 16
    assert call_script(MAKE, "--data-dir", sn7_tree, "--out-dir", tmp_path, "--split", "image").returncode == 0
    found = audit(tmp_path, "--no-pixels")
    assert found["location"]["fraction"] == found["overlap"]["fraction"] == 1 and "near" not in found
    assert found["location"]["pairs"][0]["val"].startswith("0!global_monthly_2018_")


def test_patches_come_from_the_tree_where_there_is_no_pack(sn7_tree, tmp_path):
    assert call_script(MAKE, "--data-dir", sn7_tree, "--out-dir", tmp_path, "--split", "published").returncode == 0
    packed = samples.from_list(tmp_path / "test.csv")
    expected = [packed.read(index).copy() for index in range(64)]
    (tmp_path / "patches.npy").unlink()
    unpacked = samples.from_list(tmp_path / "test.csv")
    assert all((unpacked.read(index) == pixels).all() for index, pixels in enumerate(expected))
    found = audit(tmp_path, "--parts", "train", "test")
    assert found["val"]["samples"] == 64 and found["classes"]["only_val"] == ["United Kingdom"]


def test_lists_with_locations_are_audited_by_them(tmp_path):
    columns = {"k": 0, "year": 2016, "month": 1, "label": 0}
    for part, locations in (("train", [0, 1]), ("val", [1, 1, 2])):
        files = [f"{part}/{n}.png" for n in range(len(locations))]
        for n, file in enumerate(files):
            save(tmp_path / "images" / file, texture(10 * n + (part == "val")))
        table = pd.DataFrame({"path": files, "class": "port", "location": locations, "split": part, **columns})
        table.to_csv(tmp_path / f"{part}.csv", index=False)
    (tmp_path / "meta.json").write_text(json.dumps({"source": str(tmp_path / "images")}))
    found = audit(tmp_path)
    assert found["location"]["kind"] == "location" and found["location"]["samples"] == 2
    assert (found["location"]["same_name_elsewhere"], found["location"]["position_unknown"]) == (0, 1)
    assert (found["exact"]["samples"], found["near"]["samples"]) == (0, 0)
    assert found["classes"]["counts"] == {"port": [2, 3]}


@pytest.mark.parametrize(("east", "same"), [(10.001, True), (11, False)])
def test_locations_of_one_name_are_one_place_only_where_they_lie_together(tmp_path, east, same):
    for part, longitude in (("train", 10), ("val", east)):
        file = tmp_path / part / "port" / "port_0" / "port_0_0_rgb.jpg"  # names start anew in each split
        save(file, texture(len(part)))
        place = f"POLYGON (({longitude} 5, {longitude} 5.001, {longitude} 5))"
        file.with_suffix(".json").write_text(json.dumps({"timestamp": "2016-02-13T09:30:00Z", "raw_location": place}))
    made = call_script("preprocessing/make_fmow_csv.py", "--data-dir", tmp_path, "--out-dir", tmp_path / "csv")
    assert made.returncode == 0, made.stderr
    found = audit(tmp_path / "csv")
    assert found["overlap"]["samples"] == found["location"]["samples"] == found["location"]["locations_shared"] == same
    assert (found["location"]["same_name_elsewhere"], found["location"]["position_unknown"]) == (not same, 0)


BAD = {
    "nothing named": ([], "name a folder of lists"),
    "too many": (["a", "b", "c"], "name a folder of lists"),
    "both forms": (["a", "--coco", "b", "c"], "name a folder of lists"),
    "images without coco": (["a", "--coco-images", "b", "c"], "--coco-images requires --coco"),
    "a share above all": (["a", "--max-overlap", "101"], "percentage"),
    "a picture of nothing": (["a", "--no-pixels", "--picture", "x.png"], "--picture cannot be combined"),
    "no list": (["{tmp}"], "make_sn7_csv.py"),
    "no folder": (["{tmp}/a", "{tmp}/b"], "no folder"),
    "no images": (["{tmp}", "{tmp}"], "audit_split.py FOLDER"),
    "no coco file": (["--coco", "{tmp}/a.json", "{tmp}/b.json"], "no COCO file"),
    "not coco": (["--coco", "{tmp}/x.json", "{tmp}/x.json"], "not a COCO file"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_audited_ends_with_exit_code_2_and_a_clear_message(tmp_path, case):
    (tmp_path / "x.json").write_text("[1]")
    arguments, message = BAD[case]
    ran = call_script(SCRIPT, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "{out}/val.csv"], "use .json"), (["--json", "{out}/meta.json"], "meta.json is an input"),
        (["--picture", "{data}/c0/0.png"], "0.png is an input of the audit"),
    ],
)  # fmt: skip
def test_outputs_that_are_inputs_are_refused(folders, tmp_path, options, message):
    out, data = tmp_path / "lists", folders / "train"
    words = ["--data-dir", str(data), "--out-dir", str(out), "--val-fraction", "0.3"]
    make_folder_split.main(make_folder_split.get_parser().parse_args(words))
    before = {path: path.read_bytes() for folder in (out, data) for path in folder.rglob("*") if path.is_file()}
    words = [word.format(out=out, data=data) for word in [str(out), *options]]
    with pytest.raises(ValueError, match=message):
        audit_split.main(audit_split.get_parser().parse_args(words))
    with pytest.raises(ValueError, match="is in the folder of images"):
        audit_split.main(audit_split.get_parser().parse_args([str(data), str(data), "--picture", str(data / "a.png")]))
    assert before == {path: path.read_bytes() for path in before}


# The README's column "at least"; benchmarks/bench_audit.py measures the rates on thousands of images.
PLANTS = {
    "re-encoded": (lambda pixels: jpeg(pixels), 0.97),
    "turned and flipped": (lambda pixels: np.rot90(pixels)[:, ::-1], 0.995),
    "shifted by 1 + 1": (lambda pixels: moved(pixels, 1, 1), 0.99),
    "shifted by 2 + 2": (lambda pixels: moved(pixels, 2, -2), 0.99),
    "all of it": (lambda pixels: jpeg(moved(np.rot90(pixels)[:, ::-1], 1, -1)), 0.94),
}


def real_images(real_data, kind):
    """400 real images: one from each of 40 EuroSAT places of a class, or SN7 patches of different places."""
    if kind == "EuroSAT":
        files = [path for folder in sorted((real_data / "EuroSAT" / "2750").glob("*")) for path in
                 sorted(folder.glob("*.jpg"))[:40]]  # fmt: skip
        return [samples.open_image(path) for path in files]
    from vicreg.data.sn7_format import cut_patches, read_mosaic

    firsts = [min(folder.glob("images/*.tif")) for folder in sorted((real_data / "sn7_128" / "train").glob("L15*"))]
    patches = [patch for path in firsts[:25] for patch in cut_patches(read_mosaic(path))]
    return [np.ascontiguousarray(patch.transpose(1, 2, 0)) for patch in patches]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["EuroSAT", "SN7"])
def test_planted_copies_of_real_images_are_found_at_the_rates_the_readme_states(real_data, kind):
    images = real_images(real_data, kind)
    if not images:
        pytest.skip(f"no {kind} images at {real_data}")
    train = samples.Subset("train", ["t"] * len(images), images.__getitem__, None, None)
    kept = compare.fingerprint(train, (0,), False, 1, "").contrast >= 2
    for name, (change, rate) in PLANTS.items():
        copies = [np.ascontiguousarray(change(image)) for image in images]
        val = samples.Subset("val", ["v"] * len(images), copies.__getitem__, None, None)
        found = compare.compare(train._replace(classes={}), val._replace(classes={}))
        right = [v == t for v, t, _ in found["near"]["pairs"] + found["exact"]["pairs"] if kept[v]]
        assert sum(right) >= rate * kept.sum(), name
    new = samples.Subset("val", ["v"] * 200, images[::2].__getitem__, {}, None)
    others = samples.Subset("train", ["t"] * 200, images[1::2].__getitem__, {}, None)
    assert compare.compare(others, new)["near"]["fraction"] <= 0.01


@pytest.mark.real_data
@pytest.mark.slow
def test_by_image_every_validation_place_of_spacenet_7_is_in_training_and_by_block_none(real_data, tmp_path):
    tree = real_data / "sn7_128" / "train"
    if not tree.is_dir():
        pytest.skip(f"no SN7 tree at {tree}")
    shares = {}
    for rule in ("image", "block"):
        call_script(MAKE, "--data-dir", tree, "--out-dir", tmp_path / rule, "--split", rule)
        shares[rule] = audit(tmp_path / rule, *(["--no-pixels"] if rule == "image" else []))
    assert shares["image"]["location"]["fraction"] == 1 and shares["image"]["location"]["locations_shared"] == 960
    assert shares["block"]["location"]["fraction"] == 0
    assert shares["block"]["exact"]["samples"] == shares["block"]["near"]["samples"] == 0
