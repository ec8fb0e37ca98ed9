"""Scenes whose bands are files of their own, such as the assets of a STAC item, as one virtual raster."""

import dataclasses
from collections.abc import Sequence
from xml.sax.saxutils import escape

from vicreg.data.raster_pack.scenes import Scene, open_gdal, read_gdal_header, read_scene

_NO_TRANSFORM = (0.0, 1.0, 0.0, 1.0)


def read_stack(files: Sequence[tuple[str, str]], name: str) -> tuple[Scene, dict[str, str]]:
    """Read the headers of files with one band each, and lay them on the pixels of the first one.

    Files of another resolution are resampled when they are read, bilinear. ``files`` are names and paths of bands.

    Returns:
        The scene, without a date, and the tags of the first file.

    Raises:
        ValueError: A file cannot be used, or they do not show the same ground; the message names the band.
    """
    scenes, tags = [], []
    for band, path in files:
        try:
            scene, band_tags = read_scene(path, band)
        except ValueError as error:
            raise ValueError(f"band {band}: {error}") from error
        if scene.count != 1:
            raise ValueError(f"band {band}: the file has {scene.count} bands, one is needed; see --asset")
        scenes.append(scene)
        tags.append(band_tags)
        if not same_ground(scenes[0], scene):
            raise ValueError(f"band {band}: its extent or coordinate reference system is not that of {files[0][0]}")
    vrt = _describe(files, scenes)
    with open_gdal(vrt) as raster:
        scene = read_gdal_header(raster, files[0][1], name, None, scenes[0].version)
    version = sum(scene.version[0] for scene in scenes), max(scene.version[1] for scene in scenes)
    return dataclasses.replace(scene, vrt=vrt, version=version), tags[0]


def same_ground(first: Scene, other: Scene) -> bool:
    """Return whether the corners of two scenes are less than half a pixel apart, that of the coarser scene."""
    boxes, steps = [], []
    for scene in (first, other):
        left, xres, top, yres = scene.transform or _NO_TRANSFORM
        boxes.append((left, top, left + scene.width * xres, top - scene.height * yres))
        steps.append(max(xres, yres))
    near = all(abs(a - b) < max(steps) / 2 for a, b in zip(*boxes, strict=True))
    return near and _same_crs(first.crs, other.crs) and (first.transform is None) == (other.transform is None)


def _same_crs(first: str, other: str) -> bool:
    from rasterio.crs import CRS

    return first == other or bool(first and other and CRS.from_wkt(first) == CRS.from_wkt(other))


def _describe(files: Sequence[tuple[str, str]], scenes: Sequence[Scene]) -> str:
    """Return a VRT, which GDAL opens in place of a file."""
    from rasterio.dtypes import dtype_rev, typename_fwd

    first, bands = scenes[0], []
    for number, ((band, path), scene) in enumerate(zip(files, scenes, strict=True), 1):
        with open_gdal(path) as raster:
            value = raster.nodata
        nodata = ("", "") if value is None else (f"<NoDataValue>{value}</NoDataValue>", f"<NODATA>{value}</NODATA>")
        bands.append(
            f'<VRTRasterBand dataType="{typename_fwd[dtype_rev[scene.dtype]]}" band="{number}">'
            f'<Description>{escape(band)}</Description>{nodata[0]}<ComplexSource resampling="bilinear">'
            f'<SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename><SourceBand>1</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{scene.width}" ySize="{scene.height}"/>'
            f'<DstRect xOff="0" yOff="0" xSize="{first.width}" ySize="{first.height}"/>{nodata[1]}'
            "</ComplexSource></VRTRasterBand>"
        )
    place = ""
    if first.transform:
        left, xres, top, yres = first.transform
        place = (
            f"<SRS>{escape(first.crs)}</SRS><GeoTransform>{left!r}, {xres!r}, 0, {top!r}, 0, {-yres!r}</GeoTransform>"
        )
    size = f'rasterXSize="{first.width}" rasterYSize="{first.height}"'
    return f"<VRTDataset {size}>{place}{''.join(bands)}</VRTDataset>"
