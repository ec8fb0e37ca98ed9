"""Index an SN7 tree before anything is written: mosaics, locations of AOIs, problems."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocessing.problems import Problem
from preprocessing.sn7.geocode import check_position, footprint_points, format_position, raster_points, tile_points
from preprocessing.sn7.places import Place
from preprocessing.sn7.towns import locate
from vicreg.data.georeference import georeference
from vicreg.data.image_io import IMAGE_SUFFIXES
from vicreg.data.rasters import TIFF, quiet_georeference
from vicreg.data.sn7_format import CHANNELS, MosaicName, parse_aoi_name, parse_mosaic_name

_LABEL_SUFFIX = "_Buildings.geojson"


class Mosaic(NamedTuple):
    """A monthly mosaic: file, parsed name, size in pixels, georeference (``crs`` is None without one)."""

    path: Path
    name: MosaicName
    width: int
    height: int
    crs: Any
    transform: tuple


def list_aois(data_dir: str | Path) -> list[Path]:
    """List the AOI folders of a tree by name: folders that are named like an AOI or contain images/.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It contains no AOIs.
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


def scan_tree(data_dir: str | Path, workers: int) -> tuple[list[Mosaic], list[Problem]]:
    """List the mosaics of a tree from their headers, without reading pixels, and the tree's problems.

    The mosaics are sorted by AOI, year and month, all of one width, and square or one row short. A mosaic whose
    georeference contradicts the tile number in its name is a problem.

    Raises:
        FileNotFoundError: There is no tree.
        ValueError: The tree contains no AOIs.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    problems, named = [], []
    for folder in list_aois(data_dir):
        files, file_problems = _find_mosaics(folder)
        named += files
        problems += file_problems
    with quiet_georeference(), ThreadPoolExecutor(workers) as pool:
        headers = list(pool.map(_read_header, *zip(*named, strict=True))) if named else []
    problems += [header for header in headers if isinstance(header, Problem)]
    mosaics, size_problems = _check_sizes([header for header in headers if isinstance(header, Mosaic)])
    return sorted(mosaics, key=lambda mosaic: mosaic.name[:3]), problems + size_problems


def list_label_files(aoi: Path) -> list[Path]:
    """List the building footprints of an AOI folder by name, so by month."""
    return _visible((aoi / "labels").glob("*"), (_LABEL_SUFFIX.lower(),))


def _find_mosaics(folder: Path) -> tuple[list[tuple[Path, MosaicName]], list[Problem]]:
    """List the mosaics of one AOI by their names."""
    try:
        parse_aoi_name(folder.name)
    except ValueError:
        return [], [Problem("unreadable name", folder, "not the name of a SpaceNet-7 AOI (L15-…_<x>_<y>_<z>)")]
    images = folder / "images"
    paths = _visible(images.iterdir(), TIFF) if images.is_dir() else []
    if not paths:
        return [], [Problem("AOI without images", folder, "no images/ folder, or no .tif in it")]
    named, problems, months = [], [], {}
    for path in paths:
        name = _parse_name(path, path.name, folder.name)
        if isinstance(name, Problem):
            problems.append(name)
        elif months.setdefault(name[:3], path) != path:
            problems.append(Problem("duplicate month", path, f"the same month as {months[name[:3]].name}"))
        else:
            named.append((path, name))
    for path in _visible(images.iterdir(), IMAGE_SUFFIXES):
        name = _parse_name(path, f"{path.stem}.tif", folder.name)
        if path.suffix.lower() not in TIFF and isinstance(name, MosaicName) and name[:3] not in months:
            problems.append(Problem("not a TIFF", path, "this month has no TIFF; convert it to one"))
    return named, problems


def _visible(paths: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Sort the files with given suffixes; hidden files, such as macOS's ``._*`` companions, are left out."""
    return sorted(path for path in paths if path.name.lower().endswith(suffixes) and not path.name.startswith("."))


def _parse_name(path: Path, mosaic: str, aoi: str) -> MosaicName | Problem:
    """Parse the name of a mosaic, or of the mosaic that a label file belongs to, and check its AOI."""
    try:
        name = parse_mosaic_name(mosaic)
    except ValueError as error:
        return Problem("unreadable name", path, str(error).partition(": ")[2])
    if name.aoi != aoi:
        return Problem("other AOI", path, f"the name says {name.aoi}, the folder is {aoi}")
    return name


def _read_header(path: Path, name: MosaicName) -> Mosaic | Problem:
    """Read the size and georeference of one mosaic."""
    import rasterio

    try:
        with rasterio.open(path, driver="GTiff") as raster:  # a VRT of that name could read other files
            if raster.count < CHANNELS or raster.dtypes[0] != "uint8":
                message = f"{raster.count} channels of {raster.dtypes[0]}; RGB or RGBA uint8 expected"
                return Problem("unreadable mosaic", path, message)
            crs, transform = georeference(raster) or (None, raster.transform[:6])
            mosaic = Mosaic(path, name, raster.width, raster.height, crs, transform)
        if crs is None:
            return mosaic
        message = check_position(name.aoi, _mosaic_points(mosaic), "its coordinates")
    except ValueError as error:
        message = f"{error}; assign EPSG:3857, or remove its georeference with gdal_edit.py -unsetgt -a_srs ''"
    except Exception as error:  # errors of GDAL have no public base class
        return Problem("unreadable mosaic", path, f"cannot be read as a TIFF, corrupt or truncated ({error})")
    return Problem("georeference", path, message) if message else mosaic


def _mosaic_points(mosaic: Mosaic) -> np.ndarray:
    return raster_points(mosaic.crs, mosaic.transform, mosaic.width, mosaic.height)


def _check_sizes(mosaics: list[Mosaic]) -> tuple[list[Mosaic], list[Problem]]:
    """Keep the mosaics of the tree's most frequent width that are square or one row short."""
    widths = Counter(mosaic.width for mosaic in mosaics)
    width = max(widths, key=lambda width: (widths[width], width), default=0)
    kept, problems = [], []
    for mosaic in mosaics:
        if mosaic.width == width and mosaic.height in (width, width - 1):
            kept.append(mosaic)
        else:
            message = f"{mosaic.width} x {mosaic.height} pixels; {width} x {width} or {width} x {width - 1} expected"
            problems.append(Problem("wrong size", mosaic.path, message))
    return kept, problems


def locate_aois(mosaics: list[Mosaic], known: dict[str, Place]) -> tuple[dict[str, Place], list[Problem]]:
    """Find the place of each AOI, without those in no country, and the problems of label files and positions.

    The AOIs in ``known`` need no vote. Otherwise, the building footprints of the newest label file vote, if there is
    one. SpaceNet-7 buildings accumulate, so it has nearly all footprints of the earlier files, and one file of 25 is
    read 25 times as fast. Without a label file, points all over the raster vote; without a georeference, points all
    over the tile in the AOI's name.
    """
    firsts, places, problems = {}, dict(known), []
    for mosaic in mosaics:
        firsts.setdefault(mosaic.name.aoi, mosaic)
    for aoi, first in firsts.items():
        folder = first.path.parents[1]
        points, label_problems = _footprints(folder, aoi)
        problems += label_problems
        if aoi in known:
            continue
        if points is None:
            points = _mosaic_points(first) if first.crs else tile_points(aoi)
        try:
            places[aoi] = locate(points)
        except ValueError as error:
            position = format_position(*np.median(points, axis=0))
            problems.append(Problem("AOI at sea", folder, f"{error} of {position}; name it with --labels-override"))
    return places, problems


def _footprints(folder: Path, aoi: str) -> tuple[np.ndarray | None, list[Problem]]:
    """Return the footprints of an AOI's newest label file (None without a usable one) and the label files' problems."""
    paths = list_label_files(folder)
    names = [_parse_name(path, path.name[: -len(_LABEL_SUFFIX)], aoi) for path in paths]
    problems = [name for name in names if isinstance(name, Problem)]
    paths = [path for path, name in zip(paths, names, strict=True) if isinstance(name, MosaicName)]
    problems += [Problem("label file", path, message) for path in paths[:-1] if (message := _quick_check(path))]
    if not paths:
        return None, problems
    try:
        points = footprint_points(paths[-1])
        if message := check_position(aoi, points, "its footprints"):
            raise ValueError(message)
    except ValueError as error:
        return None, [*problems, Problem("label file", paths[-1], str(error).removeprefix(f"{paths[-1]}: "))]
    return points, problems


def _quick_check(path: Path) -> str:
    """Return what is wrong with a GeoJSON file by its first and last bytes; "" if it looks complete.

    Reading every month would take longer than everything else, and an early month may have no buildings.
    """
    if not (size := path.stat().st_size):
        return "empty file (zero bytes)"
    with path.open("rb") as file:
        first = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]  # a byte order mark is allowed
        file.seek(max(0, size - 64))
        last = file.read().rstrip()[-1:]
    return "" if (first, last) == (b"{", b"}") else "cannot be read as GeoJSON (does not begin with { and end with })"
