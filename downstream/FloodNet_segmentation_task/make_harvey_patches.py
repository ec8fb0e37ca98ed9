#!/usr/bin/env python3
"""Cut the tiles of the Hurricane Harvey flood set into patches for train_floodnet.py.

    python downstream/FloodNet_segmentation_task/make_harvey_patches.py --data-dir harvey --out-dir data/harvey_512

reads ``harvey/<region>/<tile>/{vhr.tif,buildings1m.tif,flooded1m.tif}`` and writes ``<out-dir>/{train,val}/{image,
building,flooded}/<region>__<tile>__<top>_<left>.png`` and ``meta.json``. Patches of one tile stay in one part. The
folder is written under a temporary name and renamed when it is complete, so an interrupted run leaves nothing behind
and is simply started again. A finished folder is replaced only with ``--overwrite``.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image
from tqdm import tqdm

from downstream.FloodNet_segmentation_task.floodnet import PATCHES, add_val_fraction
from downstream.FloodNet_segmentation_task.harvey import MASKS, find_tiles, patch_corners, read_tile, split_tiles
from vicreg.common import cli
from vicreg.common.files import check_outside, partial_folder, publish, write_json
from vicreg.common.logger import log
from vicreg.data.images import add_levels_argument, check_levels


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        description="Cut Hurricane Harvey tiles into patches.", formatter_class=cli.HelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="harvey/, which holds <region>/<tile>/vhr.tif")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--patch-size", type=int, default=512, help="side of a patch in pixels")
    parser.add_argument("--stride", type=int, help="pixels from patch to patch; None: the patch size")
    add_val_fraction(parser, "fraction of the tiles that are held out; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument(
        "--stretch", action="store_true",
        help="stretch masks without a georeference over images of another aspect ratio",
    )  # fmt: skip
    add_levels_argument(parser, "default: such files are refused")
    parser.add_argument("--workers", type=int, default=2, help="tiles that are cut at the same time")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished folder")
    return parser


def main(args: argparse.Namespace) -> None:
    """Cut all tiles, then publish the finished folder."""
    cli.check_positive(args, "patch_size", "stride", "workers")
    check_levels(args.levels)
    check_outside(args.out_dir, args.data_dir, "--out-dir")
    if (args.out_dir / "meta.json").exists() and not args.overwrite:
        raise ValueError(f"{args.out_dir} holds finished patches; --overwrite replaces them")
    side, stride = args.patch_size, args.stride or args.patch_size
    if stride > side:
        raise ValueError(f"--stride {stride} leaves gaps between patches of {side}; {side} at most")
    parts = split_tiles(find_tiles(args.data_dir), args.val_fraction, args.seed)
    jobs = [(part, tile) for part, tiles in parts.items() for tile in tiles]
    log(f"{args.data_dir}: " + ", ".join(f"{len(tiles)} tiles {part}" for part, tiles in parts.items()))
    with partial_folder(args.out_dir) as partial:
        for part in parts:
            for kind in ("image", *MASKS):
                (partial / part / kind).mkdir(parents=True)
        with ThreadPoolExecutor(args.workers) as pool:
            options = (side, stride, args.stretch, args.levels)
            running = [pool.submit(cut_tile, tile, partial / part, *options) for part, tile in jobs]
            try:
                counts = [job.result() for job in tqdm(running, desc="tiles", disable=None)]
            finally:
                pool.shutdown(cancel_futures=True)
        split = {"rule": "whole tiles", "val_fraction": args.val_fraction, "seed": args.seed}
        split |= {part: [tile_name(tile) for tile in tiles] for part, tiles in parts.items()}
        meta = {"kind": PATCHES, "patch_size": side, "stride": stride, "source": str(args.data_dir.resolve())}
        tiles = {tile_name(tile): count for (_, tile), count in zip(jobs, counts, strict=True)}
        meta |= {"split": split, "counts": count_parts(parts, tiles), "tiles": tiles}
        if not meta["counts"]["train"]["patches"]:
            raise ValueError(f"{args.data_dir}: the training tiles hold no data")
        write_json(partial / "meta.json", meta)
        publish(partial, args.out_dir, ("train", "val"))
    for part, total in meta["counts"].items():
        log(
            f"  {part:5} {total['patches']} patches of {side} px ({total['empty']} without data left out), "
            f"{total['building']:.2%} building, {total['flooded']:.2%} flooded building"
        )
    log(f"written to {args.out_dir}")


def tile_name(tile: Path) -> str:
    """Return ``<region>__<tile>``."""
    return f"{tile.parent.name}__{tile.name}"


def cut_tile(
    tile: Path, folder: Path, side: int, stride: int, stretch: bool, levels: tuple[float, float] | None
) -> dict[str, int]:
    """Write the patches of a tile to ``image`` and the masks' folders in ``folder``, except black ones (no data).

    Returns:
        Number of ``patches``, of ``empty`` ones left out, of ``pixels``, and of pixels of each mask.

    Raises:
        ValueError: As ``harvey.read_tile``, or the tile is smaller than a patch.
    """
    image, masks = read_tile(tile, stretch, levels)
    height, width = image.shape[1:]
    if min(height, width) < side:
        raise ValueError(f"{tile} is {width} x {height} pixels; lower --patch-size {side}")
    counts = {"patches": 0, "empty": 0, "pixels": 0, **dict.fromkeys(MASKS, 0)}
    for top, left in patch_corners(height, width, side, stride):
        patch = np.s_[..., top : top + side, left : left + side]
        if not image[patch].any():
            counts["empty"] += 1
            continue
        name = f"{tile_name(tile)}__{top:05d}_{left:05d}.png"
        Image.fromarray(image[patch].transpose(1, 2, 0)).save(folder / "image" / name)
        for kind, mask in masks.items():
            Image.fromarray(mask[patch]).save(folder / kind / name)
            counts[kind] += int(mask[patch].sum())
        counts["patches"] += 1
        counts["pixels"] += side * side
    return counts


def count_parts(parts: dict[str, list[Path]], tiles: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """Sum the counts of ``cut_tile`` over the tiles of each part; masks as fractions of the pixels."""
    totals = {}
    for part, members in parts.items():
        counts = [tiles[tile_name(tile)] for tile in members]
        sums = {key: sum(count[key] for count in counts) for key in counts[0]}
        fractions = {kind: sums[kind] / max(1, sums["pixels"]) for kind in MASKS}
        totals[part] = {"tiles": len(members), "patches": sums["patches"], "empty": sums["empty"], **fractions}
    return totals


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
