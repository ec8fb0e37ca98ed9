"""A look over an SN7 tree before anything is written: which mosaics there are, where they lie, what is wrong."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from preprocessing.problems import Problem
from preprocessing.sn7.geocode import footprint_points, locate, raster_points, tile_points
from vicreg.data.sn7_format import CHANNELS, MosaicName, parse_aoi_name, parse_mosaic_name
from vicreg.inference.rasters import quiet_georeference

SUFFIXES = (".tif", ".tiff")


class Mosaic(NamedTuple):
    """One monthly mosaic: file, what its name says, size in pixels, georeference (``crs`` is None without one)."""

    path: Path
    name: MosaicName
    width: int
    height: int
    crs: object
    transform: tuple


def list_aois(data_dir):
    """AOI folders of a tree, by name: every folder that is named like one or has images/ in it.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no AOIs in it.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no folder {data_dir}; --data-dir is the SpaceNet-7 tree, such as SN7/train")
    folders = sorted(path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    aois = [path for path in folders if path.name.startswith("L15-") or (path / "images").is_dir()]
    if not aois:
        inside = next((path for path in folders if path.name == "train"), None)
        hint = f"; did you mean {inside}?" if inside else " (<AOI>/images/*.tif)"
        raise ValueError(f"no AOI folders in {data_dir}{hint}")
    return aois


def scan_tree(data_dir, workers):
    """Find the mosaics of a tree and look at their headers; pixels are not read.

    Args:
        data_dir: folder with <AOI>/images/*.tif. workers: threads.

    Returns:
        list of Mosaic by AOI, year and month, all of one width and 0 or 1 rows less than square; list of Problem.

    Raises:
        FileNotFoundError, ValueError: there is no tree at all.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}; at least 1 is needed")
    problems, named = [], []
    for folder in list_aois(data_dir):
        found, wrong = _find_mosaics(folder)
        named += found
        problems += wrong
    with quiet_georeference(), ThreadPoolExecutor(workers) as pool:
        headers = list(pool.map(_read_header, *zip(*named, strict=True))) if named else []
    problems += [header for header in headers if isinstance(header, Problem)]
    mosaics, wrong = _of_one_size([header for header in headers if isinstance(header, Mosaic)])
    return sorted(mosaics, key=lambda mosaic: mosaic.name[:3]), problems + wrong


def _find_mosaics(folder):
    """One AOI's files -> list of (path, MosaicName), list of Problem."""
    try:
        parse_aoi_name(folder.name)
    except ValueError:
        return [], [Problem("unreadable name", folder, "not the name of a SpaceNet-7 AOI (L15-…_<x>_<y>_<z>)")]
    images = folder / "images"
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES) if images.is_dir() else []
    if not paths:
        return [], [Problem("AOI without images", folder, "no images/ folder, or no .tif in it")]
    named, problems, months = [], [], {}
    for path in paths:
        try:
            name = parse_mosaic_name(path.name)
        except ValueError as error:
            problems.append(Problem("unreadable name", path, str(error).partition(": ")[2]))
            continue
        if name.aoi != folder.name:
            problems.append(Problem("other AOI", path, f"named for {name.aoi}, but in the folder of {folder.name}"))
        elif months.setdefault(name[:3], path) != path:
            problems.append(Problem("duplicate month", path, f"the same month as {months[name[:3]].name}"))
        else:
            named.append((path, name))
    return named, problems


def _read_header(path, name):
    """Size and georeference of one mosaic -> Mosaic, or Problem."""
    import rasterio

    try:
        with rasterio.open(path) as raster:
            if raster.count < CHANNELS or raster.dtypes[0] != "uint8":
                what = f"{raster.count} channels of {raster.dtypes[0]}; RGB or RGBA uint8 expected"
                return Problem("unreadable mosaic", path, what)
            crs = None if raster.transform.is_identity else raster.crs
            return Mosaic(path, name, raster.width, raster.height, crs, raster.transform[:6])
    except rasterio.errors.RasterioError as error:
        return Problem("unreadable mosaic", path, f"cannot be read as a TIFF, corrupt or truncated ({error})")


def _of_one_size(mosaics):
    """Keep the mosaics of the tree's most frequent width that are square or one row short of it."""
    widths = Counter(mosaic.width for mosaic in mosaics)
    usual = max(widths, key=lambda width: (widths[width], width), default=0)
    kept, problems = [], []
    for mosaic in mosaics:
        if mosaic.width == usual and mosaic.height in (usual, usual - 1):
            kept.append(mosaic)
        else:
            what = f"{mosaic.width} x {mosaic.height} pixels; {usual} x {usual} or {usual} x {usual - 1} expected"
            problems.append(Problem("wrong size", mosaic.path, what))
    return kept, problems


def locate_aois(mosaics, known):
    """Find out where each AOI is.

    The newest label file votes where there is one: towns of SpaceNet-7 only grow, so it has (nearly) every footprint
    of the earlier ones, and reading one file of 25 is 25 times as fast. Without one, points all over the raster vote;
    without a georeference, points all over the tile in the AOI's name.

    Args:
        mosaics: list of Mosaic. known: dict AOI -> Place, of places that need no vote.

    Returns:
        dict AOI -> Place, and list of Problem (label files).
    """
    firsts, places, problems = {}, {}, []
    for mosaic in mosaics:
        firsts.setdefault(mosaic.name.aoi, mosaic)
    for aoi, first in firsts.items():
        points, wrong = _footprints(first.path.parents[1] / "labels")
        problems += wrong
        if aoi in known:
            places[aoi] = known[aoi]
            continue
        if points is None and first.crs:
            points = raster_points(first.crs, first.transform, first.width, first.height)
        places[aoi] = locate(tile_points(aoi) if points is None else points)
    return places, problems


def _footprints(folder):
    """Footprint positions in an AOI's newest label file (None without one), and problems of all its label files."""
    paths = sorted(folder.glob("*_Buildings.geojson"))
    if not paths:
        return None, []
    problems = [Problem("label file", path, what) for path in paths[:-1] if (what := _visibly_broken(path))]
    try:
        return footprint_points(paths[-1]), problems
    except ValueError as error:
        return None, [*problems, Problem("label file", paths[-1], str(error).removeprefix(f"{paths[-1]}: "))]


def _visibly_broken(path):
    """What is wrong with a GeoJSON that nobody reads, by its first and last bytes; "" if it looks whole.

    A whole read of every month would take longer than all the rest, and an early month may truly have no building.
    """
    size = path.stat().st_size
    if not size:
        return "empty file (zero bytes)"
    with path.open("rb") as file:
        first = file.read(64).lstrip()[:1]
        file.seek(max(0, size - 64))
        last = file.read().rstrip()[-1:]
    return "" if (first, last) == (b"{", b"}") else "cannot be read as GeoJSON (does not begin with { and end with })"
