"""Write patches to shards: ``patches-00000.npy`` and a record of its rows.

A shard is a list of windows of scenes. The list depends on the scenes and the options alone, so a shard has the same
bytes whichever process writes it, and a killed job resumes with the shards that are missing.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vicreg.common.files import atomic_write, file_digest
from vicreg.data.raster_pack.cut import CutOptions, Patches, Window, cut_window
from vicreg.data.raster_pack.grids import Placement
from vicreg.data.raster_pack.plan import Plan
from vicreg.data.raster_pack.reader import SceneReader
from vicreg.data.raster_pack.scenes import Scene, remote_options
from vicreg.data.rasters import quiet_georeference

_GDAL_CACHE_MB = 160


def write_shard(
    number: int,
    windows: Sequence[Window],
    scenes: Mapping[int, tuple[Scene, Placement]],
    options: CutOptions,
    folder: Path,
    workers: int,
) -> Path:
    """Write a shard and, last, its record, whose path is returned; see ``run_shards`` and ``read_record``.

    A complete shard without scenes that could not be read is kept.
    """
    record, shard = record_path(folder, number), folder / shard_name(number)
    if record.exists() and shard.exists() and not read_record(record)[0]["problems"]:
        return record
    patches = _cut_in_order(windows, scenes, options, workers)
    channels = len(scenes[windows[0].scene][0].bands)
    cells = sum((window.row1 - window.row0) * (window.column1 - window.column0) for window in windows)
    content = atomic_write(shard, lambda path: _write(path, patches, (cells, channels), options))
    atomic_write(record, lambda path: np.savez(path, **content))  # type: ignore[arg-type]
    return record


def record_path(folder: Path, number: int) -> Path:
    """Return the path of the record of a shard."""
    return folder / f"shard-{number:05d}.npz"


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"patches-{number:05d}.npy"


def _write(
    path: Path, cut: Iterable[tuple[Window, Patches | ValueError]], shape: tuple[int, int], options: CutOptions
) -> dict[str, np.ndarray]:
    """Write the patches of a shard of at most (patches, channels), and return the content of its record."""
    (cells, channels), size = shape, options.patch_size
    parts: list[Patches] = []
    owners: list[int] = []
    problems: dict[int, str] = {}
    rows = 0
    header = npy_header(options.dtype, (cells, channels, size, size))  # right unless patches are dropped
    digest = hashlib.sha256(header)
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(header)
        flushing = pool.submit(os.fsync, file.fileno())  # to disk while other threads read
        for window, result in cut:
            if isinstance(result, ValueError):
                problems[window.scene] = str(result)
                continue
            file.write(result.pixels.data)
            digest.update(result.pixels.data)  # while other threads read
            if flushing.done():
                flushing.result()  # such as a full disk
                flushing = pool.submit(os.fsync, file.fileno())
            rows += len(result.pixels)
            parts.append(result._replace(pixels=np.empty(0)))
            owners.append(window.scene)
        flushing.result()
        if rows != cells:
            file.seek(0)
            file.write(npy_header(options.dtype, (rows, channels, size, size)))
    fields = ("columns", "rows", "valid", "means", "squares", "digests")
    arrays: dict[str, Any] = {}
    if parts:
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
        arrays["scene"] = np.repeat(owners, [len(part.valid) for part in parts])
    counts = {"rows": rows, "sha256": digest.hexdigest() if rows == cells else file_digest(path), "problems": problems}
    counts |= {"dropped": sum(part.dropped for part in parts), "scale": options.scale}
    counts["clipped"] = np.sum([part.clipped for part in parts], axis=0).tolist() if parts else [0, 0]
    return {"info": np.array(json.dumps(counts)), **arrays}


def read_record(record: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the counts of a shard, and the columns of its rows: ``scene``, and fields of ``Patches``.

    Raises:
        ValueError: The record is damaged.
    """
    try:
        with np.load(record) as arrays:
            return json.loads(str(arrays["info"])), {name: arrays[name] for name in arrays.files if name != "info"}
    except Exception as error:  # numpy and zipfile raise exceptions of many types
        raise ValueError(f"{record}: damaged ({error}); delete it and run the command again") from error


def _cut_in_order(
    windows: Sequence[Window], scenes: Mapping[int, tuple[Scene, Placement]], options: CutOptions, workers: int
) -> Iterator[tuple[Window, Patches | ValueError]]:
    """Yield the patches of windows in order, or why a scene cannot be read, reading a few ahead in threads."""
    import rasterio

    readers: dict[int, SceneReader] = {}
    last = {window.scene: index for index, window in enumerate(windows)}
    failed: dict[int, ValueError] = {}

    def cut(window: Window) -> Patches | ValueError:
        if window.scene in failed:
            return failed[window.scene]
        try:
            return cut_window(readers[window.scene], scenes[window.scene][1], window, options)
        except ValueError as error:
            return failed.setdefault(window.scene, error)

    environment = {"GDAL_CACHEMAX": _GDAL_CACHE_MB} | remote_options(scene.path for scene, _ in scenes.values())
    ahead: deque = deque()
    with rasterio.Env(**environment), quiet_georeference(), ThreadPoolExecutor(workers) as pool:

        def finish() -> tuple[Window, Patches | ValueError]:
            index, window, future = ahead.popleft()
            result = future.result()
            if last[window.scene] == index:
                readers.pop(window.scene).close()
            return window, result

        for index, window in enumerate(windows):
            readers.setdefault(window.scene, SceneReader(scenes[window.scene][0]))
            ahead.append((index, window, pool.submit(cut, window)))
            if len(ahead) > workers:
                yield finish()
        while ahead:
            yield finish()


def run_shards(
    plan: Plan,
    folder: Path,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    executor: Any = None,
    progress: Callable[..., Iterable[Any]] = lambda iterable, total: iterable,
) -> list[Path]:
    """Write shards, all of them or those of one part.

    Args:
        plan: What is to be cut.
        folder: Folder to write to, shared by all processes.
        workers: Threads for each shard.
        part: (I, N): this process writes the shards I, I + N, …
        executor: A ``concurrent.futures`` executor of other processes; default: this process.
        progress: Progress bar (iterable, total) -> iterable.

    Returns:
        Paths of the records.
    """
    numbers = range(part[0], len(plan.shards), part[1])

    def arguments(number: int) -> tuple[Any, ...]:  # only the scenes of a shard travel to another process
        used = {window.scene for window in plan.shards[number]}
        scenes = {index: (plan.scenes[index], plan.placements[index]) for index in used}
        return number, plan.shards[number], scenes, plan.cut, folder, workers

    if executor is None:
        results: Iterable[Path] = (write_shard(*arguments(number)) for number in numbers)
    else:
        futures = [executor.submit(write_shard, *arguments(number)) for number in numbers]
        results = (future.result() for future in futures)
    return list(progress(results, total=len(numbers)))


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Build a .npy header of 128 bytes, so that the number of rows can be written at the end."""
    text = f"{{'descr': {np.dtype(dtype).str!r}, 'fortran_order': False, 'shape': {tuple(map(int, shape))}, }}"
    body = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
