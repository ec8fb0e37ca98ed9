"""What make_imagery_csv.py prints."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.problems import count_kinds
from vicreg.data.raster_pack.scenes import FileProblem, Scene


def date_lines(scenes: Sequence[Scene]) -> list[str]:
    """Return how many files have a date from which source, and a warning if only some have one."""
    sources = Counter(scene.date_source for scene in scenes if scene.date)
    dated = sum(sources.values())
    text = ", ".join(f"{count} from {source}" for source, count in sources.most_common())
    lines = [f"dates: {dated} of {len(scenes)} files" + (f" ({text})" if text else "")]
    if 0 < dated < len(scenes):
        undated = next(scene.name for scene in scenes if not scene.date)
        lines.append(f"warning: {len(scenes) - dated} files have no date, such as {undated}; see --date-pattern")
    return lines


def summary(
    meta: dict[str, Any], dates: Sequence[str], problems: Sequence[FileProblem], out_dir: Path, seconds: float
) -> str:
    """Format what is printed at the end."""
    counts, split = meta["counts"], meta["split"]
    held_out = f" ({split['achieved']:.3f} held out)" if "achieved" in split else ""
    lines = [
        f"{counts['patches']} patches of {meta['patch_size']} x {meta['patch_size']} pixels "
        f"({meta['patch_size_from']}), {len(meta['bands'])} bands of {meta['dtype']}, from {counts['scenes']} files",
        f"{counts['locations']} locations in {counts['sites']} sites on {len(meta['grids'])} grids; "
        f"{counts['repeated']} locations have two dates or more",
        *dates,
        f"split {split['rule']}: {counts['train']} training and {counts['val']} validation patches{held_out}, "
        f"{counts['unused']} in neither",
        f"left out: {counts['nodata']} patches with too much nodata, {counts['edge']} cells at the edges of files, "
        f"problems: {count_kinds(problems) or 'none'}",
        f"duplicates: {counts['duplicates']} patches equal another one, {counts['shared_duplicates']} of the "
        "validation patches equal a training patch",
    ]  # fmt: skip
    if len(meta["grids"]) > 1 and split["rule"] in ("block", "location"):
        lines.append("warning: locations are told apart within each grid, so ground that several grids cover may be in "
                     "training and validation; bring the scenes together with --resolution and --crs")  # fmt: skip
    if meta["classes"]:
        lines.insert(2, f"{len(meta['classes'])} classes; {counts['unlabeled']} patches without a label")
    if meta["scale"]:
        low, high = counts["clipped"]
        limits = sorted(set(map(tuple, meta["scale"])))
        text = " ".join(f"{value:g}" for value in limits[0]) if len(limits) == 1 else f"of {len(limits)} bands"
        lines.append(f"scale {text}: {low:.2%} of the values were below and {high:.2%} above it")
    top = np.iinfo(meta["dtype"]).max
    means, stds = (" ".join(f"{value * top:.1f}" for value in meta[key]) for key in ("mean", "std"))
    quoted = shlex.quote(str(out_dir.resolve()))
    return "\n".join([
        *lines, f"channel mean {means}, std {stds} (training patches)",
        f"written to {out_dir} in {seconds:.1f} s; next:",
        f"  python vicreg/main_vicreg_imagery.py --csv-dir {quoted} --exp-dir exp/imagery --arch resnet18",
    ])  # fmt: skip
