#!/usr/bin/env python3
"""Reduce the mosaics of a SpaceNet-7 tree, for recipes and trials on a CPU.

    python preprocessing/reduce_sn7.py --data-dir SN7/train --out-dir SN7_128/train --size 128

averages blocks of pixels (1024 -> 128: 8 x 8 each), keeps names, georeference and each AOI's newest footprints, and
goes on where it was cut off. It prints

    1423 mosaics of 1024 pixels reduced to 128 in SN7_128/train (0 were there already)
"""

import argparse
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from preprocessing import problems as problem_report
from preprocessing.sn7 import index
from vicreg.inference import rasters


def get_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="the tree, such as SN7/train")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder of the reduced tree")
    parser.add_argument(
        "--size", type=int, default=128, help="side of the reduced mosaics; divides that of the full ones"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads")
    return parser


def main(args):
    if args.out_dir.resolve() == args.data_dir.resolve():
        raise ValueError(f"--out-dir {args.out_dir} is --data-dir; the reduced mosaics need a folder of their own")
    mosaics, problems = index.scan_tree(args.data_dir, args.workers)
    if problems:
        print(problem_report.report(problems), file=sys.stderr)
        raise ValueError(f"nothing written: mend or remove what is listed above in {args.data_dir}")
    side = mosaics[0].width
    if not 0 < args.size <= side or side % args.size:
        raise ValueError(f"--size {args.size} does not divide the {side} pixels of a mosaic")
    targets = [args.out_dir / mosaic.path.relative_to(args.data_dir).with_suffix(".tif") for mosaic in mosaics]
    todo = [(mosaic, target) for mosaic, target in zip(mosaics, targets, strict=True) if not target.exists()]
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    for aoi in index.list_aois(args.data_dir):
        for newest in sorted((aoi / "labels").glob("*_Buildings.geojson"))[-1:]:
            (args.out_dir / aoi.name / "labels").mkdir(parents=True, exist_ok=True)
            shutil.copy2(newest, args.out_dir / aoi.name / "labels" / newest.name)
    with rasters.quiet_georeference(), ThreadPoolExecutor(args.workers) as pool:
        running = [pool.submit(reduce_mosaic, mosaic, target, args.size) for mosaic, target in todo]
        try:
            for job in tqdm(running, desc="mosaics", disable=None):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    done = f"({len(mosaics) - len(todo)} were there already)"
    print(f"{len(mosaics)} mosaics of {side} pixels reduced to {args.size} in {args.out_dir} {done}")


def reduce_mosaic(mosaic, target, size):
    """Write the mean of each block of pixels as an RGB GeoTIFF; a mosaic that lacks a row is stretched to a square.

    Args:
        mosaic: ``scan.Mosaic``. target: path to write. size: side in pixels.

    Raises:
        ValueError: its pixels cannot be read.
    """
    import rasterio
    from rasterio.enums import Resampling

    try:
        with rasterio.open(mosaic.path) as raster:
            pixels = raster.read([1, 2, 3], out_shape=(3, size, size), resampling=Resampling.average)
            profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8"}
            profile |= {"compress": "deflate", "photometric": "RGB", "crs": raster.crs}
            if not raster.transform.is_identity:
                across, down = raster.width / size, raster.height / size
                profile["transform"] = rasters.coarser(raster.transform, across, down)
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{mosaic.path} cannot be read ({error}); fetch it again or remove it") from error
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial")
    try:
        with rasterio.open(partial, "w", **profile) as raster:
            raster.write(pixels)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(get_parser().parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"reduce_sn7: {error}")
    except KeyboardInterrupt:
        sys.exit("reduce_sn7: interrupted; the same command goes on")
