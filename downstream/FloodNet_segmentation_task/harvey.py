"""Tiles of the Hurricane Harvey flood set: finding them, laying their masks on the image, and where patches lie."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from downstream.FloodNet_segmentation_task.image_mask_io import same_shape
from vicreg.data.subsets import held_out_groups
from vicreg.inference.rasters import quiet_georeference
from vicreg.inference.sliding_window import window_starts

IMAGE, MASKS = "vhr.tif", {"building": "buildings1m.tif", "flooded": "flooded1m.tif"}
_COVERED = 0.9  # share of an image that its masks have to cover; two projections never agree at the corners
_NAMED = 3


class Tile(NamedTuple):
    """A folder ``<region>/<tile>`` with the image and its two masks."""

    folder: Path
    name: str


def find_tiles(data_dir):
    """List the tiles below a folder of regions.

    Returns:
        list of ``Tile``, by name.

    Raises:
        FileNotFoundError, ValueError: no folder, no tiles in it, or a tile that lacks one of its files.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder at {data_dir}; --data-dir is harvey/, which holds <region>/<tile>/{IMAGE}")
    names = (IMAGE, *MASKS.values())
    folders = sorted({path.parent for name in names for path in data_dir.glob(f"*/*/{name}")})
    if not folders:
        raise ValueError(f"{data_dir} holds no <region>/<tile>/{IMAGE}; is it the folder above or below harvey/?")
    if lacking := [folder / name for folder in folders for name in names if not (folder / name).is_file()]:
        some = ", ".join(map(str, lacking[:_NAMED])) + ", …" * (len(lacking) > _NAMED)
        raise FileNotFoundError(f"{len(lacking)} file(s) missing: {some}; complete these tiles or take them away")
    return [Tile(folder, "__".join(folder.relative_to(data_dir).parts)) for folder in folders]


def split_tiles(tiles, val_percent, seed):
    """Hold out whole tiles, so that patches of one tile stay together.

    Args:
        tiles: list of n. val_percent: share of the tiles; at least one of them, unless 0. seed: of the choice.

    Returns:
        dict: "train" and, unless 0 % are held out, "val" -> list of ``Tile``.

    Raises:
        ValueError: a share that is none, or nothing left to train on.
    """
    if not 0 <= val_percent < 100:
        raise ValueError(f"--val-percent {val_percent:g}: 0 or more and less than 100 is needed")
    if val_percent == 0:
        return {"train": list(tiles)}
    if len(tiles) < 2:
        raise ValueError(
            f"{len(tiles)} tile(s), one of them held out: nothing is left to train on; add tiles or set --val-percent 0"
        )
    held_out = held_out_groups(range(len(tiles)), val_percent / 100, [seed, 4])
    parts = {"train": ~held_out, "val": held_out}
    return {name: [tiles[index] for index in np.flatnonzero(mask)] for name, mask in parts.items()}


def read_tile(tile, stretch=False):
    """Read a tile, with the masks on the image's pixels.

    Where both have a georeference the mask is laid on the image by it (in the published tiles the image is in degrees
    and the masks in meters, so that their sizes are of different shapes); what a mask does not cover becomes black.
    Otherwise it is laid by the sizes, if those are of one shape. Each mask pixel then covers the image pixels whose
    centers lie in it.

    Args:
        tile: ``Tile``. stretch: without a georeference in both, lay the mask over the whole image whatever its shape.

    Returns:
        (image, masks): uint8 (3, height, width), and a dict like ``MASKS`` of uint8 (height, width) of 0 and 1.

    Raises:
        ValueError: a file that cannot be read, is not 8-bit RGB, a mask with other values, or one that cannot be laid
            on the image; says which.
    """
    import rasterio

    path = tile.folder / IMAGE
    with quiet_georeference():
        try:
            with rasterio.open(path) as raster:
                if raster.count < 3 or raster.dtypes[0] != "uint8":
                    raise ValueError(f"{path}: {raster.count} channels of {raster.dtypes[0]}; 8-bit RGB is needed")
                image, grid = raster.read([1, 2, 3]), _Grid(raster.crs, raster.transform, raster.width, raster.height)
        except rasterio.errors.RasterioError as error:
            raise _unreadable(path, error) from error
        masks = {}
        for name, file in MASKS.items():
            masks[name], covered = _lay(*_read_mask(tile.folder / file), grid, tile.folder / file, path, stretch)
            image[:, ~covered] = 0
    return image, masks


def patch_places(height, width, side, stride):
    """Top-left corners of the patches of an image: every ``stride`` pixels, the last ones flush with the border.

    Returns:
        list of (top, left).
    """
    return [(top, left) for top in window_starts(height, side, stride) for left in window_starts(width, side, stride)]


class _Grid(NamedTuple):
    crs: object
    transform: object
    width: int
    height: int

    @property
    def referenced(self):
        return self.crs is not None and not self.transform.is_identity


def _read_mask(path):
    """uint8 mask of 0 and 1, and its grid; no-data and negative values are 0, as the data's authors have it."""
    import rasterio

    try:
        with rasterio.open(path) as raster:
            values, own = raster.read(1), _Grid(raster.crs, raster.transform, raster.width, raster.height)
            nothing = raster.read_masks(1) == 0
    except rasterio.errors.RasterioError as error:
        raise _unreadable(path, error) from error
    values = np.where(nothing | (values < 0), 0, values)
    found = np.unique(values)
    if not (np.isin(found, [0, 1]).all() or np.isin(found, [0, 255]).all()):
        wrong = next((value for value in found if value not in (0, 1, 255)), 255)
        raise ValueError(f"{path} holds the value {wrong}; 0 and 1 (or 0 and 255) are expected")
    return (values != 0).astype(np.uint8), own


def _lay(mask, own, grid, path, image_path, stretch):
    """A mask on the image's grid, and which of its pixels it covers: two arrays (height, width)."""
    if own.referenced and grid.referenced:
        from rasterio import warp

        found, covered = np.zeros((2, grid.height, grid.width), np.uint8)
        where = {"src_transform": own.transform, "src_crs": own.crs, "resampling": warp.Resampling.nearest}
        where |= {"dst_transform": grid.transform, "dst_crs": grid.crs}
        warp.reproject(mask, found, **where)
        warp.reproject(np.ones_like(mask), covered, **where)
        if covered.mean() < _COVERED:
            raise ValueError(
                f"{path} covers {covered.mean():.0%} of {image_path} by their georeferences, {_COVERED:.0%} is needed; "
                "mend or remove the tile"
            )
        return found, covered.astype(bool)
    if stretch or same_shape((own.width, own.height), (grid.width, grid.height)):
        rows = ((np.arange(grid.height) + 0.5) * own.height / grid.height).astype(int)
        columns = ((np.arange(grid.width) + 0.5) * own.width / grid.width).astype(int)
        return mask[rows[:, None], columns], np.ones((grid.height, grid.width), bool)
    raise ValueError(
        f"{path} is {own.width} x {own.height} pixels and {image_path} {grid.width} x {grid.height}: not of one shape, "
        "and no georeference in both says how the mask lies; mend or remove the tile, or say --stretch if both are of "
        "the same ground"
    )


def _unreadable(path, error):
    return ValueError(f"{path} cannot be read ({error}); fetch it again or remove its tile")
