"""Read windows of images and rasters as 8-bit RGB, with their valid pixels and their georeference."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.common.files import printable
from vicreg.common.logger import log
from vicreg.data.image_io import UnsupportedImage, check_pixels, check_regular, decoding

TIFF = (".tif", ".tiff")
NO_DATA = 255  # in label rasters
# First bytes of a file -> driver. Without a driver GDAL would follow a VRT named .tif to other files and addresses.
_DRIVERS = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"\0\0\0\x0cjP": "JP2OpenJPEG", b"RIFF": "WEBP", b"BM": "BMP",
    b"GIF8": "GIF", b"P5": "PNM", b"P6": "PNM",
}  # fmt: skip
_MAX_PARTIAL_ALPHA = 0.5  # fraction of the pixels of a window; more is rather a color band that is tagged as alpha

Scale = float | Callable[[tuple[int, int]], float]


class ImageReader:
    """An image held in memory, of which windows are read at a working size.

    Args:
        pixels: uint8 array (3, height, width) at the working size.
        valid: Bool array (height, width), False where there is no data. Default: all valid.
        path: File it comes from, for messages.
        source_size: (width, height) of the file.

    Attributes:
        height: Rows at the working size.
        width: Columns at the working size.
        crs: Coordinate reference system, None for images without a georeference.
        transform: Affine transform of the file's pixels, None without one.
        gcps: Ground control points and their CRS, in place of a transform, or None.
    """

    crs: Any = None
    transform: Any = None
    gcps: Any = None

    def __init__(
        self,
        pixels: np.ndarray,
        valid: np.ndarray | None = None,
        path: str | Path = "image",
        source_size: tuple[int, int] | None = None,
    ):
        self.path, self.height, self.width = Path(path), *pixels.shape[1:]
        self.source_size = source_size or (self.width, self.height)
        self._pixels = pixels
        self._valid = np.ones(pixels.shape[1:], bool) if valid is None else valid

    def read(
        self, top: int, left: int, height: int, width: int, out_shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window inside the image.

        Args:
            top: First row at the working size.
            left: First column.
            height: Rows.
            width: Columns.
            out_shape: (rows, columns) of the result, if it is to be smaller than the window.

        Returns:
            Pixels, uint8 (3, rows, columns), and where they hold data, bool (rows, columns).

        Raises:
            ValueError: The file cannot be read.
        """
        window = np.s_[..., top : top + height, left : left + width]
        pixels, valid = self._pixels[window], self._valid[window]
        if out_shape is None or out_shape == (height, width):
            return pixels, valid
        rows, columns = (np.arange(n) * length // n for n, length in zip(out_shape, (height, width), strict=True))
        return resize(pixels, out_shape), valid[rows[:, None], columns]

    def preview(self, max_size: int = 1600) -> np.ndarray:
        """Read the whole image, no larger than ``max_size`` on the longer side: uint8 (3, rows, columns)."""
        shape = preview_shape((self.height, self.width), max_size)
        return self.read(0, 0, self.height, self.width, shape)[0]

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RasterReader(ImageReader):
    """A raster that stays on disk; see ``open_reader`` for the arguments and the errors.

    Pixels are invalid where the alpha band or the mask says so, where all bands hold the nodata value, and where a band
    is not finite. A georeference counts only where it is complete: a CRS without a geotransform is dropped.
    """

    def __init__(
        self,
        path: str | Path,
        scale: Scale = 1.0,
        bands: Sequence[int] | None = None,
        levels: tuple[float, float] | None = None,
    ):
        self.path, self._levels = Path(path), levels
        self._source = source = open_raster(path)
        try:
            self._bands = _choose_bands(source, self.path, bands)
            _check_depth(source, self.path, self._bands, levels)
        except ValueError:
            source.close()
            raise
        self.source_size = (source.width, source.height)
        factor = scale(self.source_size) if callable(scale) else scale
        self.width, self.height = (max(1, round(side * factor)) for side in self.source_size)
        if not source.transform.is_identity:  # the identity is what a raster without a geotransform reports
            self.crs, self.transform = source.crs, source.transform
        elif source.gcps[0]:
            self.gcps = source.gcps
        elif source.crs:
            log(f"note: {path} has a CRS but no geotransform; the results have no georeference")

    def read(
        self, top: int, left: int, height: int, width: int, out_shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; see ``ImageReader.read``."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        x, y = self.source_size[0] / self.width, self.source_size[1] / self.height
        window = Window(left * x, top * y, width * x, height * y)
        shape = out_shape or (height, width)
        method = Resampling.average if height * y > shape[0] else Resampling.nearest
        with decoding(self.path):
            check_pixels(*shape)
            pixels = self._source.read(list(self._bands), window=window, out_shape=(3, *shape), resampling=method)
            mask = self._source.dataset_mask(window=window, out_shape=shape)
        valid = mask > 0
        if (valid & (mask < NO_DATA)).mean() > _MAX_PARTIAL_ALPHA:
            _note(self.path, "has a band that is tagged as alpha and is no mask; it is not used as a color")
        if pixels.dtype == np.uint8:
            return pixels, valid
        valid &= np.isfinite(pixels).all(0)
        assert self._levels is not None  # checked when the file was opened
        low, high = self._levels
        scaled = (np.where(valid, pixels, low).astype(np.float32) - low) * (255 / (high - low))
        return scaled.clip(0, 255).round().astype(np.uint8), valid

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def preview_shape(shape: tuple[int, int], max_size: int = 1600) -> tuple[int, int]:
    """Reduce (rows, columns) so that the longer side is at most ``max_size``."""
    factor = min(1.0, max_size / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


@contextmanager
def quiet_georeference() -> Iterator[None]:
    """Suppress the warning that rasterio gives for each raster without a georeference."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():  # around threads: filters belong to the whole process
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def coarser(transform: Any, across: float, down: float) -> Any:
    """Return a raster's affine transform for pixels ``across`` times as wide and ``down`` times as high."""
    a, b, left, d, e, top = transform[:6]
    return type(transform)(a * across, b * down, left, d * across, e * down, top)


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (3, H, W) to (3, *shape) with PIL's antialiased bicubic filter."""
    from PIL import Image

    if pixels.shape[1:] == tuple(shape):
        return pixels
    image = Image.fromarray(pixels.transpose(1, 2, 0)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def open_raster(path: str | Path) -> Any:
    """Open a raster file with rasterio.

    Raises:
        ImageError: It cannot be read.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # for good: in threads a context cannot restore filters
    with decoding(path):
        check_regular(path)
        with open(path, "rb") as file:
            first = file.read(8)
        driver = next((name for begin, name in _DRIVERS.items() if first.startswith(begin)), "GTiff")
        return rasterio.open(path, driver=driver)


def _check_depth(source: Any, path: Path, bands: Sequence[int], levels: tuple[float, float] | None) -> None:
    dtype = source.dtypes[bands[0] - 1]
    if dtype == "uint8" or levels is not None:
        return
    shape = tuple(min(side, 256) for side in source.shape)
    with decoding(path):
        values = source.read(sorted(set(bands)), out_shape=(len(set(bands)), *shape)).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0, 0)
    raise UnsupportedImage(
        f"{printable(path, '')} holds {dtype}, not 8-bit colors; give the values of black and white with --levels LOW "
        f"HIGH, the same for all images (98 % of the values of this one are from {low:.4g} to {high:.4g}; Sentinel-2 "
        "reflectances: --levels 0 2750)"
    )


def _choose_bands(source: Any, path: Path, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of the red, green and blue band."""
    from rasterio.enums import ColorInterp

    name = printable(path, "")
    if bands is not None:
        if max(bands) > source.count:
            raise UnsupportedImage(f"{name} has {source.count} band(s); there are no bands {' '.join(map(str, bands))}")
        return tuple(bands)
    kinds = dict(reversed([(kind, number) for number, kind in enumerate(source.colorinterp, 1)]))  # the first of each
    if ColorInterp.palette in kinds:
        raise UnsupportedImage(f"{name} has a color table, not colors; convert it with gdal_translate -expand rgb")
    usable = [number for number, kind in enumerate(source.colorinterp, 1) if kind != ColorInterp.alpha]
    rgb = [kinds[kind] for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue) if kind in kinds]
    chosen = tuple(rgb if len(rgb) == 3 else usable[:3] if len(usable) >= 3 else usable * 3)
    if len(chosen) != 3:
        raise UnsupportedImage(f"{name} has {len(usable)} bands; one (gray) or three (red, green, blue) are needed")
    if len(usable) > len(set(chosen)):
        numbers = " ".join(map(str, chosen))
        _note(path, f"has {len(usable)} bands; {numbers} are used as red, green, blue", "; choose others with --bands")
    return chosen


_noted: set[str] = set()


def _note(path: Path, text: str, advice: str = "") -> None:
    """Log a note about a file, once for all files that it holds for."""
    if text not in _noted:
        _noted.add(text)
        log(f"note: {printable(path, '')} {text}{advice}")
