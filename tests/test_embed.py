"""embed.py: tables of embeddings with positions, the nearest rows, and feature maps of rasters."""

import json
import os

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint

from preprocessing.sn7.geocode import xyz_tile_bounds
from tests.imagery_fixtures import ground, prepare, write_raster
from vicreg import embed, main_vicreg_imagery
from vicreg.augmentations.functional import crop_resize
from vicreg.data.base import InputSpec
from vicreg.data.imagery import ImageryPatches
from vicreg.data.images import open_reader
from vicreg.data.rasters import ImageReader
from vicreg.data.sn7 import SN7Patches
from vicreg.data.sn7_format import parse_aoi_name
from vicreg.engine.checkpoint import save_backbone
from vicreg.eval.features import embed_images, extract_features
from vicreg.inference.embeddings import nearest, write_table
from vicreg.inference.feature_map import write_feature_map
from vicreg.inference.positions import image_columns
from vicreg.models.backbones import create_backbone, load_backbone
from vicreg.models.weight_files import read_record, recorded_levels

CPU = torch.device("cpu")
NORMAL = ["--mean", *["0.1"] * 13, "--std", *["0.1"] * 13]


def run(*words):
    embed.main(embed.get_parser().parse_args([str(word) for word in words]))


def features(out, *words, arch="test_resnet"):
    run("--pretrained", "random", "--arch", arch, "--device", "cpu", "--out", out, *words)


def test_sn7_table_holds_the_features_of_evaluation_with_dates_and_positions(sn7_prepared, tmp_path):
    features(tmp_path / "a.parquet", "--csv-dir", sn7_prepared, "--image-size", "16")
    table = geopandas.read_parquet(tmp_path / "a.parquet")
    dataset = SN7Patches(sn7_prepared / "all.csv")
    backbone, _ = load_backbone("random", "test_resnet")
    expected = extract_features(backbone, dataset, InputSpec(16, dataset.mean, dataset.std), CPU)
    np.testing.assert_allclose(np.stack(table.embedding), expected.numpy(), atol=1e-5)
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert schema.field("date").type == pa.date32()
    assert str(table.date[0]) == f"{dataset.table.year[0]}-{dataset.table.month[0]:02d}-01"
    assert table.path[0].startswith(f"{dataset.table.aoi[0]}/images/global_monthly_")
    points = table.set_crs("EPSG:4326", allow_override=True).to_crs("EPSG:3857").geometry
    for aoi, patch, point in zip(dataset.table.aoi, dataset.table.patch, points, strict=True):
        left, _, right, top = xyz_tile_bounds(*parse_aoi_name(aoi))
        side = (right - left) / 4
        wanted = left + (patch % 4 + 0.5) * side, top - (patch // 4 + 0.5) * side
        assert (point.x, point.y) == pytest.approx(wanted, abs=1e-3)


def test_prepared_imagery_of_any_depth_gets_the_centers_of_its_cells(tmp_path):
    for number, date in enumerate(("20210601", "20220601")):
        write_raster(tmp_path / "scenes" / f"S2_{date}.tif", ground(4, 64, 96, seed=number), column=7, row=5)
    listed, pixels, meta = prepare(tmp_path / "scenes", tmp_path / "csv", "--patch-size", "32", "--split", "none")
    features(tmp_path / "a.parquet", "--csv-dir", tmp_path / "csv", "--in-chans", "4", "--image-size", "32")
    table = geopandas.read_parquet(tmp_path / "a.parquet")
    assert len(table) == len(pixels) == 12 and pixels.dtype == np.uint16
    assert sorted(map(str, table.date.unique())) == ["2021-06-01", "2022-06-01"]
    assert list(table.location) == list(listed.location)
    points = table.to_crs("EPSG:32633").geometry
    east = sorted(set(points.x.round().astype(int)))
    assert east == [500000 + 10 * (7 + 16 + 32 * n) for n in range(3)]
    backbone, _ = load_backbone("random", "test_resnet", 4)
    assert ImageryPatches(tmp_path / "csv" / "all.csv").levels == (0, 65535)  # what a checkpoint records for --image
    images = torch.from_numpy(pixels[listed.row].astype(np.float32) / 65535)
    mean, std = (torch.tensor(meta[key])[:, None, None] for key in ("mean", "std"))
    boxes = torch.tensor([[2.0, 2, 28, 28]]).expand(len(images), 4)  # evaluation takes the center, 7/8 of the side
    with torch.no_grad():
        expected = backbone.eval()((crop_resize(images, boxes, 32) - mean) / std)
    assert np.stack(table.embedding).shape == (12, expected.shape[1])
    np.testing.assert_allclose(np.stack(table.embedding), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """Five PNGs in two folders; a truncated one among them."""
    random = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return tmp_path / "images"


def test_unreadable_files_are_left_out_of_the_table_and_listed(folder, tmp_path):
    with pytest.raises(ValueError, match="1 of 5 images could not be processed: .*4.png cannot be read"):
        features(tmp_path / "a.parquet", "--data-dir", folder, "--image-size", "32")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table.path) == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"]
    assert "geometry" not in table and np.isfinite(np.stack(table.embedding)).all()
    record = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"vicreg"])
    assert record["arch"] == "test_resnet" and record["image_size"] == 32


def test_a_folder_of_rasters_gets_positions_where_there_is_a_georeference(tmp_path):
    write_raster(tmp_path / "in" / "a.tif", ground(13, 32, 32))
    write_raster(tmp_path / "in" / "b.tif", ground(13, 32, 32, seed=1), crs=None)
    options = ["--data-dir", tmp_path / "in", "--in-chans", "13", "--image-size", "28", "--levels", "0", "10000"]
    features(tmp_path / "a.parquet", *options, *NORMAL)
    table = geopandas.read_parquet(tmp_path / "a.parquet")
    center = table.to_crs("EPSG:32633").geometry[0]
    assert (center.x, center.y) == pytest.approx((500160, 5600000 - 160), abs=1e-3)
    assert table.geometry[1] is None
    with pytest.raises(ValueError, match="--bands 1 2 3: the network takes 13 channels, so 13 numbers are needed"):
        features(tmp_path / "a.parquet", *options, *NORMAL, "--bands", "1", "2", "3")
    with pytest.raises(ValueError, match="random records no mean and std; name them with --mean and --std"):
        features(tmp_path / "a.parquet", *options)


def test_ground_control_points_give_a_position_as_a_transform_does(tmp_path):
    path = write_raster(tmp_path / "gcps.tif", ground(1, 20, 40), crs=None)
    corners = [(0, 0), (0, 40), (20, 0), (20, 40)]
    points = [GroundControlPoint(row, column, 12 + column / 100, 50 - row / 100) for row, column in corners]
    with rasterio.open(path, "r+") as raster:
        raster.gcps = points, rasterio.crs.CRS.from_epsg(4326)
    table = image_columns([str(path)])
    assert (table.longitude[0], table.latitude[0]) == pytest.approx((12.2, 49.9), abs=1e-6)


def table_of(path, vectors, names):
    columns = pd.DataFrame({"path": names, "longitude": np.nan, "latitude": np.nan})
    write_table(path, columns, [(np.arange(len(vectors)), vectors)], vectors.shape[1], {})


def test_knn_lists_the_rows_of_highest_cosine_similarity(tmp_path, capsys):
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    table_of(tmp_path / "a.parquet", vectors, [f"x/{n}.png" for n in range(49)] + ["y/3.png"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit[7]
    found = nearest(tmp_path / "a.parquet", "7.png", 5)
    assert found.row.tolist() == [row for row in np.argsort(-similarity) if row != 7][:5]
    np.testing.assert_allclose(found.similarity, similarity[found.row], rtol=1e-5)
    pd.testing.assert_frame_equal(nearest(tmp_path / "a.parquet", "7", 5), found)
    run("--knn", "x/7.png", "--k", "2", "--out", tmp_path / "a.parquet")
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3 and shown[1].split()[0] == str(found.row[0])
    with pytest.raises(ValueError, match=r"--knn 3.png: 2 rows of .* have this path; name one row: 3, 49"):
        nearest(tmp_path / "a.parquet", "3.png")
    with pytest.raises(ValueError, match=r"--knn 50: no such path in .*, and no row number \(0 to 49\)"):
        nearest(tmp_path / "a.parquet", "50")


def test_knn_refuses_other_files(tmp_path):
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(ValueError, match="a.parquet cannot be read as Parquet"):
        nearest(tmp_path / "a.parquet", "0")
    pd.DataFrame({"path": ["a"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet has no columns path and embedding"):
        nearest(tmp_path / "b.parquet", "0")
    os.mkfifo(tmp_path / "d.parquet")
    for name in ("c.parquet", "d.parquet"):
        with pytest.raises(FileNotFoundError, match=name):
            nearest(tmp_path / name, "0")
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(2, dtype=np.float32).ravel()), 2)
    pq.write_table(pa.table({"path": pa.array(["a.png", None]), "embedding": embedding}), tmp_path / "e.parquet")
    assert nearest(tmp_path / "e.parquet", "a.png").row.tolist() == [1]
    names = pa.array([b"a.png", b"\xff.png"]).view(pa.string())
    pq.write_table(pa.table({"path": names, "embedding": embedding}), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"e.parquet cannot be read as Parquet .*UTF"):
        nearest(tmp_path / "e.parquet", "0")


def test_feature_map_lies_on_cells_of_the_stride_and_is_empty_without_data(tmp_path):
    pixels = ground(13, 80, 100)
    pixels[:, :, :40] = 0
    scene = write_raster(tmp_path / "scene.tif", pixels, nodata=0)
    words = ["--image", scene, "--in-chans", "13", "--patch-size", "16", "--stride", "8", "--levels", "0", "10000"]
    features(tmp_path / "map.tif", *words, *NORMAL, "--components", "0", "--batch-size", "5")
    features(tmp_path / "pca.tif", *words, *NORMAL)
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "map.tif") as found:
        values = found.read()
        assert found.shape == (10, 13) and found.crs == source.crs and found.res == (80, 80)
        assert found.bounds.left == source.bounds.left and found.bounds.top == source.bounds.top
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.tags()["pretrained"] == "random" and found.tags()["stride"] == "8"
    assert np.isnan(values[:, :, :4]).all() and np.isfinite(values[:, :, 6:]).all()
    backbone, info = load_backbone("random", "test_resnet", 13)
    with open_reader(scene, bands=13, levels=(0, 10000), deep=True) as reader:
        window = torch.from_numpy(reader.read(28, 60, 16, 16)[0])  # around the cell of rows 32 to 39, columns 64 to 71
    assert window.dtype == torch.uint16
    expected = embed_images(backbone.eval(), window[None], InputSpec(16, [0.1] * 13, [0.1] * 13), CPU)[0]
    np.testing.assert_allclose(values[:, 4, 8], expected.numpy(), atol=1e-4)
    with rasterio.open(tmp_path / "pca.tif") as found:
        components = found.read()
        explained = json.loads(found.tags()["pca_explained_variance"])
        assert found.count == 3 and found.descriptions[0] == f"PCA 1 ({explained[0]:.1%})" and np.isnan(found.nodata)
    cells = np.isfinite(values[0])
    centered = values[:, cells].T - values[:, cells].T.mean(0)  # all cells are in the sample
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(components[:, cells].T), np.abs(centered @ axes[:3].T), atol=1e-3)


def test_levels_of_each_band_make_a_map_equal_to_the_embeddings_of_the_prepared_patches(tmp_path):
    pixels = ground(4, 32, 48) * np.float32([[[1]], [[3]], [[0.1]], [[-20]]]) + 500
    scene = write_raster(tmp_path / "scenes" / "a.tif", pixels)
    cut = ["--patch-size", "16", "--split", "none", "--scale", "p2,p98"]
    _, stored, meta = prepare(tmp_path / "scenes", tmp_path / "csv", *cut)
    dataset = ImageryPatches(tmp_path / "csv" / "all.csv")
    assert len(set(dataset.levels)) == 4 and [list(pair) for pair in dataset.levels] == meta["scale"]
    with open_reader(scene, bands=4, levels=dataset.levels, deep=True) as reader:
        assert np.array_equal(reader.read(0, 0, 16, 16)[0], stored[0])
    words = "--device cpu --workers 0 --epochs 1 --batch-size 4 --arch test_resnet --mlp 8-8".split()
    words += ["--csv-dir", tmp_path / "csv", "--exp-dir", tmp_path / "run"]
    main_vicreg_imagery.main(main_vicreg_imagery.get_parser().parse_args(list(map(str, words))))
    weights = tmp_path / "run" / "trained_model.pth"
    assert recorded_levels([read_record(weights)]) == dataset.levels
    words = ["--image", scene, "--patch-size", "16", "--stride", "16", "--components", "0", "--device", "cpu"]
    run("--pretrained", weights, *words, "--out", tmp_path / "a.tif")
    backbone, info = load_backbone(weights)
    spec = InputSpec(16, info["mean"], info["std"])
    expected = embed_images(backbone.eval(), dataset.images(range(6)), spec, CPU).numpy()
    with rasterio.open(tmp_path / "a.tif") as found:
        np.testing.assert_allclose(found.read().reshape(expected.shape[1], -1).T, expected, atol=1e-5)
    few = write_raster(tmp_path / "few.tif", pixels[:3])
    with pytest.raises(ValueError, match="the weights record levels of 4 bands, and 3 are read"):
        open_reader(few, bands=3, levels=dataset.levels)


def test_feature_map_reads_a_part_of_the_raster_at_a_time(tmp_path):
    class Reader(ImageReader):
        largest = 0

        def read(self, top, left, height, width, out_shape=None):
            self.largest = max(self.largest, height * width)
            return super().read(top, left, height, width, out_shape)

    reader = Reader(np.random.default_rng(0).integers(0, 256, (3, 64, 512), dtype=np.uint8))
    result = write_feature_map(tmp_path / "a.tif", reader, lambda x: x.reshape(len(x), 3, -1).mean(2), 16, 8, 2, 0, 4)
    assert result["shape"] == (8, 64) and reader.largest == 16 * (16 + 3 * 8)
    first = (tmp_path / "a.tif").read_bytes()
    write_feature_map(tmp_path / "a.tif", reader, lambda x: x.reshape(len(x), 3, -1).mean(2), 16, 8, 2, 0, 4)
    assert (tmp_path / "a.tif").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data-dir . --out a.csv", "--out a.csv: the table ends in .parquet"),
        ("--image scene.tif --out a.parquet", "--out a.parquet: the feature map ends in .tif"),
        ("--out a.parquet --pretrained random", "one of --csv-dir, --data-dir and --image are needed"),
        ("--data-dir . --out a.parquet", "--pretrained and one of"),
        ("--image a.tif --out b.tif --pretrained stats --stride 300", "--stride 300 leaves gaps"),
        ("--image a.tif --out b.tif --pretrained stats --components -1", "--components -1: 0 or more"),
        ("--image no.tif --out a.tif --pretrained stats", "no raster at no.tif"),
        ("--data-dir nowhere --out a.parquet --pretrained stats", "no folder nowhere"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(*words.split())


def test_channels_of_the_weights_can_be_selected(folder, tmp_path):
    path = tmp_path / "five.pth"
    network = create_backbone("test_resnet", 5)
    save_backbone(path, network, "test_resnet", 5, [0.5] * 5, [0.2] * 5, "a test")
    (folder / "a" / "4.png").unlink()
    words = ["--pretrained", path, "--data-dir", folder, "--image-size", "16", "--device", "cpu"]
    run(*words, "--weight-bands", "3", "2", "1", "--out", tmp_path / "a.parquet")
    record = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"vicreg"])
    assert len(record["mean"]) == 3 and record["bands"] is None
    with pytest.raises(ValueError, match=r"4 of 4 images|none of 4 images can be read"):
        run(*words, "--out", tmp_path / "b.parquet")


def test_feature_map_does_not_replace_its_image(tmp_path):
    scene = write_raster(tmp_path / "scene.tif", ground(3, 32, 32).astype(np.uint8))
    with pytest.raises(ValueError, match="would replace the image"):
        features(scene, "--image", scene, "--patch-size", "16")
    with pytest.raises(ValueError, match="less than one window of 64"):
        features(tmp_path / "a.tif", "--image", scene, "--patch-size", "64")
