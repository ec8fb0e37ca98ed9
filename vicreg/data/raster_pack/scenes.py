"""The header of a raster or image file."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vicreg.data.image_io import error_reason, exif_orientation, open_image
from vicreg.data.raster_bands import unusual_layout

# Without a driver GDAL goes by the content: a VRT named .tif would make it open other files and addresses.
DRIVERS: dict[str, list[str]] = {
    ".tif": ["GTiff"], ".tiff": ["GTiff"], ".jp2": ["JP2OpenJPEG"], ".img": ["HFA", "ENVI"], ".dat": ["ENVI"],
    ".bsq": ["ENVI"], ".bil": ["ENVI"], ".bip": ["ENVI"], ".vrt": ["VRT"], ".png": ["PNG"], ".jpg": ["JPEG"],
    ".jpeg": ["JPEG"], ".webp": ["WEBP"], ".bmp": ["BMP"], ".gif": ["GIF"], ".ppm": ["PNM"], ".pgm": ["PNM"],
}  # fmt: skip
COLORS = ("red", "green", "blue")
PILLOW_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
_NEEDS_HEADER = (".dat", ".bsq", ".bil", ".bip")  # ENVI, if a .hdr file lies beside it
_PILLOW_MODES = {"L": 1, "1": 1, "LA": 1, "La": 1}  # data bands; the other 8-bit modes become RGB
_ALPHA_SIDE = 256  # pixels of the window that shows whether an alpha band is one


class FileProblem(NamedTuple):
    """A file that cannot be used, and why."""

    kind: str
    path: str  # or address
    message: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """Header of a raster or image file.

    Attributes:
        path: What GDAL or Pillow opens.
        name: Name in patch lists.
        pillow: Whether Pillow reads it, not GDAL.
        width: Columns; of the resampled raster if there is a ``warp``.
        height: Rows, likewise.
        block: Rows and columns of a block of the file.
        count: Number of bands without alpha.
        bands: Numbers of the bands to read, from 1.
        band_names: Descriptions of these bands, or their colors, or their numbers.
        dtype: Type of the pixels.
        crs: Coordinate reference system as WKT; "" for none.
        transform: (x of the left edge, pixel width, y of the top edge, pixel height), or None.
        date: YYYY-MM-DD, or "".
        date_source: Where the date comes from, or "".
        mask: Path of a cloud mask, or "".
        warp: (CRS, affine coefficients, width, height) to resample to, or None.
        version: Size and modification time of the file.
        vrt: Virtual raster of the files of a stack, which GDAL opens in place of ``path``, or "".
    """

    path: str
    name: str
    pillow: bool
    width: int
    height: int
    block: tuple[int, int]
    count: int
    bands: tuple[int, ...]
    band_names: tuple[str, ...]
    dtype: str
    crs: str = ""
    transform: tuple[float, float, float, float] | None = None
    date: str = ""
    date_source: str = ""
    mask: str = ""
    warp: tuple[str, tuple[float, ...], int, int] | None = None
    version: tuple[int, int] = (0, 0)
    vrt: str = ""


def is_scene_name(name: str) -> bool:
    """Return whether a file name has a suffix of a raster or image; a VRT has to be named by the user."""
    suffix = Path(name).suffix.lower()
    return not name.startswith(".") and suffix != ".vrt" and suffix in DRIVERS


def is_without_header(path: str) -> bool:
    """Return whether a file has a suffix of ENVI rasters but no ENVI header beside it."""
    headers = (Path(path).with_suffix(".hdr"), Path(f"{path}.hdr"))
    return Path(path).suffix.lower() in _NEEDS_HEADER and not any(header.exists() for header in headers)


def open_gdal(path: str) -> Any:
    """Open a raster with the drivers of its suffix, by default GeoTIFF and ENVI, or the virtual raster of a stack."""
    import rasterio

    if path.startswith("<VRTDataset"):
        return rasterio.open(path, driver="VRT")
    suffix = Path(path.partition("?")[0]).suffix.lower()
    *others, last = DRIVERS.get(suffix, ["ENVI", "GTiff"])
    for driver in others:
        with suppress(rasterio.errors.RasterioIOError):
            return rasterio.open(path, driver=driver)
    return rasterio.open(path, driver=last)


def remote_options(paths: Iterable[str]) -> dict[str, Any]:
    """Return options of GDAL if some paths are addresses: no search for files beside them, and repeated requests."""
    if not any(path.startswith("/vsi") for path in paths):
        return {}
    return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": 3}


def read_scene(path: str, name: str, bands: Sequence[str] | None = None) -> tuple[Scene, dict[str, str]]:
    """Read the header of a file.

    Args:
        path: File, or a GDAL path such as ``/vsicurl/https://…``.
        name: Name of the scene.
        bands: Numbers (from 1) or descriptions of the bands to read, in order; None for all but alpha.

    Returns:
        The scene, without a date, and the tags of the file.

    Raises:
        ValueError: The file cannot be used; the message says why and does not name the file.
    """
    version = (0, 0)
    with reading(path):
        if not path.startswith("/vsi"):
            status = os.stat(path)
            version = (status.st_size, status.st_mtime_ns)
            if not status.st_size:
                raise ValueError("empty file (zero bytes)")
            if Path(path).suffix.lower() in PILLOW_SUFFIXES and not _is_deep_png(path):
                return _read_pillow_header(path, name, bands, version), {}
        with open_gdal(path) as raster:
            return read_gdal_header(raster, path, name, bands, version), raster.tags()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what decoders raise into a ValueError that says why the file cannot be read, and does not name it."""
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # errors of GDAL have no public base class
        root = error
        while isinstance(root.__cause__, Exception):  # rasterio's own error says less
            root = root.__cause__
        raise ValueError(f"cannot be read ({error_reason(root, path)})") from error


def _is_deep_png(path: str) -> bool:
    """Return whether a PNG has 16 bits per channel, which Pillow would cut to 8."""
    with open(path, "rb") as file:
        head = file.read(25)
    return head.startswith(b"\x89PNG") and head[24:] == b"\x10"


def _read_pillow_header(path: str, name: str, bands: Sequence[str] | None, version: tuple[int, int]) -> Scene:
    with open_image(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"pixels of mode {image.mode}; store them as TIFF")
        width, height = image.size if exif_orientation(image) < 5 else image.size[::-1]
        count = _PILLOW_MODES.get(image.mode, 3)
    descriptions = list(COLORS) if count == 3 else [""]
    chosen = choose_bands(bands, descriptions)
    names = tuple(descriptions[number - 1] or str(number) for number in chosen)
    return Scene(path, name, True, width, height, (1, width), count, chosen, names, "uint8", version=version)


def read_gdal_header(raster: Any, path: str, name: str, bands: Sequence[str] | None, version: tuple[int, int]) -> Scene:
    """Read the header of an open raster; see ``read_scene``."""
    from rasterio.enums import ColorInterp

    kinds, (a, b, left, d, e, top) = raster.colorinterp, raster.transform[:6]
    if not raster.count:
        raise ValueError("no bands, only subdatasets")
    if reason := unusual_layout(raster):
        raise ValueError(f"it has {reason}")
    if ColorInterp.palette in kinds:
        raise ValueError("it has a color table, not measurements; convert it with gdal_translate -expand rgb")
    if (orientation := raster.tags().get("EXIF_Orientation", "1")) != "1":
        raise ValueError(f"its EXIF orientation is {orientation}, and only local images are turned upright; copy it")
    if raster.gcps[0] and raster.transform.is_identity:
        raise ValueError("its position is given by ground control points only; rectify it with gdalwarp")
    has_transform = not raster.transform.is_identity
    if has_transform and (b or d or a <= 0 or e >= 0):
        raise ValueError("it is rotated or not north-up; rectify it with gdalwarp")
    data = [number for number, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
    if bands is None and len(data) < raster.count and not _is_alpha(raster, kinds.index(ColorInterp.alpha) + 1):
        numbers = " ".join(map(str, range(1, raster.count + 1)))
        raise ValueError(f"band {kinds.index(ColorInterp.alpha) + 1} is marked as alpha and holds other values than 0 "
                         f"and 255; choose the bands, such as --bands {numbers}")  # fmt: skip
    colors = [kind.name if kind.name in COLORS else "" for kind in kinds]
    descriptions = [text or color for text, color in zip(raster.descriptions, colors, strict=True)]
    chosen = choose_bands(bands, descriptions) if bands else tuple(data)
    dtypes = {raster.dtypes[number - 1] for number in chosen}
    if len(dtypes) > 1 or "complex" in "".join(dtypes):
        raise ValueError(f"bands of type {', '.join(sorted(dtypes))}; one real type is needed")
    names = tuple(descriptions[number - 1] or str(number) for number in chosen)
    transform = (left, a, top, -e) if has_transform else None
    crs = raster.crs.to_wkt() if raster.crs and transform else ""
    return Scene(path, name, False, raster.width, raster.height, raster.block_shapes[0], len(data), chosen, names,
                 dtypes.pop(), crs, transform, version=version)  # fmt: skip


def _is_alpha(raster: Any, band: int) -> bool:
    """Return whether nearly all values of a band, in the center of the raster, are 0 or 255 (or its maximum)."""
    from rasterio.windows import Window

    rows, columns = min(raster.height, _ALPHA_SIDE), min(raster.width, _ALPHA_SIDE)
    window = Window((raster.width - columns) // 2, (raster.height - rows) // 2, columns, rows)
    values = raster.read(band, window=window)
    extremes = (0, 1, 255, np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else (0, 1, 255)
    return bool(np.isin(values, extremes).mean() > 0.9)


def choose_bands(bands: Sequence[str] | None, descriptions: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the bands that are named by number or description; None for all.

    Raises:
        ValueError: There is no such band.
    """
    if bands is None:
        return tuple(range(1, len(descriptions) + 1))
    numbers = []
    for band in bands:
        if band in descriptions:
            numbers.append(list(descriptions).index(band) + 1)
        elif band.isdecimal() and 1 <= int(band) <= len(descriptions):
            numbers.append(int(band))
        else:
            names = ", ".join(filter(None, descriptions)) or "without descriptions"
            raise ValueError(f"no band {band}; it has {len(descriptions)} bands ({names})")
    return tuple(numbers)
