"""Windows of a scene: pixels of its bands and where they hold data."""

import threading
from typing import Any

import numpy as np

from vicreg.data.image_io import exif_orientation, open_image
from vicreg.data.raster_pack.scenes import Scene, open_gdal, reading


class SceneReader:
    """Windows of a scene, for several threads.

    Args:
        scene: The scene. The file is opened with the first window.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.lock = scene, threading.Lock()
        self._source: Any = None
        self._opened: list[Any] = []

    def read(self, left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a window inside the scene.

        Returns:
            Pixels (bands, height, width) of the file's type, and where they hold data, bool (height, width).

        Raises:
            ValueError: The file cannot be read.
        """
        from rasterio.windows import Window

        with reading(self.scene.path), self.lock:
            if self._source is None:
                self._open()
            if self.scene.pillow:
                pixels, valid = (array[..., top : top + height, left : left + width] for array in self._source)
            else:
                window = Window(left, top, width, height)
                pixels = self._source.read(list(self.scene.bands), window=window)
                valid = self._valid(pixels, window)
            if self.scene.mask:
                valid = valid & ~self._clouds(left, top, width, height)
        if pixels.dtype.kind == "f":
            valid = valid & np.isfinite(pixels).all(0)
        return pixels, valid

    def _open(self) -> None:
        if self.scene.pillow:
            self._source = _decode(self.scene)
        else:
            self._source = self._warped(open_gdal(self.scene.vrt or self.scene.path))
        if self.scene.mask:
            self._mask = self._warped(open_gdal(self.scene.mask))

    def _warped(self, source: Any) -> Any:
        """Return a raster resampled to the grid of the scene: bilinear, masks by the nearest pixel."""
        from rasterio import Affine
        from rasterio.enums import MaskFlags, Resampling
        from rasterio.vrt import WarpedVRT

        self._opened.append(source)
        if self.scene.warp is None:
            return source
        crs, coefficients, width, height = self.scene.warp
        is_mask = source.name == self.scene.mask
        method = Resampling.nearest if is_mask else Resampling.bilinear
        flags = source.mask_flag_enums[0]
        has_mask_band = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags  # which a WarpedVRT has not
        add_alpha = not is_mask and (flags == [MaskFlags.all_valid] or has_mask_band)
        warped = WarpedVRT(source, crs=crs, transform=Affine(*coefficients), width=width, height=height,
                           resampling=method, add_alpha=add_alpha)  # fmt: skip
        self._opened.append(warped)
        return warped

    def _valid(self, pixels: np.ndarray, window: Any) -> np.ndarray:
        from rasterio.enums import ColorInterp, MaskFlags

        chosen = [self._source.colorinterp[number - 1] for number in self.scene.bands]
        flags = self._source.mask_flag_enums[self.scene.bands[0] - 1]
        is_masked = MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
        if is_masked and ColorInterp.alpha not in chosen:  # a band that is chosen holds values, whatever its tag says
            return self._source.read_masks(self.scene.bands[0], window=window) > 0
        values = [self._source.nodatavals[number - 1] for number in self.scene.bands]
        nodata = {place: value for place, value in enumerate(values) if value is not None}
        if nodata:  # bands of a stack are files of their own, of which some may have no such value
            return (pixels[list(nodata)] != np.array(list(nodata.values()))[:, None, None]).any(0)
        return np.ones(pixels.shape[1:], bool)

    def _clouds(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        from rasterio.windows import Window

        across, down = self._mask.width / self.scene.width, self._mask.height / self.scene.height
        window = Window(left * across, top * down, width * across, height * down)
        return self._mask.read(1, window=window, out_shape=(height, width)) != 0

    def close(self) -> None:
        """Close the files."""
        for source in reversed(self._opened):
            source.close()
        self._source, self._opened = None, []


def _decode(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image with Pillow, upright: pixels (bands, height, width) and where they are opaque."""
    from PIL import ImageOps

    with open_image(scene.path) as image:
        upright = ImageOps.exif_transpose(image) if exif_orientation(image) > 1 else image
        base = "L" if scene.count == 1 else "RGB"
        has_alpha = upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info
        array = np.asarray(upright.convert(f"{base}A" if has_alpha else base))
    array = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)
    valid = array[-1] > 0 if has_alpha else np.ones(array.shape[1:], bool)
    return array[[number - 1 for number in scene.bands]], valid
