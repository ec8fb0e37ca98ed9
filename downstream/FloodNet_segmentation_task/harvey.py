"""Tiles of the Hurricane Harvey flood set: find them, align their masks with the image, and split them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from downstream.FloodNet_segmentation_task.image_mask_io import same_shape
from vicreg.common.logger import log
from vicreg.data.image_io import decoding
from vicreg.data.image_listing import format_names
from vicreg.data.images import open_reader
from vicreg.data.rasters import open_raster, quiet_georeference
from vicreg.data.subsets import held_out_groups
from vicreg.inference.sliding_window import window_starts

IMAGE, MASKS = "vhr.tif", {"building": "buildings1m.tif", "flooded": "flooded1m.tif"}
_MIN_COVERAGE = 0.9  # fraction of an image that its masks have to cover; two projections never agree at the corners


class _Grid(NamedTuple):
    """Position of a raster's pixels; ``transform`` is None without a complete georeference."""

    width: int
    height: int
    crs: Any
    transform: Any


def find_tiles(data_dir: str | Path) -> list[Path]:
    """List the folders ``<region>/<tile>`` below a folder of regions, with an image and its two masks in each.

    Raises:
        FileNotFoundError: There is no such folder, or a tile lacks one of its files.
        ValueError: There are no tiles in it.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder at {data_dir}; --data-dir is harvey/, which holds <region>/<tile>/{IMAGE}")
    names = (IMAGE, *MASKS.values())
    folders = sorted({path.parent for name in names for path in data_dir.glob(f"*/*/{name}")})
    if not folders:
        raise ValueError(f"{data_dir} holds no <region>/<tile>/{IMAGE}; is it the folder above or below harvey/?")
    if missing := [folder / name for folder in folders for name in names if not (folder / name).is_file()]:
        names = format_names(missing)
        raise FileNotFoundError(f"{len(missing)} file(s) missing: {names}; complete these tiles or remove them")
    firsts: dict[Path, Path] = {}  # a link would put the same tile into both parts
    for folder in sorted(folders, key=Path.is_symlink):
        firsts.setdefault(folder.resolve(), folder)
    if more := len(folders) - len(firsts):
        log(f"note: {more} of {len(folders)} tiles in {data_dir} are links to others, skipped")
    return sorted(firsts.values())


def split_tiles(tiles: Sequence[Path], val_fraction: float, seed: int) -> dict[str, list[Path]]:
    """Hold out whole tiles, so that patches of one tile stay together.

    Returns:
        Tiles of ``train`` and, unless none are held out, of ``val``: at least one.

    Raises:
        ValueError: The fraction is not in [0, 1), or nothing is left to train on.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"--val-fraction {val_fraction:g}: 0 or more and less than 1 is needed")
    if val_fraction == 0:
        return {"train": list(tiles)}
    if len(tiles) < 2:
        raise ValueError(
            f"{len(tiles)} tile(s), one of them held out: nothing is left to train on; add tiles or set "
            "--val-fraction 0"
        )
    held_out = held_out_groups(range(len(tiles)), val_fraction, seed, stream="harvey_split")
    parts = {"train": ~held_out, "val": held_out}
    return {name: [tiles[index] for index in np.flatnonzero(mask)] for name, mask in parts.items()}


def read_tile(
    folder: Path, stretch: bool = False, levels: tuple[float, float] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read a tile, with the masks resampled to the image's pixels.

    If both have a georeference, the mask is placed by it: in the published tiles the image is in degrees and the masks
    are in meters, so that their aspect ratios differ. Otherwise it is placed by the sizes, if the aspect ratios agree.
    Each mask pixel then covers the image pixels whose centers lie in it. Pixels without data (nodata or alpha 0 of the
    image, or not covered by a mask) become black, without a building.

    Args:
        folder: Folder of the tile.
        stretch: Without a georeference in both, stretch the mask over the image whatever its aspect ratio.
        levels: Values of black and white of an image deeper than 8 bits.

    Returns:
        The image, uint8 (3, height, width), and masks of 0 and 1, uint8 (height, width), by the keys of ``MASKS``.

    Raises:
        ValueError: A file cannot be read, a mask has other values or cannot be placed; says which.
    """
    path = folder / IMAGE
    with open_reader(path, levels=levels) as reader:
        image, valid = reader.read(0, 0, reader.height, reader.width)
        grid = _Grid(reader.width, reader.height, reader.crs, reader.transform)
    masks = {}
    for name, file in MASKS.items():
        masks[name], covered = _align(*_read_mask(folder / file), grid, folder / file, path, stretch)
        valid = valid & covered
    return image * valid, {name: mask * valid for name, mask in masks.items()}


def patch_corners(height: int, width: int, side: int, stride: int) -> list[tuple[int, int]]:
    """Return (top, left) of the patches of an image: every ``stride`` pixels, the last ones flush with the border."""
    return [(top, left) for top in window_starts(height, side, stride) for left in window_starts(width, side, stride)]


def _read_mask(path: Path) -> tuple[np.ndarray, _Grid]:
    """Read a uint8 mask of 0 and 1, and its grid; no data and negative values are 0, as its authors have it."""
    with quiet_georeference(), open_raster(path) as raster, decoding(path):
        if raster.count > 1 or raster.subdatasets:
            raise ValueError(f"{max(raster.count, len(raster.subdatasets))} bands or pages; a mask has one")
        values, invalid = raster.read(1), raster.read_masks(1) == 0
        transform = None if raster.transform.is_identity or raster.crs is None else raster.transform
        grid = _Grid(raster.width, raster.height, raster.crs, transform)
    values = np.where(invalid | (values < 0), 0, values)
    present = np.unique(values)
    if not (np.isin(present, [0, 1]).all() or np.isin(present, [0, 255]).all()):
        wrong = next((value for value in present if value not in (0, 1, 255)), 255)
        raise ValueError(f"{path} holds the value {wrong}; 0 and 1 (or 0 and 255) are expected")
    return (values != 0).astype(np.uint8), grid


def _align(
    mask: np.ndarray, mask_grid: _Grid, grid: _Grid, path: Path, image_path: Path, stretch: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a mask to the image's grid: uint8 (height, width), and where it covers the image, bool."""
    if mask_grid.transform is not None and grid.transform is not None and grid.crs is not None:
        return _reproject(mask, mask_grid, grid, path, image_path)
    if stretch or same_shape((mask_grid.width, mask_grid.height), (grid.width, grid.height)):
        rows = ((np.arange(grid.height) + 0.5) * mask_grid.height / grid.height).astype(int)
        columns = ((np.arange(grid.width) + 0.5) * mask_grid.width / grid.width).astype(int)
        return mask[rows[:, None], columns], np.ones((grid.height, grid.width), bool)
    raise ValueError(
        f"{path} is {mask_grid.width} x {mask_grid.height} pixels and {image_path} {grid.width} x {grid.height}: the "
        "aspect ratios differ, and there is no georeference in both to place the mask by; repair or remove the tile, "
        "or pass --stretch if both show the same ground"
    )


def _reproject(
    mask: np.ndarray, mask_grid: _Grid, grid: _Grid, path: Path, image_path: Path
) -> tuple[np.ndarray, np.ndarray]:
    from rasterio import warp
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    aligned, covered = np.zeros((2, grid.height, grid.width), np.uint8)
    grids = {"src_transform": mask_grid.transform, "src_crs": mask_grid.crs, "resampling": warp.Resampling.nearest}
    grids |= {"dst_transform": grid.transform, "dst_crs": grid.crs}
    try:
        warp.reproject(mask, aligned, **grids)
        warp.reproject(np.ones_like(mask), covered, **grids)
    except (CPLE_BaseError, RasterioError) as error:
        raise ValueError(f"{path} cannot be placed on {image_path} by their georeferences ({error})") from error
    if covered.mean() < _MIN_COVERAGE:
        raise ValueError(
            f"{path} covers {covered.mean():.0%} of {image_path} by their georeferences, {_MIN_COVERAGE:.0%} is "
            "needed; repair or remove the tile"
        )
    return aligned, covered.astype(bool)
