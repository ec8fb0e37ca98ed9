"""fMoW: names, months and positions, prepared lists, problems of a tree, and the data set."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from preprocessing import make_fmow_csv
from preprocessing.fmow.index import channel_statistics
from vicreg.data.fmow import COLUMNS, fmow_images, parse_image_name, read_image_list, read_timestamp
from vicreg.data.image_dataset import ImageDataset
from vicreg.data.tables import verify_folder


def write_image(tree, split, kind, place, k, color=(60, 120, 180), month="2016-02"):
    """Write one image; its JSON too, unless month is None."""
    folder = tree / split / kind / f"{kind}_{place}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}_{place}_{k}_rgb.jpg"
    Image.new("RGB", (20, 16), color).save(path, quality=98)
    if month:
        content = {"timestamp": f"{month}-13T09:30:00Z", "gsd": 0.5}
        path.with_suffix(".json").write_text(json.dumps(content))
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes, four locations of three months in training; three locations in validation."""
    tree = tmp_path / "FMOW"
    for kind, place in [("airport", 0), ("airport", 1), ("crop_field", 0), ("crop_field", 7)]:
        for k in range(3):
            write_image(tree, "train", kind, place, k, (20 * place, 100, 7 * k), f"2016-{4 * k + 1:02d}")
    for kind, place in [("airport", 0), ("airport", 1), ("crop_field", 3)]:
        write_image(tree, "val", kind, place, 0)
    return tree


def prepare(tree, out, *more):
    make_fmow_csv.main(make_fmow_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out), *more]))
    return out


def test_parse_image_name_returns_class_location_and_number():
    assert parse_image_name("airport_12_3_rgb.jpg") == ("airport", "airport_12", 3)
    name = parse_image_name("single-unit_residential_0_10_rgb.JPG")
    assert name == ("single-unit_residential", "single-unit_residential_0", 10)
    for wrong in ("airport_12_3_msrgb.jpg", "airport_12_rgb.jpg", "12_3_rgb.jpg", "airport_12_3_rgb.png"):
        with pytest.raises(ValueError, match="not an fMoW image name"):
            parse_image_name(wrong)


def test_read_timestamp_returns_month_and_position(tmp_path):
    path = tmp_path / "a_rgb.json"
    assert read_timestamp(path) == (0, 0, None)
    path.write_text('{"timestamp": "2015-07-25T14:23:52Z", "raw_location": "POLYGON ((2.0 48.5, 2.5 48.5, 2.5 49))"}')
    assert read_timestamp(path) == (2015, 7, [2.25, 48.75])
    path.write_text(
        '\ufeff{"timestamp": "2015-07-25", "raw_location": "POLYGON ((1e-05 -2.5E+1, 3e-05 -2.5E+1, 1e-05 -24))"}',
        encoding="utf-8",
    )
    assert read_timestamp(path)[2] == pytest.approx([2e-5, -24.5])
    ring = "179.998 -17, -179.996 -17, -179.996 -16.99"  # across 180 degrees
    path.write_text(f'{{"timestamp": "2015-07-25", "raw_location": "POLYGON (({ring}))"}}')
    assert read_timestamp(path)[2] == pytest.approx([180.001, -16.995])
    path.write_text('{"timestamp": "2015-07-25"}')
    assert read_timestamp(path) == (2015, 7, None)
    for wrong in ("", "[]", "{}", '{"timestamp": 5}', '{"timestamp": "25.7.2015"}', '{"timestamp": "2015-13-01"}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="a_rgb.json: no JSON with a timestamp"):
            read_timestamp(path)


def test_make_fmow_csv_writes_lists_with_locations_and_months(tree, tmp_path, capsys):
    write_image(tree, "train", "airport", 0, 9).rename(tree / "train/airport/airport_0/airport_0_9_msrgb.jpg")
    (tree / "train/airport/airport_0/.airport_0_8_rgb.jpg").write_text("hidden")
    out = prepare(tree, tmp_path / "csv")
    assert sorted(path.name for path in out.iterdir()) == ["meta.json", "train.csv", "val.csv"]
    table, meta = read_image_list(out / "train.csv")
    assert list(table) == COLUMNS and len(table) == 12 and meta["classes"] == ["airport", "crop_field"]
    assert table.iloc[7].tolist() == [
        "train/crop_field/crop_field_0/crop_field_0_1_rgb.jpg", "crop_field", "crop_field_0", 1, 2016, 5, 1, "train",
    ]  # fmt: skip
    assert table.year.tolist() == [2016] * 12 and table.month.tolist() == [1, 5, 9] * 4
    assert len(read_image_list(out / "val.csv")[0]) == 3
    said = capsys.readouterr().out
    assert "train: 12 images of 4 locations (0 with a single image) in 2 classes; 12 with a timestamp, 2016-01" in said
    assert "  python vicreg/main_vicreg_fmow.py --csv-dir /" in said and "problems left out: none" in said


def test_make_fmow_csv_channel_statistics_match_the_pixels(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for n, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    dataset = ImageDataset([tmp_path / f"{n}.png" for n in range(5)], [0] * 5, ["a"], side=16)
    mean, std = channel_statistics(dataset, batch_size=2)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)) / 255)
    black = tmp_path / "black.png"
    Image.new("RGB", (8, 8)).save(black)
    assert channel_statistics(ImageDataset([black], [0], ["a"], side=8)) == ([0.0] * 3, [1 / 255] * 3)


def test_make_fmow_csv_statistics_sample_is_seeded_and_from_training_images(tree, tmp_path):
    def of(seed):
        return read_image_list(
            prepare(tree, tmp_path / seed, "--stats-images", "4", "--seed", seed) / "train.csv"
        )[1]  # fmt: skip

    first = of("0")
    assert first["stats_images"] == 4 and abs(first["mean"][1] * 255 - 100) < 2  # validation's green is 120
    assert of("0")["mean"] == first["mean"] and of("1")["mean"] != first["mean"]


BAD = {
    "unreadable name": lambda tree: (tree / "train/airport/airport_0/scene_rgb.jpg").write_text("x"),
    "empty folder": lambda tree: (tree / "train/airport/airport_5").mkdir(),
    "other location": lambda tree: (tree / "train/airport/airport_0/airport_0_0_rgb.jpg").rename(
        tree / "train/airport/airport_1/airport_0_0_rgb.jpg"
    ),
    "broken image": lambda tree: (tree / "train/airport/airport_0/airport_0_1_rgb.jpg").write_bytes(b"\xff\xd8\xff"),
    "JSON without time": lambda tree: (tree / "train/airport/airport_0/airport_0_1_rgb.json").write_text("{}"),
}


@pytest.mark.parametrize("kind", BAD)
def test_make_fmow_csv_reports_bad_files_and_stops_or_skips_them(tree, tmp_path, kind, capsys):
    BAD[kind](tree)
    out = tmp_path / "csv"
    with pytest.raises(ValueError, match="--on-error skip"):
        prepare(tree, out)
    assert f"1 problem: 1 x {kind}" in capsys.readouterr().err and not out.exists()
    prepare(tree, out, "--on-error", "skip")
    assert f"problems left out: 1 x {kind}" in capsys.readouterr().out
    table = read_image_list(out / "train.csv")[0]
    assert len(table) == (11 if kind in ("other location", "broken image") else 12)
    assert (table.year == 0).sum() == (kind == "JSON without time")


def test_make_fmow_csv_reports_a_class_without_locations(tree, tmp_path, capsys):
    (tree / "train" / "zoo").mkdir()
    prepare(tree, tmp_path / "csv", "--on-error", "skip")
    assert f"{tree}/train/zoo: it contains no location folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--splits", "train", "test"], "no folder .*/test; there are train, val; name the folders with --splits"),
        (["--splits", "train", "train"], "every name must occur once"),
        (["--workers", "0"], "--workers 0"),
        (["--stats-images", "0"], "--stats-images 0"),
    ],
)
def test_make_fmow_csv_reports_user_errors(tree, tmp_path, arguments, words):
    with pytest.raises((ValueError, OSError), match=words):
        prepare(tree, tmp_path / "csv", *arguments)


def test_make_fmow_csv_refuses_a_split_without_usable_images(tree, tmp_path):
    for path in tree.glob("val/*/*/*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match="no usable image in .*/val"):
        prepare(tree, tmp_path / "csv", "--on-error", "skip")


def test_fmow_images_temporal_pairs_show_one_location_within_the_limit(tree, tmp_path):
    out = prepare(tree, tmp_path / "csv")
    dataset = fmow_images(out / "train.csv", "temporal", side=16)
    found = {dataset.positive_index(3, sample_seed) for sample_seed in range(20)}
    assert found == {4, 5} and dataset.location_ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    near = fmow_images(out / "train.csv", "temporal", max_months_apart=4, side=16)
    assert {near.positive_index(3, sample_seed) for sample_seed in range(20)} == {4}
    assert dataset.images([0]).shape == (1, 3, 16, 16) and dataset.labels.tolist() == [0] * 6 + [1] * 6


def test_fmow_images_needs_months_only_for_a_limit(tree, tmp_path):
    for path in tree.glob("train/airport/airport_0/*.json"):
        path.unlink()
    out = prepare(tree, tmp_path / "csv")
    assert fmow_images(out / "train.csv", "temporal").positive_index(0, 0) in (1, 2)
    with pytest.raises(ValueError, match="3 of 12 in .*train.csv have no timestamp .*airport_0_0_rgb.jpg"):
        fmow_images(out / "train.csv", "temporal", max_months_apart=3)


def test_fmow_images_reads_the_tree_of_the_list_or_of_data_dir(tree, tmp_path):
    out = prepare(tree, tmp_path / "csv")
    tree.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="--data-dir is the fMoW tree"):
        fmow_images(out / "val.csv")
    assert len(fmow_images(out / "val.csv", data_dir=tmp_path / "moved").images([0, 1])) == 2


def test_changed_lists_are_noticed(tree, tmp_path):
    out = prepare(tree, tmp_path / "csv")
    assert verify_folder(out) == f"{out}: train.csv, val.csv are as they were written"
    lines = (out / "val.csv").read_text().splitlines()
    (out / "val.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(ValueError, match="val.csv is missing or was changed"):
        verify_folder(out)
    (out / "val.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=f"val.csv has {len(lines) - 2} rows, meta.json says {len(lines) - 1}"):
        fmow_images(out / "val.csv")


def test_read_image_list_refuses_incomplete_lists(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="make_fmow_csv.py --data-dir FMOW"):
        read_image_list(tmp_path / "train.csv")
    out = prepare(tree, tmp_path / "csv")
    prepare(tree, out, "--splits", "train")
    with pytest.raises(ValueError, match="older than its meta.json, which has no split val"):
        read_image_list(out / "val.csv")
    pd.DataFrame({"path": ["a"]}).to_csv(out / "train.csv")
    with pytest.raises(ValueError, match="columns missing: class"):
        read_image_list(out / "train.csv")
    (out / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="meta.json"):
        read_image_list(out / "train.csv")
