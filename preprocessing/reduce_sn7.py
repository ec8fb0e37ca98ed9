#!/usr/bin/env python3
"""Reduce the mosaics of a SpaceNet-7 tree, for recipes and trials on a CPU.

    python preprocessing/reduce_sn7.py --data-dir SN7/train --out-dir SN7_128/train --size 128

averages blocks of pixels (1024 -> 128: 8 x 8 each), keeps names, georeference and each AOI's newest footprints, and
resumes an interrupted run. It prints

    1423 mosaics of 1024 pixels reduced to 128 in SN7_128/train (0 existed)
"""

import argparse
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing.problems import format_problems
from preprocessing.sn7 import index, reduce
from vicreg.common import cli
from vicreg.data import rasters
from vicreg.data.georeference import check_proj


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="the tree, such as SN7/train")
    add("--out-dir", type=Path, required=True, help="folder of the reduced tree")
    add("--size", type=int, default=128, help="side of the reduced mosaics; divides that of the full ones "
        "(default: 128)")  # fmt: skip
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: CPUs)")
    return parser


def main(namespace: argparse.Namespace) -> None:
    """Reduce the mosaics that do not exist yet."""
    data_dir, out_dir, size = namespace.data_dir, namespace.out_dir, namespace.size
    if out_dir.resolve() == data_dir.resolve():
        raise ValueError(f"--out-dir {out_dir} is --data-dir; write the reduced mosaics to another folder")
    check_proj()
    mosaics, problems = index.scan_tree(data_dir, namespace.workers)
    if problems:
        print(format_problems(problems), file=sys.stderr)
        raise ValueError(f"nothing written: fix or remove what is listed above in {data_dir}")
    side = mosaics[0].width
    if not 0 < size <= side or side % size:
        raise ValueError(f"--size {size} does not divide the {side} pixels of a mosaic")
    targets = [out_dir / mosaic.path.relative_to(data_dir).with_suffix(".tif") for mosaic in mosaics]
    with rasters.quiet_georeference():
        existing = {target for target in targets if reduce.is_complete(target, size)}
    todo = [(mosaic, target) for mosaic, target in zip(mosaics, targets, strict=True) if target not in existing]
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    for aoi in index.list_aois(data_dir):
        for newest in index.list_label_files(aoi)[-1:]:
            (out_dir / aoi.name / "labels").mkdir(parents=True, exist_ok=True)
            shutil.copy2(newest, out_dir / aoi.name / "labels" / newest.name)
    with rasters.quiet_georeference(), ThreadPoolExecutor(namespace.workers) as pool:
        jobs = pool.map(lambda job: reduce.reduce_mosaic(*job, size), todo)  # a failure cancels those not started
        list(tqdm(jobs, "mosaics", len(todo), disable=None))
    print(f"{len(mosaics)} mosaics of {side} pixels reduced to {size} in {out_dir} ({len(existing)} existed)")


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
