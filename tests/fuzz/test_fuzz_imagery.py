"""Damaged scenes, masks, labels, catalogs and prepared folders of imagery end in an error that names the file."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing import folder_split, make_imagery_csv
from preprocessing.imagery import labels, sources
from preprocessing.sn7 import places
from tests.conftest import write_geojson
from tests.fuzz import mutations
from tests.fuzz.harness import EXAMPLES, check_reader, file_bytes
from tests.imagery_fixtures import ground, prepare, write_raster
from vicreg.data import imagery, tables
from vicreg.data.raster_pack import headers, lists, plan, shards
from vicreg.data.raster_pack.dates import date_finder
from vicreg.data.raster_pack.grids import Grid
from vicreg.data.raster_pack.scenes import choose_bands
from vicreg.inference import embeddings

NAMES = ("A_2020-01.tif", "A_2020-02.tif")


def scene(**options):
    """Return the bytes of a GeoTIFF of three bands."""
    return file_bytes(lambda path: write_raster(path, ground(3, 16, 16), **options), ".tif")


TIFF = scene(descriptions=["B4", "B3", "B2"], nodata=7)
MASK = file_bytes(lambda path: write_raster(path, np.eye(16, dtype=np.uint8)[None]), ".tif")


@functools.cache
def envi():
    """Return the bytes of a raster of ENVI and the text of its header."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_raster(Path(folder, "a.dat"), ground(2, 16, 16), driver="ENVI", nodata=7, descriptions=["x", "y"])
        return path.read_bytes(), path.with_suffix(".hdr").read_text()


@functools.cache
def vrt():
    """Return the text of a VRT of a.tif."""
    from rasterio.shutil import copy

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tif")
        path.write_bytes(TIFF)
        copy(path, path.with_suffix(".vrt"), driver="VRT")
        return path.with_suffix(".vrt").read_text()


@functools.cache
def prepared():
    """Return the files of a folder of make_imagery_csv.py, and of its unfinished work, by name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary, "scenes"), Path(temporary, "out")
        for seed, name in enumerate(NAMES):
            write_raster(folder / name, ground(3, 16, 16, seed))
        table = Path(temporary, "labels.csv")
        table.write_text(f"path,class\n{NAMES[0]},x\n{NAMES[1]},y\n")
        more = ("--labels", table, "--label-column", "class", "--split", "block", "--val-fraction", 0.25)
        prepare(folder, out, "--patch-size", 8, "--buffer", 0, *more)
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        work, (scenes, _) = Path(temporary), read_scenes(folder, headers.PackOptions(8))
        made = plan.make_plan(scenes, headers.PackOptions(8))
        record, *_ = shards.run_shards(made, work)
        return files | {record.name: record.read_bytes()}


def read_scenes(path, options):
    return headers.read_scenes(headers.list_sources(path), options, 1, lambda iterable, total: iterable)


def cut(path, **options):
    """Cut the patches of a scene; what is wrong with it is an error here."""
    options = headers.PackOptions(8, scale=("p2,p98",), **options)
    scenes, problems = read_scenes(path, options)
    if scenes:
        made = plan.make_plan(scenes, options)
        with tempfile.TemporaryDirectory() as folder:
            records = shards.run_shards(made, Path(folder))
            problems = lists.collect(made, records).problems
    if problems:
        raise ValueError(f"{problems[0].path}: {problems[0].message}")


def cut_envi(path):
    path.with_suffix(".dat").write_bytes(envi()[0])
    cut(path.with_suffix(".dat"))


def cut_vrt(path):
    path.with_suffix(".tif").write_bytes(TIFF)
    cut(path)


def cut_masked(path):
    """Cut a scene with a damaged cloud mask; the mask is not a scene."""
    (path.parent / "a.tif").write_bytes(TIFF)
    cut(path.parent, cloud_mask="{stem}_cloud.tif")


def open_folder(path):
    """Read all patches of a prepared folder of which one file is damaged."""
    for name, content in prepared().items():
        if name != path.name and not (path.parent / name).exists():
            (path.parent / name).write_bytes(content)
    patches = imagery.ImageryPatches(path if path.suffix == ".csv" else path.parent / "all.csv", "temporal", 60)
    patches.images(list(range(len(patches))))
    assert len(patches.names()) == len(patches.sample_info(range(len(patches)))["date"]) == len(patches)
    patches.positive_index(0, 1)
    if path.name == "train.csv":
        imagery.labeled_sets(path.parent)
    else:
        embeddings.open_patches(path.parent)


def verify(path):
    """Compare a prepared folder with a damaged meta.json."""
    open_folder(path)
    tables.verify_folder(path.parent)


def read_labels(path):
    """Label four patches by a table or by polygons."""
    table = pd.DataFrame(
        {"image_id": ["d/a.tif", "b.tif"] * 2, "grid": 0, "column": [0, 8, 0, 8], "line": [0, 0, 8, 8]}
    )
    table["location"] = table.column.astype(str) + "_" + table.line.astype(str)
    labels.label_patches(table, str(path), "class", [Grid("EPSG:4326", 0.01, 0.01, -121.7, 38.0)], 8)


def polygons():
    content = file_bytes(lambda path: write_geojson(path, [(-121.66, 37.98), (-121.65, 37.97)]), ".geojson")
    content = json.loads(content)
    for number, feature in enumerate(content["features"]):
        feature["properties"] = {"class": f"c{number}"}
    return content


ASSETS = {"B04": {"href": "./B04.tif", "type": "image/tiff", "roles": ["data"]}, "B03": {"href": "s3://b/B03.tif"},
          "thumbnail": {"href": "t.png", "roles": ["thumbnail"]}}  # fmt: skip
ITEM = {"type": "Feature", "id": "S2A", "properties": {"datetime": "2020-01-02T10:00:00Z"}, "assets": ASSETS}
CATALOG = {"type": "FeatureCollection", "features": [ITEM, ITEM | {"id": "S2B"}]}
ADDRESSES = "# scenes\na/b.tif\n/vsicurl/http://x/c.tif\nhttps://x/d.tif\ns3://bucket/e.tif\nfile:///f.tif\n"
PLACES = "aoi,city,state,country\nL15-0331E-1257N_1327_3160_13,Oakley,California,US\nb,London,England,United Kingdom\n"
READERS = {
    "scene": ("a.tif", mutations.damaged_bytes(TIFF, 800), cut),
    "scene, resampled": (
        "a.tif",
        mutations.damaged_bytes(TIFF, 800),
        lambda path: cut(path, resolution=12.0, crs="EPSG:32634", bands=("B2", "1")),
    ),
    "envi header": ("a.hdr", mutations.damaged_text(envi()[1]), cut_envi),
    "vrt": ("a.vrt", mutations.damaged_text(vrt()), cut_vrt),
    "cloud mask": ("a_cloud.tif", mutations.damaged_bytes(MASK, 500), cut_masked),
    "patch list": ("all.csv", mutations.damaged_csv(prepared()["all.csv"].decode()), open_folder),
    "training list": ("train.csv", mutations.damaged_csv(prepared()["train.csv"].decode()), open_folder),
    "meta.json": ("meta.json", mutations.damaged_json(json.loads(prepared()["meta.json"])), verify),
    "shard": ("patches-00000.npy", mutations.damaged_bytes(prepared()["patches-00000.npy"], 128), open_folder),
    "record of a shard": (
        "shard-00000.npz",
        mutations.damaged_bytes(prepared()["shard-00000.npz"]),
        shards.read_record,
    ),
    "stac": ("a.json", mutations.damaged_json(CATALOG), lambda path: sources.find_sources([], path, "B04")),
    "stac stack": (
        "a.json",
        mutations.damaged_json(CATALOG),
        lambda path: sources.find_sources([], path, bands=["B04", "B03"]),
    ),
    "list of scenes": ("a.txt", mutations.damaged_text(ADDRESSES), lambda path: sources.find_sources([], path)),
    "label table": ("a.csv", mutations.damaged_csv("path,class\na.tif,x\nb,y\n"), read_labels),
    "label polygons": ("a.geojson", mutations.damaged_json(polygons()), read_labels),
    "position": (
        "a.tif",
        mutations.damaged_bytes(TIFF, 800),
        lambda path: folder_split.read_longitudes(path.parent, [path.name]),
    ),
    "places": ("places.csv", mutations.damaged_csv(PLACES), places.read_places),
}


@pytest.mark.parametrize("reader", READERS)
def test_imagery_readers_refuse_damaged_files_with_an_error_that_names_them(reader, tmp_path_factory):
    keep = prepared() if READERS[reader][2] in (open_folder, verify) else ()
    check_reader(READERS[reader], tmp_path_factory.mktemp("fuzz"), keep)


pieces = st.sampled_from([*"()[]{}?*+|^$\\.-_%0129²A ", "%Y", "%m", "%b", r"(\d{4})", r"(?P<year>\d+)", "(?P<month>"])
words = st.one_of(st.text(max_size=8), st.lists(pieces, max_size=8).map("".join))


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
@given(words)
def test_patterns_of_users_are_used_or_named(word):
    for option, read in {
        "--date-pattern": lambda: date_finder(word)("d/A_2020-01_x.tif", {"TIFFTAG_DATETIME": word}, ""),
        "--location-pattern": lambda: folder_split.parse_locations(["d/A_1.tif", "B.tif"], word),
        "--shard": lambda: make_imagery_csv._parse_shard(word),
        "no band": lambda: choose_bands([word], ["red", ""]),
    }.items():
        try:
            read()
        except ValueError as error:
            assert option in str(error) or (option == "--location-pattern" and "--split location" in str(error))
