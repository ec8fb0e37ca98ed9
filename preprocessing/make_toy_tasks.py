#!/usr/bin/env python3
"""Write toy data sets for the three downstream tasks, cut from synthetic landscapes in the layouts of the real ones.

    python preprocessing/make_toy_tasks.py --out data/toy_tasks

writes, with the land of other AOIs than those of make_sn7_sample.py,

    data/toy_tasks/EuroSAT/<LandCover>/<LandCover>_<n>.jpg           64 x 64 pixels, 12 classes
    data/toy_tasks/crowdai/{train,val}/{images/,annotation.json}     128 x 128 pixels, buildings as COCO polygons
    data/toy_tasks/FloodNet/Train/Labeled/{Flooded,Non-Flooded}/{image,mask}/    128 x 128 pixels, FloodNet's classes

and prints (in about six seconds on one core)

    432 images of 12 land covers, 108 with buildings and 72 with flood masks in data/toy_tasks

They show that the tasks run, not which backbone is better: they are small and come from few scenes.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # scripts run from a bare clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from preprocessing.sn7.drawing import draw_mosaic
from preprocessing.sn7.synthetic import COVERS, TREES, WATER, Scene, build_scene, smooth_noise
from vicreg.common import cli
from vicreg.data.sn7_format import cut_patches

TOWNS = ("newtown", "suburb", "metro", "coast")  # scenes of the tasks with buildings
MONTH, SIDE = 12, 128  # month that is drawn; side of the images with buildings
BUILDING, ROAD, WATER_CLASS, TREE, GRASS = 2, 4, 5, 6, 9  # classes of FloodNet; flooded ones are one less
MUD = np.array((104, 92, 70), np.float32)  # color of floods


def get_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", type=int, default=768, help="side of a scene in pixels, a multiple of 256 "
        "(default: 768)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="random seed of the landscapes (default: 1)")
    return parser


def crops(pixels: np.ndarray, side: int) -> np.ndarray:
    """Cut (H, H, C) into squares (n, side, side, C), row by row."""
    return cut_patches(pixels.transpose(2, 0, 1), len(pixels) // side).transpose(0, 2, 3, 1)


def write_classes(folder: Path, size: int, seed: int) -> int:
    """Write a folder of images for each land cover, and return the number of images."""
    count = 0
    for number, cover in enumerate(COVERS):
        (folder / cover.capitalize()).mkdir(parents=True)
        scene = build_scene(cover, 40, size // 2, key=(seed, number))
        for image in crops(draw_mosaic(scene, MONTH // 2)[..., :3], 64):
            name = f"{cover.capitalize()}_{count}.jpg"
            Image.fromarray(image).save(folder / cover.capitalize() / name, quality=95)
            count += 1
    return count


def write_buildings(folder: Path, scenes: list[Scene]) -> int:
    """Write images and annotations in the layout of CrowdAI, one scene for validation, and return the image count."""
    count = 0
    for part, chosen in (("train", scenes[1:]), ("val", scenes[:1])):
        (folder / part / "images").mkdir(parents=True)
        images, annotations = [], []
        for scene in chosen:
            columns, built = scene.street.shape[1] // SIDE, scene.outlines[scene.finished[:-1] <= MONTH]
            for k, pixels in enumerate(crops(draw_mosaic(scene, MONTH)[..., :3], SIDE)):
                rings = np.clip(built - (k % columns * SIDE, k // columns * SIDE), 0, SIDE)
                sides = np.ptp(rings, axis=1)
                if not (sides > 3).all(1).any():
                    continue  # an image without buildings
                images.append({"id": count, "file_name": f"{count:05d}.jpg", "height": SIDE, "width": SIDE})
                Image.fromarray(pixels).save(folder / part / "images" / f"{count:05d}.jpg", quality=95)
                for ring in rings[(sides > 3).all(1)].round(1):
                    box = [*ring.min(0).tolist(), *np.ptp(ring, axis=0).tolist()]
                    annotations.append(
                        {"id": len(annotations), "image_id": count, "category_id": 100, "iscrowd": 0, "bbox": box,
                         "area": box[2] * box[3], "segmentation": [ring[:-1].ravel().tolist()]}
                    )  # fmt: skip
                count += 1
        categories = [{"id": 100, "name": "building", "supercategory": "building"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / part / "annotation.json").write_text(json.dumps(content))
    return count


def flood(scene: Scene, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a flooded scene: image uint8 (H, W, 3), classes uint8 (H, W), and the flooded area, bool (H, W)."""
    image, height = draw_mosaic(scene, MONTH)[..., :3].astype(np.float32), scene.street.shape[0]
    built, street = scene.finished[scene.building] <= MONTH, scene.street <= MONTH
    labels = np.select(
        [built, street, scene.surface == WATER, scene.surface == TREES], [BUILDING, ROAD, WATER_CLASS, TREE], GRASS
    )
    flooded = smooth_noise(np.random.default_rng(seed), height, 3) > 0.65
    labels -= flooded & np.isin(labels, (BUILDING, ROAD))
    labels[flooded & (labels == GRASS)] = WATER_CLASS
    under_water = (flooded & ~built & (labels != TREE))[..., None]
    return np.where(under_water, 0.25 * image + 0.75 * MUD, image).astype(np.uint8), labels.astype(np.uint8), flooded


def write_floods(folder: Path, scenes: list[Scene], seed: int) -> int:
    """Write images and masks in FloodNet's layout, flooded or not, and return the number of pairs."""
    count = 0
    for group in ("Flooded", "Non-Flooded"):
        for part in ("image", "mask"):
            (folder / group / part).mkdir(parents=True)
    for scene in scenes:
        image, labels, flooded = flood(scene, seed)
        layers = (crops(layer, SIDE) for layer in (image, labels[..., None], flooded[..., None]))
        for pixels, mask, wet in zip(*layers, strict=True):
            group = "Flooded" if wet.mean() > 0.3 else "Non-Flooded"
            Image.fromarray(pixels).save(folder / group / "image" / f"{count}.jpg", quality=95)
            Image.fromarray(mask[..., 0]).save(folder / group / "mask" / f"{count}_lab.png")
            count += 1
    return count


def main(args: argparse.Namespace) -> None:
    """Write the data sets to a partial folder, then rename it."""
    if args.size < 256 or args.size % 256:
        raise ValueError(f"--size {args.size}: choose a multiple of 256")
    if args.out.exists():
        raise ValueError(f"{args.out} exists; delete it or choose another --out")
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    scenes = [build_scene(cover, 40, args.size, key=(args.seed, 100 + k)) for k, cover in enumerate(TOWNS)]
    images = write_classes(partial / "EuroSAT", args.size, args.seed)
    annotated = write_buildings(partial / "crowdai", scenes)
    pairs = write_floods(partial / "FloodNet" / "Train" / "Labeled", scenes[:2], args.seed)
    os.replace(partial, args.out)
    print(f"{images} images of {len(COVERS)} land covers, {annotated} with buildings and {pairs} with flood masks in "
          f"{args.out}")  # fmt: skip


if __name__ == "__main__":
    cli.run(main, cli.parse(get_parser()))
