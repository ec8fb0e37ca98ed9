"""List files, read their headers, and check that they fit each other."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from vicreg.common.logger import log
from vicreg.data.image_listing import image_paths, log_skipped
from vicreg.data.raster_pack.dates import date_finder
from vicreg.data.raster_pack.grids import resample
from vicreg.data.raster_pack.scenes import (
    COLORS,
    FileProblem,
    Scene,
    is_scene_name,
    is_without_header,
    open_gdal,
    read_scene,
    reading,
    remote_options,
)
from vicreg.data.raster_pack.stack import read_stack, same_ground
from vicreg.data.rasters import quiet_georeference
from vicreg.distributed.shares import map_shares


class Source(NamedTuple):
    """A scene to read.

    Attributes:
        path: Path for GDAL or Pillow; of the first file of a stack.
        name: Name in the lists.
        date: Date of a catalog, or "".
        stack: Name and path of each band, if they are files of their own.
    """

    path: str
    name: str
    date: str = ""
    stack: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """Options of the preparation; see ``make_imagery_csv.py``.

    Attributes:
        patch_size: Side of patches in pixels; None for 256, or what all files hold if none reaches it.
        bands: Numbers or descriptions of the bands, or None.
        scale: ["LOW", "HIGH"], ["p2,p98"] or None.
        dtype: Type of scaled values.
        max_nodata: Maximum fraction of a patch without data.
        snap_tolerance: Maximum misalignment in pixels.
        resolution: Pixel size to resample to, or None.
        crs: Coordinate reference system to resample to, or None.
        date_pattern: See ``dates.date_finder``.
        cloud_mask: Name of the mask of a scene, with ``{stem}`` or ``{name}``, or None.
        shard_size: Maximum size of a shard in MB.
        seed: Seed of the sample for percentiles.
    """

    patch_size: int | None = None
    bands: tuple[str, ...] | None = None
    scale: tuple[str, ...] | None = None
    dtype: str = "uint16"
    max_nodata: float = 0.1
    snap_tolerance: float = 0.05
    resolution: float | None = None
    crs: str | None = None
    date_pattern: str | None = None
    cloud_mask: str | None = None
    shard_size: float = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, valid, need in (
            ("patch-size", self.patch_size is None or self.patch_size > 0, "1 pixel or more"),
            ("max-nodata", 0 <= self.max_nodata < 1, "0 or more and below 1"),
            ("snap-tolerance", 0 <= self.snap_tolerance < 0.5, "0 or more and below 0.5 pixels"),
            ("resolution", self.resolution is None or self.resolution > 0, "a positive number"),
            ("shard-size", 0 < self.shard_size <= 4096, "above 0 and at most 4096 MB"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise ValueError(f"--{flag} {getattr(self, flag.replace('-', '_'))}: {need} is needed")
        if self.crs and not self.resolution:
            raise ValueError(f"--crs {self.crs} resamples, so it needs --resolution in units of that system")


def list_sources(folder: str | Path) -> list[Source]:
    """List the rasters and images below a folder, at any depth; a file is itself. Other files are counted in the log.

    Raises:
        FileNotFoundError: There is no such folder or file.
    """
    folder = Path(folder)
    if folder.is_file():
        return [Source(str(folder), folder.name)]
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    skipped: list[str] = []
    images = image_paths(folder, skipped=skipped, accept=is_scene_name)
    paths = [path for path in images if not is_without_header(path)]
    log_skipped(folder, sorted(skipped + list(set(images) - set(paths))))
    return [Source(path, Path(path).relative_to(folder).as_posix()) for path in paths]


def read_scenes(
    sources: Sequence[Source], options: PackOptions, workers: int, progress: Callable[..., Iterable[Any]]
) -> tuple[list[Scene], list[FileProblem]]:
    """Read the headers of all files in threads, and check that they fit each other. A collective call.

    Returns:
        Scenes in the order of ``sources``, and the files that cannot be used.

    Raises:
        ValueError: An option is malformed or needs something that the files do not have.
    """
    import rasterio

    find_date = date_finder(options.date_pattern)
    sources, masks = _split_masks(sources, options.cloud_mask)

    def read(source: Source) -> Scene | FileProblem:
        try:
            if source.stack:
                scene, tags = read_stack(source.stack, source.name)
            else:
                scene, tags = read_scene(source.path, source.name, options.bands)
            if mask := masks.get(source.path, ""):
                _check_mask(scene, mask, resampled=options.resolution is not None)
            if options.resolution:
                scene = resample(scene, options.crs, options.resolution)
        except ValueError as error:
            return FileProblem("unusable file", source.path, str(error))
        date, origin = find_date(source.name, tags, source.date)
        return dataclasses.replace(scene, date=date, date_source=origin, mask=mask)

    remote = remote_options(source.path for source in sources)
    with rasterio.Env(**remote), quiet_georeference(), ThreadPoolExecutor(workers) as pool:
        results = map_shares(lambda share: progress(pool.map(read, share), total=len(share)), sources)
    scenes = [result for result in results if isinstance(result, Scene)]
    problems = [result for result in results if isinstance(result, FileProblem)]
    scenes, unlike = _check_alike(scenes, options)
    return scenes, problems + unlike


def _split_masks(sources: Sequence[Source], pattern: str | None) -> tuple[list[Source], dict[str, str]]:
    """Return the sources that are no cloud masks, and the mask of each scene that has one."""
    if pattern is None:
        return list(sources), {}
    if "{stem}" not in pattern and "{name}" not in pattern:
        raise ValueError(
            f"--cloud-mask {pattern!r}: name the mask of a scene with {{stem}}, such as {{stem}}_cloud.tif"
        )
    masks, listed = {}, {source.path for source in sources}
    for source in sources:
        folder, slash, name = source.path.rpartition("/")  # a path or an address, which has to be listed itself
        mask = folder + slash + pattern.replace("{stem}", Path(name).stem).replace("{name}", name)
        if mask != source.path and (mask in listed or Path(mask).is_file()):
            masks[source.path] = mask
    if not masks:
        raise ValueError(f"--cloud-mask {pattern!r}: no scene has such a file beside it")
    chosen = set(masks.values())
    if without := len(sources) - len(chosen) - len(masks):
        log(f"note: {without} of {len(sources) - len(chosen)} scenes have no cloud mask")
    return [source for source in sources if source.path not in chosen], masks


def _check_mask(scene: Scene, mask: str, resampled: bool) -> None:
    """Raise ValueError unless a cloud mask has the extent of its scene, or its size if it needs no georeference."""
    try:
        with reading(mask), open_gdal(mask) as raster:
            other = dataclasses.replace(scene, width=raster.width, height=raster.height)
            if resampled or not raster.transform.is_identity:
                xres, _, left, _, yres, top = raster.transform[:6]
                crs = raster.crs.to_wkt() if raster.crs else ""
                other = dataclasses.replace(other, transform=(left, xres, top, -yres), crs=crs)
        if not same_ground(scene, other):
            raise ValueError("its extent or coordinate reference system is not that of the scene")
    except ValueError as error:
        raise ValueError(f"cloud mask {mask}: {error}") from error


def _check_alike(scenes: list[Scene], options: PackOptions) -> tuple[list[Scene], list[FileProblem]]:
    """Leave out files whose bands, type or lack of a georeference differ from the others."""
    by_name = options.bands is not None and not all(band.isdecimal() for band in options.bands)
    keys = [(0 if by_name else scene.count, scene.dtype) for scene in scenes]
    usual, number = Counter(keys).most_common(1)[0] if keys else ((0, ""), 0)
    colors = [tuple(name for name in scene.band_names if name in COLORS) for scene in scenes]
    usual_colors = Counter(filter(None, colors)).most_common(1)
    has_crs = any(scene.crs for scene in scenes)
    alike, problems = [], []
    for scene, key, order in zip(scenes, keys, colors, strict=True):
        kind, message = "other bands", ""
        if key != usual:
            bands, others = ("" if by_name else f"{count} bands of " for count in (scene.count, usual[0]))
            message = f"{bands}{scene.dtype}, where {number} files have {others}{usual[1]}"
        elif order and order != usual_colors[0][0]:
            message = f"bands {' '.join(order)}, where others are {' '.join(usual_colors[0][0])}; choose with --bands"
        elif has_crs and not scene.crs:
            kind, message = "no georeference", "no georeference with a CRS, where others have one"
        if message:
            problems.append(FileProblem(kind, scene.path, message))
        else:
            alike.append(scene)
    return alike, problems
