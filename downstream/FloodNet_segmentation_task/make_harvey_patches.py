#!/usr/bin/env python3
"""Cut the tiles of the Hurricane Harvey flood set into patches for train_floodnet.py.

    python downstream/FloodNet_segmentation_task/make_harvey_patches.py --data-dir harvey --out-dir data/harvey_512

reads ``harvey/<region>/<tile>/{vhr.tif,buildings1m.tif,flooded1m.tif}`` and writes ``<out-dir>/{train,val}/{image,
building,flooded}/<region>__<tile>__<top>_<left>.png`` and ``meta.json``. Patches of one tile stay in one part. All is
written beside and renamed when it is finished: a run that was cut off leaves nothing that could be taken for the whole,
and is simply started again; a finished folder is replaced with ``--overwrite`` only.
"""

import argparse
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image
from tqdm import tqdm

from downstream.FloodNet_segmentation_task.floodnet import PATCHES
from downstream.FloodNet_segmentation_task.harvey import MASKS, find_tiles, patch_places, read_tile, split_tiles
from vicreg.common import cli
from vicreg.common.files import partial_folder, write_json
from vicreg.common.logger import log

OUTPUTS = ("train", "val")


def get_parser():
    """Arguments of the script."""
    parser = argparse.ArgumentParser(
        description="Cut Hurricane Harvey tiles into patches.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="harvey/, which holds <region>/<tile>/vhr.tif")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--patch-size", type=int, default=512, help="side of a patch in pixels")
    parser.add_argument("--stride", type=int, help="pixels from patch to patch (default: the patch size)")
    parser.add_argument("--val-percent", type=float, default=20.0, help="share of the tiles that are held out; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="settles which tiles are held out")
    parser.add_argument(
        "--stretch", action="store_true", help="lay masks without a georeference over images of another shape"
    )
    parser.add_argument("--workers", type=int, default=2, help="tiles cut at the same time")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished folder")
    return parser


def main(args):
    """Cut all tiles, then let the finished folder appear."""
    cli.check_positive(args, "patch_size", "stride", "workers")
    if (args.out_dir / "meta.json").exists() and not args.overwrite:
        raise ValueError(f"{args.out_dir} holds finished patches; --overwrite replaces them")
    side, stride = args.patch_size, args.stride or args.patch_size
    if stride > side:
        raise ValueError(f"--stride {stride} leaves gaps between patches of {side}; {side} at most")
    parts = split_tiles(find_tiles(args.data_dir), args.val_percent, args.seed)
    jobs = [(part, tile) for part, tiles in parts.items() for tile in tiles]
    log(f"{args.data_dir}: " + ", ".join(f"{len(tiles)} tiles {part}" for part, tiles in parts.items()))
    with partial_folder(args.out_dir) as partial:
        for part in parts:
            for kind in ("image", *MASKS):
                (partial / part / kind).mkdir(parents=True)
        with ThreadPoolExecutor(args.workers) as pool:
            running = [pool.submit(cut_tile, tile, partial / part, side, stride, args.stretch) for part, tile in jobs]
            try:
                counts = [job.result() for job in tqdm(running, desc="tiles", disable=not sys.stderr.isatty())]
            finally:
                pool.shutdown(cancel_futures=True)
        meta = describe(args, parts, dict(zip([tile.name for _, tile in jobs], counts, strict=True)), stride)
        if not meta["counts"]["train"]["patches"]:
            raise ValueError(f"{args.data_dir}: the training tiles hold no pixels but black ones")
        write_json(partial / "meta.json", meta)
        publish(partial, args.out_dir)
    for part, found in meta["counts"].items():
        log(
            f"  {part:5} {found['patches']} patches of {side} px ({found['empty']} black ones left out), "
            f"{found['building']:.2%} building, {found['flooded']:.2%} flooded building"
        )
    log(f"written to {args.out_dir}")


def cut_tile(tile, folder, side, stride, stretch=False):
    """Write a tile's patches, without those where the image is black (no data).

    Returns:
        dict of counts: ``patches``, ``empty``, ``pixels``, and pixels of ``building`` and ``flooded``.

    Raises:
        ValueError: as ``harvey.read_tile``; the tile is smaller than a patch.
    """
    image, masks = read_tile(tile, stretch)
    height, width = image.shape[1:]
    if min(height, width) < side:
        raise ValueError(f"{tile.folder} is {width} x {height} pixels; lower --patch-size {side}")
    counts = {"patches": 0, "empty": 0, "pixels": 0, **dict.fromkeys(MASKS, 0)}
    for top, left in patch_places(height, width, side, stride):
        here = np.s_[..., top : top + side, left : left + side]
        if not image[here].any():
            counts["empty"] += 1
            continue
        name = f"{tile.name}__{top:05d}_{left:05d}.png"
        Image.fromarray(image[here].transpose(1, 2, 0)).save(folder / "image" / name)
        for kind, mask in masks.items():
            Image.fromarray(mask[here]).save(folder / kind / name)
            counts[kind] += int(mask[here].sum())
        counts["patches"] += 1
        counts["pixels"] += side * side
    return counts


def describe(args, parts, counts, stride):
    """The content of ``meta.json``: what was cut, the split, and counts of both parts."""
    totals = {}
    for part, tiles in parts.items():
        sums = {key: sum(counts[tile.name][key] for tile in tiles) for key in counts[tiles[0].name]}
        shares = {kind: sums[kind] / max(1, sums["pixels"]) for kind in MASKS}
        totals[part] = {"tiles": len(tiles), "patches": sums["patches"], "empty": sums["empty"], **shares}
    split = {"rule": "whole tiles", "val_percent": args.val_percent, "seed": args.seed}
    split |= {part: [tile.name for tile in tiles] for part, tiles in parts.items()}
    made = {"kind": PATCHES, "patch_size": args.patch_size, "stride": stride, "source": str(args.data_dir.resolve())}
    return {**made, "split": split, "counts": totals, "tiles": counts}


def publish(partial, out_dir):
    """Move the finished parts into place; ``meta.json``, without which the folder is not read, comes last."""
    (out_dir / "meta.json").unlink(missing_ok=True)
    for name in OUTPUTS:
        if (out_dir / name).exists():
            shutil.rmtree(out_dir / name)
        if (partial / name).exists():
            os.replace(partial / name, out_dir / name)
    os.replace(partial / "meta.json", out_dir / "meta.json")


if __name__ == "__main__":
    cli.run(main, get_parser().parse_args())
