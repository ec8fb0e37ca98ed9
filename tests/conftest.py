"""What tests share: where the repository and the real data are, scripts as subprocesses, and a tiny SN7 tree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# name, months, rows: one mosaic is a row short, as some of SpaceNet-7 are; two AOIs are in one country
TINY_AOIS = [
    ("L15-0331E-1257N_1327_3160_13", 4, 32),  # California; has a label file
    ("L15-1014E-1375N_4056_2688_13", 4, 31),  # England
    ("L15-1025E-1366N_4102_2726_13", 4, 32),  # England; no georeference
    ("L15-1669E-1153N_6678_3579_13", 3, 32),  # China, where the nearest place is in Macao
]


@pytest.fixture(scope="session")
def repo_root():
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data():
    """Folder with real images: $CITIES_REAL_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("CITIES_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set CITIES_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def run_script():
    """Function (path in the repository, arguments, cwd=root) -> CompletedProcess with text output."""

    def run(script, *arguments, cwd=ROOT, timeout=300):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)

    return run


def write_tif(path, pixels, bounds=None):
    """Write uint8 (channels, height, width); bounds in EPSG:3857, None for no georeference."""
    import rasterio

    from preprocessing.scan import quiet_georeference

    channels, height, width = pixels.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": channels, "dtype": "uint8"}
    if bounds:
        left, bottom, right, top = bounds
        transform = rasterio.Affine((right - left) / width, 0, left, 0, (bottom - top) / height, top)
        profile |= {"crs": "EPSG:3857", "transform": transform}
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_georeference(), rasterio.open(path, "w", compress="deflate", **profile) as raster:
        raster.write(pixels)


def write_geojson(path, positions):
    """Write a label file with a small square footprint at every (longitude, latitude)."""
    d = 1e-4
    squares = [[[x - d, y - d], [x + d, y - d], [x + d, y + d], [x - d, y + d], [x - d, y - d]] for x, y in positions]
    features = [
        {"type": "Feature", "properties": {"Id": 0}, "geometry": {"type": "Polygon", "coordinates": [square]}}
        for square in squares
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_tiny_tree(folder, aois=TINY_AOIS, side=32):
    """Write a tree of small RGB mosaics: each AOI has its own colour and each month its own noise."""
    from preprocessing.geocode import xyz_tile_bounds
    from preprocessing.sn7 import parse_aoi_name

    rng = np.random.default_rng(0)
    for aoi, months, rows in aois:
        colour = rng.integers(40, 216, (3, 1, 1))
        bounds = None if "1025E" in aoi else xyz_tile_bounds(*parse_aoi_name(aoi))
        for month in range(1, months + 1):
            pixels = np.clip(colour + rng.integers(-40, 41, (3, rows, side)), 1, 255).astype(np.uint8)
            write_tif(folder / aoi / "images" / f"global_monthly_2018_{month:02d}_mosaic_{aoi}.tif", pixels, bounds)
    name = f"global_monthly_2018_04_mosaic_{TINY_AOIS[0][0]}_Buildings.geojson"
    write_geojson(folder / TINY_AOIS[0][0] / "labels" / name, [(-121.66, 37.98), (-121.65, 37.97)])
    return folder


@pytest.fixture
def sn7_tree(tmp_path):
    """Path of a fresh tiny SN7 tree: 4 AOIs, 3 countries, 15 mosaics of 32 x 32 (one AOI: 31 rows)."""
    return write_tiny_tree(tmp_path / "SN7" / "train")


@pytest.fixture(scope="session")
def sn7_prepared(tmp_path_factory):
    """Path of a folder prepared from the tiny tree by make_sn7_csv, block split; do not write into it."""
    from preprocessing import make_sn7_csv

    folder = tmp_path_factory.mktemp("sn7_prepared")
    tree, out = write_tiny_tree(folder / "train"), folder / "csv"
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(["--data-dir", str(tree), "--out-dir", str(out)]))
    return out
