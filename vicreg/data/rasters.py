"""Read windows of images and rasters, with their valid pixels and their georeference."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.common.logger import log
from vicreg.data.image_io import check_pixels, check_regular, decoding
from vicreg.data.raster_bands import Bands, Levels, check_depth, choose_bands, note
from vicreg.data.resampling import read_means, resize

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
        pixels: uint8 or uint16 array (C, height, width) at the working size.
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
            Pixels, uint8 or uint16 (C, rows, columns), and where they hold data, bool (rows, columns).

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
        """Read the whole image, at most ``max_size`` on the longer side: uint8 (3, rows, columns), its first bands."""
        shape = preview_shape((self.height, self.width), max_size)
        pixels = self.read(0, 0, self.height, self.width, shape)[0]
        return display_rgb(pixels)

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RasterReader(ImageReader):
    """A raster that stays on disk; see ``open_reader`` for the arguments and the errors.

    Pixels are invalid where the alpha band or the mask says so, where all bands hold the nodata value, and where a band
    is not finite. A georeference counts only where it is complete: a CRS without a geotransform is dropped, and so are
    ground control points without a CRS.
    """

    def __init__(
        self,
        path: str | Path,
        scale: Scale = 1.0,
        bands: Bands = None,
        levels: Levels = None,
        deep: bool = False,
    ):
        self.path, self._levels, self._dtype = Path(path), levels, np.dtype(np.uint16 if deep else np.uint8)
        self._source = source = open_raster(path)
        try:
            self._bands = choose_bands(source, self.path, bands)
            check_depth(source, self.path, self._bands, levels)
        except ValueError:
            source.close()
            raise
        self.source_size = (source.width, source.height)
        factor = scale(self.source_size) if callable(scale) else scale
        self.width, self.height = (max(1, round(side * factor)) for side in self.source_size)
        if not source.transform.is_identity:  # the identity is what a raster without a geotransform reports
            self.crs, self.transform = source.crs, source.transform
        elif all(source.gcps):
            self.gcps = source.gcps
        elif source.crs:
            log(f"note: {path} has a CRS but no geotransform; the results have no georeference")

    def read(
        self, top: int, left: int, height: int, width: int, out_shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; see ``ImageReader.read``."""
        x, y = self.source_size[0] / self.width, self.source_size[1] / self.height
        shape = out_shape or (height, width)
        if shape == (height, width) and max(x, y) > 1:  # GDAL's averages suffice for a preview
            row_edges = np.arange(top, top + height + 1) * self.source_size[1] / self.height
            column_edges = np.arange(left, left + width + 1) * self.source_size[0] / self.width
            return read_means(self._read_source, row_edges, column_edges)
        return self._read_source(top * y, left * x, height * y, width * x, shape)

    def _read_source(
        self, top: float, left: float, height: float, width: float, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, in pixels of the file; see ``ImageReader.read``."""
        from rasterio.enums import ColorInterp, Resampling
        from rasterio.windows import Window

        window = Window(left, top, width, height)
        method = Resampling.average if height > shape[0] else Resampling.nearest
        with decoding(self.path):
            check_pixels(*shape)
            bands, shape3 = list(self._bands), (len(self._bands), *shape)
            pixels = self._source.read(bands, window=window, out_shape=shape3, resampling=method)
            colors = self._source.colorinterp
            if any(colors[band - 1] == ColorInterp.alpha for band in bands):  # it is no mask
                mask = np.where((pixels == self._source.nodata).all(0), 0, NO_DATA)
            else:
                mask = self._source.dataset_mask(window=window, out_shape=shape)
        valid = mask > 0
        if mask.min() < NO_DATA and (valid & (mask < NO_DATA)).mean() > _MAX_PARTIAL_ALPHA:
            note(self.path, "has a band that is tagged as alpha and is no mask; it is not used as a color")
        if pixels.dtype == np.uint8:
            return pixels, valid
        valid &= np.isfinite(pixels).all(0)
        assert self._levels is not None  # checked when the file was opened
        result, top = np.empty(pixels.shape, self._dtype), np.iinfo(self._dtype).max
        pairs = np.broadcast_to(np.asarray(self._levels, np.float64), (len(pixels), 2)).tolist()
        for band, scaled, (low, high) in zip(pixels, result, pairs, strict=True):
            scaled[:] = scale_values(np.where(valid, band, low).astype(np.float64), low, high, top)
        return result, valid

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def scale_values(values: np.ndarray, low: float, high: float, top: int) -> np.ndarray:
    """Map float64 values, in place, from [low, high] to integers in [0, top]; others are clipped."""
    values -= low
    values *= top / (high - low)
    return values.clip(0, top, out=values).round(out=values)


def display_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (..., C, H, W) to look at: uint8 (..., 3, H, W), the first bands; 16 bits up to percentile 98."""
    pixels = pixels[..., :3, :, :] if pixels.shape[-3] >= 3 else pixels[..., [0, 0, 0], :, :]
    if pixels.dtype == np.uint8:
        return pixels
    white = max(1.0, float(np.percentile(pixels, 98)))
    return (pixels * (255 / white)).clip(max=255).astype(np.uint8)


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


def stack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images (C, H, W); uint8 ones become uint16 if there are others of that type, 255 as 65535."""
    if len({image.dtype for image in images}) > 1:
        images = [image if image.dtype == np.uint16 else widen(image) for image in images]
    return np.stack(images)


def widen(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 pixels as uint16, 255 as 65535."""
    return pixels.astype(np.uint16) * 257


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
