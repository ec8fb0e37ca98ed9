"""Place scenes on grids: one for each coordinate reference system, resolution and alignment.

A grid numbers its pixels from the origin of the coordinate system. Scenes that overlap, directly or through others, are
a site. The patches of a site, its cells, start at the corner that most of its scenes share, so that scenes of one
extent, such as the tiles of a series, are cut without loss; a cell is a location, whatever scene it is read from.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vicreg.data.raster_pack.scenes import Scene

_SHRINK = 0.25  # pixels: scenes that only touch do not overlap


class Grid(NamedTuple):
    """A lattice of pixels: x = x0 + column * xres, y = y0 - row * yres."""

    crs: str
    xres: float
    yres: float
    x0: float
    y0: float


class Placement(NamedTuple):
    """Position of a scene.

    Attributes:
        grid: Number of the grid; -1 without a georeference.
        site: Name of the site.
        column: First column of the scene in the grid.
        row: First row.
        anchor: Column and row where a cell of the site starts.
    """

    grid: int
    site: str
    column: int
    row: int
    anchor: tuple[int, int]


def resample(scene: Scene, crs: str | None, resolution: float) -> Scene:
    """Describe a scene resampled to pixels of ``resolution`` at multiples of it; unchanged if it is there already.

    Raises:
        ValueError: The scene has no georeference, or it cannot be transformed to ``crs``.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform_bounds

    if scene.transform is None or not scene.crs:
        raise ValueError("no georeference, so it cannot be resampled with --resolution")
    left, xres, top, yres = scene.transform
    source, target = CRS.from_wkt(scene.crs), CRS.from_user_input(crs or scene.crs)
    on_grid = Grid(scene.crs, resolution, resolution, 0.0, 0.0)
    if source == target and _find_grid(scene, np.array([on_grid[1:]]), 1e-3) is not None:
        return dataclasses.replace(scene, crs=target.to_wkt())  # the same system may have several texts
    bounds = (left, top - scene.height * yres, left + scene.width * xres, top)
    try:
        west, south, east, north = transform_bounds(source, target, *bounds)
    except Exception as error:  # errors of GDAL and PROJ have no public base class
        raise ValueError(f"cannot be transformed to {crs} ({error})") from error
    if not all(map(math.isfinite, (west, south, east, north))):
        raise ValueError(f"lies outside of {crs}")
    if east <= west:
        raise ValueError(f"crosses 180 degrees in {crs}; choose another --crs, such as its UTM zone")
    columns = math.floor(west / resolution + 1e-6), math.ceil(east / resolution - 1e-6)
    rows = math.floor(south / resolution + 1e-6), math.ceil(north / resolution - 1e-6)
    west, north = columns[0] * resolution, rows[1] * resolution
    width, height = columns[1] - columns[0], rows[1] - rows[0]
    warp = (target.to_wkt(), (resolution, 0.0, west, 0.0, -resolution, north), width, height)
    transform = (west, resolution, north, resolution)
    return dataclasses.replace(scene, crs=target.to_wkt(), transform=transform, warp=warp, width=width, height=height)


def place_scenes(
    scenes: Sequence[Scene], tolerance: float, patch_size: int, locations: Sequence[str] | None = None
) -> tuple[list[Grid], list[Placement]]:
    """Place scenes on grids and group them to sites.

    Args:
        scenes: Scenes. Those without a transform are sites of their own, or those of ``locations``.
        tolerance: Maximum distance of the pixels of a scene from those of its grid, in pixels.
        patch_size: Side of a cell in pixels.
        locations: Site of each scene without a georeference; default: its name.

    Returns:
        Grids, and the placement of each scene.
    """
    grids: list[Grid] = []
    positions: list[tuple[int, int, int]] = []
    by_crs: dict[str, list[int]] = defaultdict(list)
    arrays: dict[str, np.ndarray] = defaultdict(lambda: np.empty((1, 4)))  # rows of ``_find_grid``, and some to spare
    for scene in scenes:
        if scene.transform is None:
            positions.append((-1, 0, 0))
            continue
        left, xres, top, yres = scene.transform
        numbers = by_crs[scene.crs]
        number = _find_grid(scene, arrays[scene.crs][: len(numbers)], tolerance)
        if number is None:
            grids.append(Grid(scene.crs, xres, yres, left - round(left / xres) * xres, top - round(top / yres) * yres))
            number, rows = len(numbers), arrays[scene.crs]
            if number == len(rows):
                arrays[scene.crs] = rows = np.resize(rows, (2 * number, 4))
            rows[number] = grids[-1][1:]
            numbers.append(len(grids) - 1)
        grid = grids[numbers[number]]
        positions.append((numbers[number], round((left - grid.x0) / grid.xres), round((grid.y0 - top) / grid.yres)))
    return grids, _find_sites(scenes, positions, patch_size, locations)


def _find_grid(scene: Scene, grids: np.ndarray, tolerance: float) -> int | None:
    """Return the index of the first grid, a row (xres, yres, x0, y0), whose pixels both corners of a scene fit."""
    assert scene.transform is not None
    left, xres, top, yres = scene.transform
    near = np.flatnonzero(np.abs(scene.width * xres / grids[:, 0] - scene.width) <= 2 * tolerance + 1e-3)
    grids = grids[near]  # the others cannot fit: with a grid for each scene, this saves nearly all of the time
    fits = np.ones(len(grids), bool)
    for start, size, step, resolution, origin in (
        (left, scene.width, xres, grids[:, 0], grids[:, 2]), (-top, scene.height, yres, grids[:, 1], -grids[:, 3]),
    ):  # fmt: skip
        first, last = (start - origin) / resolution, (start + size * step - origin) / resolution
        fits &= (np.abs(first - first.round()) <= tolerance) & (np.abs(last - last.round()) <= tolerance)
        fits &= last.round() - first.round() == size
    return int(near[np.argmax(fits)]) if fits.any() else None


def _find_sites(
    scenes: Sequence[Scene], positions: list[tuple[int, int, int]], patch_size: int, locations: Sequence[str] | None
) -> list[Placement]:
    """Group scenes that overlap, and choose where the cells of each group start."""
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sites = [locations[index] if locations else scene.name for index, scene in enumerate(scenes)]
    anchors: list[tuple[int, int]] = [(0, 0)] * len(scenes)
    members: dict[int, list[int]] = defaultdict(list)
    for index, (grid, _, _) in enumerate(positions):
        if grid >= 0:
            members[grid].append(index)
    for grid, indices in members.items():
        corners = np.array([positions[index][1:] for index in indices])
        sizes = np.array([(scenes[index].width, scenes[index].height) for index in indices])
        boxes, inverse = np.unique(np.hstack([corners, corners + sizes]), axis=0, return_inverse=True)
        inverse = inverse.ravel()
        shapes = shapely.box(*(boxes + np.array([1, 1, -1, -1]) * _SHRINK).T)
        pairs = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        pairs = pairs.astype(np.int32)  # SciPy 1.11 puts all in one component if indices have 64 bits
        graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(len(boxes),) * 2)
        component = connected_components(graph, directed=False)[1][inverse]
        order = np.argsort(component, kind="stable")
        for number, inside in enumerate(np.split(order, np.flatnonzero(np.diff(component[order])) + 1)):
            counts = Counter(map(tuple, corners[inside].tolist()))
            anchor = min(counts, key=lambda corner: (-counts[corner], corner))
            for position in inside:
                sites[indices[position]], anchors[indices[position]] = f"{grid}-{number}", anchor
    return [
        Placement(grid, site, column, row, (anchor[0] % patch_size, anchor[1] % patch_size))
        for (grid, column, row), site, anchor in zip(positions, sites, anchors, strict=True)
    ]
