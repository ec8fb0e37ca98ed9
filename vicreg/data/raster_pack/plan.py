"""What a job cuts, and the folder of its unfinished work."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vicreg.common import files
from vicreg.data.raster_pack.cut import CutOptions, Window, plan_windows
from vicreg.data.raster_pack.grids import Grid, Placement, place_scenes
from vicreg.data.raster_pack.headers import PackOptions
from vicreg.data.raster_pack.scale import cut_options
from vicreg.data.raster_pack.scenes import Scene

FORMAT = 1
PATCH_SIZE = 256  # default
WORK_FOLDER = ".imagery-work"  # in the output folder, until everything is ready


class Plan(NamedTuple):
    """What is to be cut: the same for all processes of a job."""

    scenes: list[Scene]
    grids: list[Grid]
    placements: list[Placement]
    shards: list[list[Window]]
    cut: CutOptions
    fingerprint: str
    size_rule: str  # where the patch size comes from


def make_plan(scenes: list[Scene], options: PackOptions, locations: Sequence[str] | None = None) -> Plan:
    """Place scenes on grids and divide their cells into shards; ``locations`` as for ``place_scenes``."""
    options, size_rule = _choose_patch_size(scenes, options)
    cut = cut_options(scenes, options)
    grid_list, placements = place_scenes(scenes, options.snap_tolerance, cut.patch_size, locations)
    content = json.dumps([FORMAT, list(map(dataclasses.astuple, scenes)), placements, dataclasses.astuple(cut)])
    fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    return Plan(scenes, grid_list, placements, plan_windows(scenes, placements, cut), cut, fingerprint, size_rule)


def _choose_patch_size(scenes: Sequence[Scene], options: PackOptions) -> tuple[PackOptions, str]:
    """Return options with a patch size, and where it comes from."""
    if options.patch_size is not None:
        return options, "--patch-size"
    sides = [min(scene.width, scene.height) for scene in scenes]
    if max(sides) >= PATCH_SIZE:
        return dataclasses.replace(options, patch_size=PATCH_SIZE), "default"
    if min(sides) < max(sides) / 2:
        raise ValueError(f"the short sides of the files have {min(sides)} to {max(sides)} pixels, none the default of "
                         f"{PATCH_SIZE}; choose --patch-size, smaller files are then left out")  # fmt: skip
    rule = f"the largest that all files hold, as none reaches {PATCH_SIZE}"
    return dataclasses.replace(options, patch_size=min(sides)), rule


def work_folder(out_dir: Path, plan: Plan, shared: bool) -> Path:
    """Return the folder of unfinished work; what another plan has left there is removed.

    Args:
        out_dir: Output folder.
        plan: What is to be cut.
        shared: Whether other processes may be at work there. If not, the caller holds a lock.

    Raises:
        ValueError: The folder holds work of another plan and is ``shared`` with other processes.
    """
    folder = out_dir / WORK_FOLDER
    stamp = folder / "plan.txt"
    if stamp.is_file() and stamp.read_text(errors="replace") != plan.fingerprint:
        if shared:
            raise ValueError(f"{folder} holds shards of other files or options; remove it, then start all parts again")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not shared:
        files.remove_partial_files(folder)
    if not stamp.is_file():
        files.write_text(stamp, plan.fingerprint)
    return folder
