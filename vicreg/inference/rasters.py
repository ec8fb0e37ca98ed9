"""Images to be labeled, read a part at a time at the scale that a network was trained at, and labels written back."""

import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vicreg.common import files
from vicreg.data.image_io import IMAGE_SUFFIXES, error_reason, open_image

NO_DATA = 255  # in label GeoTIFFs


def find_images(path):
    """Image files: the one given, or those of a folder.

    Raises:
        FileNotFoundError, ValueError: nothing there, no image in it, or two whose results would have one name.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no image and no folder at {path}")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise ValueError(f"{path} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    stems = [p.stem for p in found]
    if twice := [p.name for p in found if stems.count(p.stem) > 1]:
        raise ValueError(f"{path}: {', '.join(twice[:3])} would write results of the same name; rename one")
    return found


class ImageSource:
    """An ordinary image file, decoded whole and reduced; ``labels`` are written at its own size, as a palette PNG.

    Args:
        path: of the file. scale: working pixels for each of the image's.
    """

    def __init__(self, path, scale):
        from PIL import Image

        self.path = Path(path)
        try:
            with open_image(path) as image:
                self._size = image.size
                size = tuple(max(1, round(side * scale(image.size))) for side in image.size)
                pixels = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        except MemoryError:
            raise
        except Exception as error:  # every decoder of PIL has its own
            raise ValueError(f"{path} cannot be read ({error_reason(error, path)})") from error
        self._pixels = np.asarray(pixels).transpose(2, 0, 1)
        self.height, self.width = self._pixels.shape[1:]

    def read(self, top, left, height, width):
        """A part at working size: uint8 (3, height, width)."""
        return self._pixels[:, top : top + height, left : left + width]

    def write(self, folder, blocks, classes, palette):
        """Write ``<name>_labels.png`` from (top, left, labels) blocks.

        Returns:
            the file, and the image and labels to look at: uint8 (3, h, w) and (h, w).
        """
        from PIL import Image

        labels = np.empty((self.height, self.width), np.uint8)
        for top, left, block in blocks:
            labels[top : top + block.shape[0], left : left + block.shape[1]] = block
        picture = Image.fromarray(labels).resize(self._size, Image.Resampling.NEAREST)
        picture.putpalette(palette.tobytes())
        file = Path(folder) / f"{self.path.stem}_labels.png"
        files.atomic_write(file, picture.save)
        return file, self._pixels, labels

    def close(self):
        """Nothing is open."""


class RasterSource:
    """A GeoTIFF, read a window at a time; labels go into a GeoTIFF with its georeference and a color table.

    Args:
        path: of the file, 8-bit with three bands or more. scale: function of (width, height) -> factor.
    """

    def __init__(self, path, scale):
        import rasterio

        self.path = Path(path)
        try:
            with quiet_georeference():
                self._source = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise ValueError(f"{path} cannot be read ({error})") from error
        source = self._source
        if source.count < 3 or source.dtypes[0] != "uint8":
            raise ValueError(
                f"{path}: {source.count} band(s) of {source.dtypes[0]}; 8-bit RGB is needed (gdal_translate -ot Byte "
                "-scale makes it)"
            )
        factor = scale((source.width, source.height))
        self.width, self.height = (max(1, round(side * factor)) for side in (source.width, source.height))

    def read(self, top, left, height, width):
        """A part at working size: uint8 (3, height, width)."""
        return self._read([1, 2, 3], top, left, height, width)

    def _read(self, bands, top, left, height, width, mask=False):
        import rasterio

        x, y = self._source.width / self.width, self._source.height / self.height
        window = rasterio.windows.Window(left * x, top * y, width * x, height * y)
        shape = (height, width) if mask else (len(bands), height, width)
        try:
            if mask:
                return self._source.dataset_mask(window=window, out_shape=shape)
            method = rasterio.enums.Resampling.average if x > 1 else rasterio.enums.Resampling.nearest
            return self._source.read(bands, window=window, out_shape=shape, resampling=method)
        except rasterio.errors.RasterioError as error:
            raise ValueError(f"{self.path} cannot be read ({error})") from error

    def write(self, folder, blocks, classes, palette, most=1600):
        """Write ``<name>_labels.tif`` from (top, left, labels) blocks; pixels without data become ``NO_DATA``.

        Returns:
            the file, and a smaller image and labels to look at: uint8 (3, h, w) and (h, w).
        """
        import rasterio

        file = Path(folder) / f"{self.path.stem}_labels.tif"
        source = self._source
        grid = coarser(source.transform, source.width / self.width, source.height / self.height)
        profile = {"driver": "GTiff", "width": self.width, "height": self.height, "count": 1, "dtype": "uint8"}
        profile |= {"crs": source.crs, "nodata": NO_DATA, "compress": "deflate", "tiled": True}
        profile |= {"transform": grid, "bigtiff": "if_safer", "blockxsize": 256, "blockysize": 256}
        small = min(1.0, most / max(self.width, self.height))
        shape = tuple(max(1, round(side * small)) for side in (self.height, self.width))

        def save(beside):
            with quiet_georeference(), rasterio.open(beside, "w", **profile) as out:
                for top, left, labels in blocks:
                    mask = self._read(None, top, left, *labels.shape, mask=True)
                    window = rasterio.windows.Window(left, top, *labels.shape[::-1])
                    out.write(np.where(mask > 0, labels, NO_DATA).astype(np.uint8), 1, window=window)
                out.write_colormap(1, {n: (*map(int, color), 255) for n, color in enumerate(palette)})
                out.update_tags(1, **{f"class_{n}": name for n, name in enumerate(classes)})
            with rasterio.open(beside) as done:
                return done.read(1, out_shape=shape)

        labels = files.atomic_write(file, save)
        return file, source.read([1, 2, 3], out_shape=(3, *shape)), labels

    def close(self):
        """Close the file."""
        self._source.close()


RGB = (1, 2, 3)
TIFF = (".tif", ".tiff")


def is_map(path, window):
    """Whether a file is a TIFF so large that it is to be mapped: a window fits, and twice along one side at least."""
    if path.suffix.lower() not in TIFF:
        return False
    width, height = _open(path, lambda raster: (raster.width, raster.height))
    return min(width, height) >= window and max(width, height) >= 2 * window


def dtype_of(path):
    """Type of a raster's values, such as ``uint8``.

    Raises:
        ValueError: it cannot be read.
    """
    return _open(path, lambda raster: raster.dtypes[0])


def _open(path, work):
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with quiet_georeference(), rasterio.open(path) as raster:
            return work(raster)
    except RasterioError as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


@contextmanager
def quiet_georeference():
    """No warning for every raster without a georeference: the tile number in its name stands in for it."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():  # around the threads: filters belong to the whole process
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def coarser(transform, across, down):
    """A raster's affine transform, for pixels that are ``across`` times as wide and ``down`` times as high."""
    a, b, left, d, e, top = transform[:6]
    return type(transform)(a * across, b * down, left, d * across, e * down, top)
