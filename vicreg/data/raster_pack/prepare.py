"""Prepare a folder of rasters without labels, for scripts that take ``--data-dir``."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vicreg.data.raster_pack.headers import PackOptions, Source, read_scenes
from vicreg.data.raster_pack.lists import collect, describe, publish
from vicreg.data.raster_pack.plan import make_plan, work_folder
from vicreg.data.raster_pack.scenes import FileProblem
from vicreg.data.raster_pack.shards import run_shards


def prepare_folder(
    data_dir: str | Path,
    sources: Sequence[Source],
    out_dir: Path,
    options: PackOptions,
    progress: Callable[..., Iterable[Any]],
    is_main: bool = True,
) -> tuple[dict[str, Any], list[FileProblem]]:
    """Prepare files without labels and without a validation part, if that has not been done already.

    Args:
        data_dir: Folder, for messages.
        sources: Its files.
        out_dir: Folder to write.
        options: Options.
        progress: Progress bar (iterable, total) -> iterable.
        is_main: Whether this process writes; the others wait for it.

    Returns:
        Content of ``meta.json``, and the files that were left out.

    Raises:
        ValueError: There is nothing that can be used.
    """
    workers = min(8, os.cpu_count() or 1)
    scenes, problems = read_scenes(sources, options, workers, progress)
    if not scenes:
        why = f": {problems[0].path}: {problems[0].message}" if problems else ""
        raise ValueError(f"no usable raster or image in {data_dir}{why}")
    plan = make_plan(scenes, options)
    while True:  # not a barrier, which would time out
        if (out_dir / "meta.json").is_file():
            meta = json.loads((out_dir / "meta.json").read_text())
            if meta.get("fingerprint") == plan.fingerprint:
                return meta, problems
        if is_main:
            break
        time.sleep(1)
    work = work_folder(out_dir, plan, shared=False)
    records = run_shards(plan.shards, plan.scenes, plan.placements, plan.cut, work, workers, progress=progress)
    result = collect(plan, records)
    if result.table.empty:
        raise ValueError(f"{data_dir}: no patch of {options.patch_size} x {options.patch_size} pixels with enough data")
    result = result._replace(table=result.table.assign(label=-1, split="train"))
    meta = describe(plan, result, [], {"rule": "none"})
    publish(work, out_dir, result.table, meta)
    return meta, problems + result.problems
