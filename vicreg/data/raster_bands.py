"""Which bands of a raster are read, and whether their depth is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.common.files import printable
from vicreg.common.logger import log
from vicreg.data.image_io import UnsupportedImage, decoding

Bands = int | Sequence[int] | None
Levels = Sequence[float] | Sequence[Sequence[float]] | None  # (low, high) of all bands, or one such pair for each


def check_depth(source: Any, path: Path, bands: Sequence[int], levels: Levels) -> None:
    """Raise UnsupportedImage if bands are deeper than 8 bits without fitting ``levels``, or if they are complex."""
    dtype = source.dtypes[bands[0] - 1]
    if dtype.startswith("complex"):
        raise UnsupportedImage(f"{printable(path, '')} holds {dtype}; save its amplitude as real numbers")
    if dtype == "uint8":
        return
    if levels is not None:
        if np.ndim(levels) == 2 and len(levels) != len(bands):
            raise UnsupportedImage(f"{printable(path, '')}: the weights record levels of {len(levels)} bands, and "
                                   f"{len(bands)} are read; name one pair for all of them with --levels")  # fmt: skip
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


def choose_bands(source: Any, path: Path, bands: Bands) -> tuple[int, ...]:
    """Return the numbers of the bands to read.

    Args:
        source: Open raster.
        path: Its file, for messages.
        bands: Numbers from 1, in the order of the channels; a number of channels, for all bands of a file that has as
            many; or None for red, green and blue, by the color interpretation or else bands 1, 2 and 3.

    Raises:
        UnsupportedImage: There are no such bands.
    """
    from rasterio.enums import ColorInterp

    name = printable(path, "")
    with decoding(path):
        if reason := unusual_layout(source):
            raise UnsupportedImage(f"{name} has {reason}")
        usable = [number for number, kind in enumerate(source.colorinterp, 1) if kind != ColorInterp.alpha]
    if isinstance(bands, int):
        if source.count == bands:  # a fourth band of 8 bits is often tagged as alpha
            return tuple(range(1, bands + 1))
        if len(usable) != bands:
            raise UnsupportedImage(
                f"{name} has {len(usable)} band(s), {bands} are needed; choose them with --bands, numbers from 1"
            )
        return tuple(usable)
    if bands is not None:
        if max(bands) > source.count:
            raise UnsupportedImage(f"{name} has {source.count} band(s); there are no bands {' '.join(map(str, bands))}")
        return tuple(bands)
    kinds = dict(reversed([(kind, number) for number, kind in enumerate(source.colorinterp, 1)]))  # the first of each
    if ColorInterp.palette in kinds:
        raise UnsupportedImage(f"{name} has a color table, not colors; convert it with gdal_translate -expand rgb")
    rgb = [kinds[kind] for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue) if kind in kinds]
    chosen = tuple(rgb if len(rgb) == 3 else usable[:3] if len(usable) >= 3 else usable * 3)
    if len(chosen) != 3:
        raise UnsupportedImage(f"{name} has {len(usable)} bands; one (gray) or three (red, green, blue) are needed")
    if len(usable) > len(set(chosen)):
        numbers = " ".join(map(str, chosen))
        note(path, f"has {len(usable)} bands; {numbers} are used as red, green, blue", "; choose others with --bands")
    return chosen


def unusual_layout(source: Any) -> str:
    """Return why the values of a TIFF are not gray or red, green and blue of 8 bits or more; "" for most files."""
    tags = source.tags(ns="IMAGE_STRUCTURE")
    bits = int(source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    if len(pages := source.subdatasets) > 1:
        return f"{len(pages)} pages, of which the first alone would be read; save one file for each, or one with bands"
    if tags.get("MINISWHITE") == "YES":
        return "0 for white (MINISWHITE); convert it to 0 for black"
    if "LAB" in tags.get("SOURCE_COLOR_SPACE", ""):
        return f"colors in {tags['SOURCE_COLOR_SPACE']}; convert it to RGB"
    if 1 < bits < 8:
        return f"{bits} bits per value; scale it to 8 bits"
    return ""


def resolve_bands(bands: Sequence[int] | None, channels: int) -> Bands:
    """Return what readers take for ``--bands`` and a network of ``channels``: None for red, green and blue.

    Raises:
        ValueError: ``bands`` are not as many as the channels, or not counted from 1.
    """
    if bands is None:
        return None if channels == 3 else channels
    text = f"--bands {' '.join(map(str, bands))}"
    if len(bands) != channels:
        raise ValueError(f"{text}: the network takes {channels} channels, so {channels} numbers are needed")
    if min(bands) < 1:
        raise ValueError(f"{text}: bands are counted from 1")
    return list(bands)


_noted: set[str] = set()


def note(path: Path, text: str, advice: str = "") -> None:
    """Log a note about a file, once for all files that it holds for."""
    if text not in _noted:
        _noted.add(text)
        log(f"note: {printable(path, '')} {text}{advice}")
