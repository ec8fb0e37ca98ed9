"""Reduce a mosaic by averaging blocks of pixels."""

from pathlib import Path

import numpy as np

from preprocessing.sn7.index import Mosaic
from vicreg.common import files
from vicreg.data import rasters
from vicreg.data.images import open_reader
from vicreg.data.resampling import read_means


def reduce_mosaic(mosaic: Mosaic, target: Path, size: int) -> None:
    """Write the mean of each block of pixels as an RGB GeoTIFF; a mosaic one row short becomes a square too.

    A pixel is no data if its alpha is 0 or all of its bands have the file's no-data value.

    Raises:
        ValueError: The pixels cannot be read.
    """
    import rasterio
    from rasterio.control import GroundControlPoint

    try:
        with open_reader(mosaic.path) as reader:
            edges = (np.arange(size + 1) * side / size for side in (reader.height, reader.width))
            pixels, has_data = read_means(reader.read, *edges)
        with rasterio.open(mosaic.path, driver="GTiff") as raster:
            nodata = raster.nodata
            profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8"}
            profile |= {"compress": "deflate", "photometric": "RGB", "crs": raster.crs, "nodata": nodata}
            across, down = raster.width / size, raster.height / size
            if not raster.transform.is_identity:
                profile["transform"] = rasters.coarser(raster.transform, across, down)
            elif all(raster.gcps):
                points, profile["crs"] = raster.gcps
                profile["gcps"] = [GroundControlPoint(p.row / down, p.col / across, p.x, p.y, p.z) for p in points]
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # errors of GDAL have no public base class
        raise ValueError(f"{mosaic.path} cannot be read ({error}); fetch it again or remove it") from error
    pixels[:, ~has_data] = nodata or 0

    def save(path: Path) -> None:
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(pixels)

    files.atomic_write(target, save)


def is_complete(path: Path, size: int) -> bool:
    """Return whether a reduced mosaic exists and can be read.

    Raises:
        ValueError: It exists with another size.
    """
    import rasterio

    if not path.exists():
        return False
    try:
        with rasterio.open(path, driver="GTiff") as raster:
            if raster.shape != (size, size):
                raise ValueError(f"{path} has {raster.width} x {raster.height} pixels, not {size} x {size}; "
                                 "choose another --out-dir, or remove the reduced tree")  # fmt: skip
            raster.checksum(1)
    except (ValueError, MemoryError):
        raise
    except Exception:  # errors of GDAL have no public base class
        return False
    return True
