#!/usr/bin/env python3
r"""Prepare any rasters or images for training: patches on fixed grids, locations, dates, labels and a split.

    python preprocessing/make_imagery_csv.py --data-dir scenes/ --out-dir data/mine --patch-size 128
    python preprocessing/make_imagery_csv.py --list stac_items.json --asset visual --out-dir data/mine

reads every GeoTIFF, COG, JPEG 2000, ENVI, PNG, JPEG, WebP and BMP file, at any depth, and writes all.csv, train.csv and
val.csv (a row for each patch), meta.json and patches-*.npy (pixels, memory-mapped). It prints where the dates come
from, what was left out and why, the split, and the next command. A job that is killed resumes when it is started
again. On a cluster, start --shard 0/4 to --shard 3/4, then the same command with --merge.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing.folder_split import parse_locations
from preprocessing.imagery import labels, sources, splits
from preprocessing.imagery.summary import date_lines, summary
from preprocessing.problems import check_problems
from vicreg.common import cli
from vicreg.common.config import from_args
from vicreg.common.logger import lock_run_dir
from vicreg.data.georeference import check_proj
from vicreg.data.raster_pack.cut import edge_cells
from vicreg.data.raster_pack.headers import PackOptions, read_scenes
from vicreg.data.raster_pack.lists import Result, collect, describe, publish
from vicreg.data.raster_pack.plan import Plan, make_plan, work_folder
from vicreg.data.raster_pack.shards import record_path, run_shards
from vicreg.data.tables import verify_folder


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input").add_argument
    add("--data-dir", type=Path, nargs="+", default=[], help="folders, searched at any depth, and files (a VRT must be "
        "named itself)")  # fmt: skip
    add("--list", type=Path, metavar="FILE", help="text file of paths, /vsi… paths, s3:// and https:// addresses, or a "
        "STAC ItemCollection")  # fmt: skip
    add("--asset", help="asset of the STAC items that holds the bands")
    add("--on-error", choices=["stop", "skip"], default="stop",
        help="bad files: list all and end with exit code 1, or leave them out (default: stop)")  # fmt: skip
    add = parser.add_argument_group("pixels").add_argument
    add("--patch-size", type=int, help="side of the patches in pixels (default: 256, or the largest that all files "
        "hold, if none reaches 256)")  # fmt: skip
    add("--bands", nargs="+", help="numbers, from 1, or descriptions of the bands, in order (default: all but "
        "alpha); or assets of the STAC items with one band each: B04 B03 B02")  # fmt: skip
    add("--scale", nargs="+", metavar="VALUE", help="LOW HIGH: these values become 0 and the maximum of --dtype; "
        "p2,p98: percentiles of a sample of each band. Needed for other types than uint8 and uint16")  # fmt: skip
    add("--dtype", choices=["uint8", "uint16"], default="uint16", help="type of scaled values (default: uint16)")
    add("--max-nodata", type=float, default=0.1, help="drop patches with a larger fraction of nodata (default: 0.1)")
    add("--cloud-mask", metavar="PATTERN", help="masks beside the scenes, not 0 where masked: {stem}_cloud.tif")
    add = parser.add_argument_group("locations and dates").add_argument
    add("--snap-tolerance", type=float, default=0.05, metavar="PIXELS",
        help="scenes whose pixels are misaligned by more are on a grid of their own (default: 0.05)")  # fmt: skip
    add("--resolution", type=float, help="resample all scenes to this pixel size, in units of their system or --crs")
    add("--crs", help="resample all scenes to this coordinate reference system, such as EPSG:32633")
    add("--location-pattern", metavar="REGEX",
        help="its groups name the location of images without a georeference: '(site_[A-Z])/'")  # fmt: skip
    add("--date-pattern", help="date in the path: a strptime format (%%Y-%%m) or a regular expression with groups")
    add = parser.add_argument_group("labels and split").add_argument
    add("--labels", metavar="FILE", help="CSV with a column of file names, polygons (the class that covers most of a "
        "patch), or the word folders: the folder of a file is its class")  # fmt: skip
    add("--label-column", help="column of the class in --labels")
    add("--split", choices=splits.RULES, help="hold out blocks of cells in all scenes (block), sites of overlapping "
        "scenes (location), random files (image), train, val and test folders as they are (folders), or nothing "
        "(none); default: folders if there are such, block for georeferenced rasters, location with "
        "--location-pattern, else image")  # fmt: skip
    add("--val-fraction", type=float, default=0.2, help="fraction to hold out, 0..1 (default: 0.2)")
    add("--buffer", type=int, default=1, help="cells left out around blocks (default: 1)")
    add("--seed", type=int, default=0, help="random seed of the split and of sampled percentiles (default: 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out-dir", type=Path, required=True, help="folder to write")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="threads (default: CPUs, at most 8)")
    add("--shard-size", type=float, default=512, metavar="MB", help="largest patches-*.npy (default: 512)")
    add("--shard", metavar="I/N", help="write part I (from 0) of N parts only; any number may run at the same time")
    add("--merge", action="store_true", help="after all parts of --shard: write the lists and meta.json")
    add("--dask", metavar="ADDRESS", help="cut on a dask.distributed cluster that sees the same paths: tcp://…")
    add("--verify", action="store_true", help="compare --out-dir with its digests, and do nothing else")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read the headers, cut the patches, label and split them, write the outputs, print the summary."""
    if args.label_column and not args.labels:
        raise ValueError(f"--label-column {args.label_column} names a column of --labels, which is missing")
    if args.verify:
        print(verify_folder(args.out_dir))
        return
    started = time.perf_counter()
    if not args.data_dir and not args.list:
        raise ValueError("nothing to read: give --data-dir or --list")
    cli.check_positive(args, "workers")
    part = _parse_shard(args.shard)
    bands = tuple(band for word in args.bands or () for band in word.split(",") if band)
    options = from_args(PackOptions, args, bands=bands or None)
    check_proj()
    bar = functools.partial(tqdm, disable=None)  # hidden without a terminal
    files = sources.find_sources(args.data_dir, args.list, args.asset, bands)
    scenes, problems = read_scenes(files, options, args.workers, functools.partial(bar, desc="headers"))
    source = "--list" if args.list else "--data-dir"
    check_problems(problems, args.on_error, source)
    if not scenes:
        raise ValueError("no usable raster or image")
    sites = None
    if args.location_pattern is not None:
        if any(scene.transform for scene in scenes):
            raise ValueError("--location-pattern is for images without a georeference; these have one")
        sites = parse_locations([scene.name for scene in scenes], args.location_pattern)
    plan = make_plan(scenes, options, sites)
    lock = None if args.shard or args.merge else lock_run_dir(args.out_dir, "--out-dir")
    work = work_folder(args.out_dir, plan, shared=bool(args.shard or args.merge))
    records = [record_path(work, number) for number in range(len(plan.shards))]
    if not args.merge:
        executor = _dask_executor(args.dask)
        run_shards(plan, work, args.workers, part, executor, functools.partial(bar, desc="shards"))
    if args.shard:
        print(f"part {args.shard} is written; after all parts, run the same command with --merge")
        return
    result = collect(plan, records)
    check_problems(result.problems, args.on_error, source)
    problems += result.problems
    if result.table.empty:
        size = plan.cut.patch_size
        raise ValueError(f"no patch of {size} x {size} pixels with enough data: the files are "
                         "smaller, or hold too much nodata; see --patch-size and --max-nodata")  # fmt: skip
    table, meta = _label_and_split(plan, result, args)
    meta["source"] = [str(path.resolve()) for path in [*args.data_dir, *([args.list] if args.list else [])]]
    publish(work, args.out_dir, table, meta)
    if lock:
        lock.close()
    print(summary(meta, date_lines(scenes), problems, args.out_dir, time.perf_counter() - started))


def _label_and_split(plan: Plan, result: Result, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the finished patch list and the content of meta.json."""
    table, size, classes = result.table, plan.cut.patch_size, []
    table["label"] = -1
    if args.labels:
        table["label"], classes = labels.label_patches(table, args.labels, args.label_column, plan.grids, size)
    parts = sources.folder_split(table.image_id.tolist())
    usual = "folders" if parts else "block" if plan.grids else "location" if args.location_pattern else "image"
    rule = args.split or usual
    if rule == "folders" and not parts:
        raise ValueError("--split folders: the files are not in folders called train and val")
    table["split"], split = splits.split_table(
        table, table.label.to_numpy(), rule, args.val_fraction, args.seed, args.buffer, size, parts
    )
    dates = table[table.date != ""].groupby("location").date.nunique()
    train, val = (table[table.split == part].digest for part in ("train", "val"))
    result.counts.update(
        repeated=int((dates > 1).sum()), unlabeled=int((table.label < 0).sum()),
        edge=edge_cells(plan.scenes, plan.placements, plan.shards, size),
        shared_duplicates=int(val.isin(set(train)).sum()),
    )  # fmt: skip
    return table, describe(plan, result, classes, split)


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise ValueError(f"--shard {text}: I/N with I from 0 to N - 1, such as 0/4")
    return int(first), int(count)


def _dask_executor(address: str | None) -> Any:
    if address is None:
        return None
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("--dask needs the package distributed: pip install distributed") from error
    return Client(address).get_executor()


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
