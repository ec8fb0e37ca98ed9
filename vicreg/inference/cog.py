"""Write rasters on the grid of their source as Cloud Optimized GeoTIFFs, window by window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vicreg.common import files
from vicreg.data.rasters import ImageReader, coarser, quiet_georeference

_CACHE_MB = 256  # of GDAL while it copies blocks


def write_cog(
    path: str | Path,
    reader: ImageReader,
    shape: tuple[int, int],
    step: tuple[float, float],
    profile: dict[str, Any],
    fill: Callable[[Any], None],
    overviews: str = "nearest",
) -> None:
    """Write a Cloud Optimized GeoTIFF. The file appears when it is complete.

    The georeference of the source is scaled: its geotransform, or its ground control points. A source without either
    gives a raster without a CRS.

    Args:
        path: File to write.
        reader: Source.
        shape: (rows, columns) of the raster.
        step: Pixels of the source file for each (row, column) of the raster.
        profile: ``count``, ``dtype`` and ``nodata``; ``tiled=False`` if ``fill`` writes row by row.
        fill: Function of the open raster that writes its windows, in any order.
        overviews: Resampling of the overviews.
    """
    import rasterio
    from rasterio import shutil
    from rasterio.control import GroundControlPoint as Gcp

    (rows, columns), (down, across) = shape, step
    profile = {"driver": "GTiff", "height": rows, "width": columns, "interleave": "band", **profile}
    profile |= {"compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    if min(shape) >= 256 and profile.get("tiled", True):
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if reader.transform is not None:
        profile |= {"crs": reader.crs, "transform": coarser(reader.transform, across, down)}
    elif reader.gcps is not None:
        points, crs = reader.gcps
        profile |= {"crs": crs, "gcps": [Gcp(p.row / down, p.col / across, p.x, p.y, p.z) for p in points]}

    def save(tmp_path: Path) -> None:
        draft = tmp_path.with_suffix(".draft.tif")  # a COG is written from the overviews on, so only as a copy
        try:
            with quiet_georeference(), rasterio.Env(GDAL_CACHEMAX=_CACHE_MB):
                with rasterio.open(draft, "w", **profile) as out:
                    fill(out)
                options = {"compress": "deflate", "blocksize": 256, "bigtiff": "if_safer", "resampling": overviews}
                shutil.copy(draft, tmp_path, driver="COG", **options)
        finally:
            draft.unlink(missing_ok=True)

    files.atomic_write(path, save)
