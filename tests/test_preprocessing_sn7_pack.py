"""Packing SN7 mosaics: channel statistics without black pixels, and label files that are something else."""

import numpy as np
import pytest
import rasterio

from preprocessing.sn7.geocode import footprint_points
from preprocessing.sn7.index import Mosaic
from preprocessing.sn7.pack import channel_statistics, pack_patches
from vicreg.data.rasters import quiet_georeference
from vicreg.data.sn7_format import parse_mosaic_name


def write_mosaic(folder, month, pixels):
    """Write a mosaic of (3 or 4, 8, 8) pixels."""
    name = f"global_monthly_2018_{month:02d}_mosaic_L15-0331E-1257N_1327_3160_13.tif"
    profile = {"driver": "GTiff", "count": len(pixels), "height": 8, "width": 8, "dtype": "uint8"}
    profile |= {"photometric": "RGB"} | ({"alpha": "yes"} if len(pixels) == 4 else {})
    with quiet_georeference(), rasterio.open(folder / name, "w", **profile) as raster:
        raster.write(pixels)
    return Mosaic(folder / name, parse_mosaic_name(name), 8, 8, None, ())


def test_black_transparent_and_empty_months_do_not_enter_the_statistics(tmp_path):
    colors = np.array([51, 102, 204], np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    colors[0, ::2] = 0  # a color may lack one channel
    half_black = colors.copy()
    half_black[:, :, :4] = 0
    transparent = np.concatenate([np.full((3, 8, 8), 250, np.uint8), np.zeros((1, 8, 8), np.uint8)])
    months = [colors, half_black, np.zeros_like(colors), transparent]
    packed = pack_patches([write_mosaic(tmp_path, n + 1, pixels) for n, pixels in enumerate(months)], 2, 1)
    mean, std = channel_statistics(packed, np.ones((4, 4), bool))
    assert mean == pytest.approx([0.1, 0.4, 0.8]) and std == pytest.approx([0.1, 1 / 255, 1 / 255])
    assert packed.pixels.tolist() == [[16] * 4, [0, 16, 0, 16], [0] * 4, [0] * 4]


def test_a_label_file_that_is_no_json_is_not_followed(tmp_path):
    layer = '<OGRVRTLayer name="x"><SrcDataSource>other.geojson</SrcDataSource></OGRVRTLayer>'
    (tmp_path / "a.geojson").write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    with pytest.raises(ValueError, match="a.geojson: cannot be read as GeoJSON, GeoPackage"):
        footprint_points(tmp_path / "a.geojson")
