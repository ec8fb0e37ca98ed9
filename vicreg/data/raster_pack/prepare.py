"""Prepare a folder of rasters without labels, for scripts that take ``--data-dir``."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vicreg.common.logger import lock_run_dir, log
from vicreg.data.raster_pack.headers import PackOptions, Source, read_scenes
from vicreg.data.raster_pack.lists import collect, describe, publish
from vicreg.data.raster_pack.plan import WORK_FOLDER, Plan, make_plan, work_folder
from vicreg.data.raster_pack.scenes import FileProblem
from vicreg.data.raster_pack.shards import run_shards
from vicreg.data.tables import read_meta_file
from vicreg.distributed import process_group
from vicreg.distributed.waiting import wait_for_main

_WORKERS = min(8, os.cpu_count() or 1)


def prepare_folder(
    data_dir: str | Path,
    sources: Sequence[Source],
    out_dir: Path,
    options: PackOptions,
    progress: Callable[..., Iterable[Any]],
) -> tuple[dict[str, Any], list[FileProblem]]:
    """Prepare files of ``data_dir`` without labels and a validation part, if that has not been done already.

    The main process writes, with a lock on the run folder, the parent of ``out_dir``; the others wait for it. A
    collective call.

    Returns:
        Content of ``meta.json``, and the files that were left out, now or when the folder was prepared.

    Raises:
        ValueError: There is nothing that can be used, another run has locked the run folder, or another process sees
            other files.
        ConnectionError: The main process makes no progress.
    """
    scenes, problems = read_scenes(sources, options, _WORKERS, progress)
    if not scenes:
        why = f": {problems[0].path}: {problems[0].message}" if problems else ""
        raise ValueError(f"no usable raster or image in {data_dir}{why}")
    plan = make_plan(scenes, options)
    process_group.check_same_across_ranks({str(data_dir): plan.fingerprint}, "files")
    if process_group.is_main() and _read_meta(out_dir, plan) is None:
        with lock_run_dir(out_dir.parent):
            _write(data_dir, out_dir, plan, progress)
    meta = wait_for_main(lambda: _read_meta(out_dir, plan), out_dir / WORK_FOLDER)
    unreadable = [FileProblem(*problem) for problem in meta.get("problems", ())]
    return meta, problems + unreadable


def _read_meta(out_dir: Path, plan: Plan) -> dict[str, Any] | None:
    """Return the content of ``meta.json`` if it is that of the plan."""
    with contextlib.suppress(FileNotFoundError):
        meta = read_meta_file(out_dir / "meta.json")
        if meta.get("fingerprint") == plan.fingerprint:
            return meta
    return None


def _write(data_dir: str | Path, out_dir: Path, plan: Plan, progress: Callable[..., Iterable[Any]]) -> None:
    others = process_group.world_size() - 1
    waiting = f" ({others} other process(es) wait)" if others else ""
    log(f"cutting {len(plan.scenes)} files into patches in {out_dir}{waiting}")
    work = work_folder(out_dir, plan, shared=False)
    records = run_shards(plan, work, _WORKERS, progress=progress)
    result = collect(plan, records)
    if result.table.empty:
        size = plan.cut.patch_size
        raise ValueError(f"{data_dir}: no patch of {size} x {size} pixels with enough data: the files are smaller "
                         "(--patch-size), or hold too much nodata")  # fmt: skip
    result = result._replace(table=result.table.assign(label=-1, split="train"))
    meta = describe(plan, result, [], {"rule": "none"})
    meta["problems"] = result.problems
    publish(work, out_dir, result.table, meta)
