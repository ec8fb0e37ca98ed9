"""Small made-up floods, in the layouts of FloodNet and of the Hurricane Harvey tiles."""

import numpy as np
from PIL import Image

COLORS = np.array([[(37 * n + 20) % 256, (91 * n + 60) % 256, (151 * n + 110) % 256] for n in range(10)], np.uint8)


def scene(random, width=64, height=48):
    """Labels of ten classes: water on the left, grass on the right, two buildings; uint8 (height, width)."""
    labels = np.full((height, width), 9, np.uint8)
    labels[:, : int(random.integers(width // 4, width // 2))] = 5
    for value in (1, 2):
        top, left = int(random.integers(height - 16)), int(random.integers(width - 16))
        labels[top : top + 14, left : left + 14] = value
    return labels


def paint(labels, random):
    """Colors of labels with a little noise: uint8 (height, width, 3)."""
    noise = random.integers(-8, 9, (*labels.shape, 3))
    return np.clip(COLORS[labels].astype(int) + noise, 0, 255).astype(np.uint8)


def write_pair(images, masks, name, labels, random, times=2):
    """Write ``<name>.jpg`` and ``<name>_lab.png``, the mask ``times`` as large."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(paint(labels, random)).save(images / f"{name}.jpg", quality=95)
    Image.fromarray(labels.repeat(times, 0).repeat(times, 1)).save(masks / f"{name}_lab.png")


def write_labeled(folder, flooded=4, dry=6, seed=0):
    """FloodNet as the challenge handed it out: Train/Labeled/{Flooded,Non-Flooded}/{image,mask}."""
    random = np.random.default_rng(seed)
    for group, count in (("Flooded", flooded), ("Non-Flooded", dry)):
        place = folder / "Train" / "Labeled" / group
        for number in range(count):
            write_pair(place / "image", place / "mask", f"{group[0]}{number}", scene(random), random)
    return folder


def write_supervised(folder, counts=(("train", 4), ("val", 2), ("test", 2)), seed=0):
    """FloodNet-Supervised: train/train-org-img, train/train-label-img, and so on."""
    random = np.random.default_rng(seed)
    for part, count in counts:
        images, masks = folder / part / f"{part}-org-img", folder / part / f"{part}-label-img"
        for number in range(count):
            write_pair(images, masks, f"{part}{number}", scene(random), random)
    return folder


def write_raster(path, pixels, meters=None, left=250000.0, top=3300000.0, crs="EPSG:32615"):
    """Write uint8 (bands, height, width) as GeoTIFF; ``meters`` a pixel, None for no georeference."""
    import rasterio

    from vicreg.data.rasters import quiet_georeference

    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": "uint8"}
    if meters:
        profile |= {"crs": crs, "transform": rasterio.Affine(meters, 0, left, 0, -meters, top)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_georeference(), rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)


def write_tile(folder, random, width=96, height=64, georeference=True):
    """A Harvey tile: an image of 0.5 m, and masks of 1 m with 6 buildings, half of them flooded.

    Returns:
        labels at 1 m, uint8 (height / 2, width / 2): 0, 2 for a building, 1 for a flooded one.
    """
    labels = np.zeros((height // 2, width // 2), np.uint8)
    for number in range(6):
        top, left = int(random.integers(height // 2 - 8)), int(random.integers(width // 2 - 8))
        labels[top : top + 8, left : left + 8] = 1 + number % 2
    image = paint(labels.repeat(2, 0).repeat(2, 1), random).transpose(2, 0, 1)
    meters = (0.5, 1.0) if georeference else (None, None)
    write_raster(folder / "vhr.tif", image, meters[0])
    write_raster(folder / "buildings1m.tif", (labels > 0).astype(np.uint8)[None], meters[1])
    write_raster(folder / "flooded1m.tif", (labels == 1).astype(np.uint8)[None] * 255, meters[1])
    return labels


def write_harvey(folder, tiles=4, **more):
    """Harvey tiles in two regions."""
    random = np.random.default_rng(0)
    for number in range(tiles):
        write_tile(folder / f"region{number % 2}" / f"tile{number}", random, **more)
    return folder
