"""Write an SN7-shaped sample: drawn scenery at the true places, so that everything runs before any download.

    python preprocessing/make_sn7_sample.py --out data/sn7_sample

writes 12 AOIs x 6 months in SpaceNet-7's layout, images in EPSG:3857 and footprints in longitude and latitude,

    data/sn7_sample/train/<AOI>/images/global_monthly_YYYY_MM_mosaic_<AOI>.tif
    data/sn7_sample/train/<AOI>/labels/global_monthly_YYYY_MM_mosaic_<AOI>_Buildings.geojson

and prints (in about five seconds on two cores)

    12 AOIs x 6 months: 72 mosaics of 256 x 256 pixels and 49634 footprints in data/sn7_sample/train
    next: python preprocessing/make_sn7_csv.py --data-dir data/sn7_sample/train --out-dir data/sn7
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import zlib
from pathlib import Path

if __name__ == "__main__":  # import from the repo root, wherever we are launched
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from preprocessing.sn7.geocode import xyz_tile_bounds
from preprocessing.sn7.synthetic import (
    build_scene,
    draw_mosaic,
)

# The 60 training AOIs of SpaceNet-7 as web-mercator tiles x_y of zoom 13, each with the land cover it is drawn with:
# first 12 countries with 12 covers, then the other 19 countries, then the rest.
PLACES = """
2732_4164 rainforest, 5156_3514 newtown, 4102_2726 suburb, 3699_3757 coast, 1327_3160 farmland, 6154_3539 paddy,
4196_2710 port, 5753_3655 metro, 3911_3441 desert, 5193_2903 steppe, 2459_4406 hills, 6678_3548 redearth,
4840_4088 redearth, 1831_3648 metro, 2287_3888 rainforest, 2345_3680 farmland, 2528_4620 desert, 4061_3941 rainforest,
4553_3325 newtown, 4688_2967 farmland, 4742_4450 redearth, 4802_4803 suburb, 4815_3378 desert, 4838_3737 steppe,
5105_3761 hills, 5184_3399 newtown, 5342_3524 desert, 5557_3054 steppe, 6838_3742 paddy, 6993_3202 hills,
7394_5018 suburb, 1429_3296 hills, 1433_3310 hills, 1446_2989 farmland, 1474_3210 newtown, 1549_3087 steppe,
1736_3318 desert, 1950_3207 farmland, 2027_3374 suburb, 2176_3279 suburb, 2265_3451 farmland, 2309_3217 suburb,
2383_3079 suburb, 3041_4643 redearth, 4056_2688 suburb, 4816_3380 desert, 4819_3372 newtown, 5759_3655 paddy,
5916_3785 redearth, 5927_3715 paddy, 6460_3370 paddy, 6460_3366 metro, 6468_3360 metro, 6678_3579 coast,
6679_3549 redearth, 6691_3363 port, 6763_3346 paddy, 6764_3347 paddy, 6813_3313 paddy, 6864_3345 port
"""
AOIS = [place.split() for place in PLACES.replace("\n", " ").split(",")]
ZOOM = 13
MONTHS = 25  # January 2018 to January 2020, like most of the real AOIs
LIMITS = {"aois": (1, len(AOIS)), "months": (1, MONTHS), "size": (32, 4096), "seed": (0, 2**63)}


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; the tree comes to OUT/train")
    parser.add_argument("--aois", type=int, default=12, help=f"places, 1..{len(AOIS)}; the first 12 in 12 countries")
    parser.add_argument("--months", type=int, default=6, help=f"mosaics per place, 1..{MONTHS}, from January 2018")
    size_help = "side in pixels, a multiple of 4; 1024 is full size (the first AOI is then 1023 high)"
    parser.add_argument("--size", type=int, default=256, help=size_help)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenery")
    return parser


def aoi_name(tile):
    """SpaceNet-7's name of the AOI on a tile: "1327_3160" -> "L15-0331E-1257N_1327_3160_13"."""
    x, y = map(int, tile.split("_"))
    return f"L15-{x // 4:04d}E-{(2**ZOOM - 1 - y) // 4:04d}N_{tile}_{ZOOM}"


def to_degrees(east, north):
    """Longitude and latitude of EPSG:3857 coordinates in meters; numbers or arrays."""
    return np.degrees(east / 6378137), np.degrees(np.arctan(np.sinh(north / 6378137)))


def write_aoi(folder, tile, cover, months, size, rows, seed):
    """Write the mosaics (rows x size pixels) and footprints of one AOI; a generator of footprints written per month."""
    import rasterio  # only where mosaics are written

    name, (x, y) = aoi_name(tile), map(int, tile.split("_"))
    west, _, east, north = xyz_tile_bounds(x, y, ZOOM)
    pixel = (east - west) / size
    scene = build_scene(cover, to_degrees(0, north)[1], size, rows, (seed, zlib.crc32(name.encode())))
    corners = to_degrees(west + scene.outlines[..., 0] * pixel, north - scene.outlines[..., 1] * pixel)
    rings = np.round(np.stack(corners, -1), 9).tolist()  # 9 digits: a tenth of a millimeter
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 4, "width": size, "height": rows, "crs": "EPSG:3857"}
    profile |= {"compress": "deflate", "photometric": "RGB", "alpha": "yes"}
    profile["transform"] = rasterio.Affine(pixel, 0, west, 0, -pixel, north)
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "labels").mkdir()
    for month in range(months):
        mosaic = f"global_monthly_{2018 + month // 12}_{month % 12 + 1:02d}_mosaic_{name}"
        with rasterio.open(folder / name / "images" / f"{mosaic}.tif", "w", **profile) as raster:
            raster.write(np.moveaxis(draw_mosaic(scene, month), 2, 0))
        features = [
            {"type": "Feature", "properties": {"Id": k}, "geometry": {"type": "Polygon", "coordinates": [rings[k]]}}
            for k in np.flatnonzero(scene.finished[:-1] <= month).tolist()
        ]
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
        footprints = {"type": "FeatureCollection", "crs": crs, "features": features}
        (folder / name / "labels" / f"{mosaic}_Buildings.geojson").write_text(json.dumps(footprints))
        yield len(features)


def main(args):
    for option, (low, high) in LIMITS.items():
        if not low <= (value := getattr(args, option)) <= high:
            sys.exit(f"--{option} {value}: choose {low} to {high}")
    if args.size % 4:
        sys.exit(f"--size {args.size}: choose a multiple of 4, for the 4 x 4 grid of patches")
    partial, done, footprints = args.out / "train.partial", args.out / "train", 0
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            sys.exit(f"{args.out} exists; delete it or choose another --out")
        with tqdm(total=args.aois * args.months, desc="mosaics", unit="", disable=None) as bar:
            for k, (tile, cover) in enumerate(AOIS[: args.aois]):
                rows = args.size - (args.size == 1024 and k == 0)
                for written in write_aoi(partial, tile, cover, args.months, args.size, rows, args.seed):
                    footprints += written
                    bar.update()
        os.replace(partial, done)  # there is a whole tree or none
    except OSError as error:
        sys.exit(f"cannot write to {args.out}: {error}; choose another --out")
    print(
        f"{args.aois} AOIs x {args.months} months: {args.aois * args.months} mosaics of {args.size} x {args.size}"
        f" pixels and {footprints} footprints in {done}"
    )
    print(f"next: python preprocessing/make_sn7_csv.py --data-dir {shlex.quote(str(done))} --out-dir data/sn7")


if __name__ == "__main__":
    main(get_parser().parse_args())
