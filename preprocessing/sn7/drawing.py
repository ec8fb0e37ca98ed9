"""Draw the monthly mosaics of a procedural landscape, with the nuisances of real ones.

Vegetation follows the season of the hemisphere, streets and buildings are only added, and light, color balance, haze
and clouds change by month.
"""

import numpy as np

from preprocessing.sn7.synthetic import Scene, smooth_noise

YARD, ROAD, HAZE = np.array([(36, 34, 31), (70, 69, 67), (214, 212, 208)], np.float32)


def draw_mosaic(scene: Scene, month: int) -> np.ndarray:
    """Draw one month of a scene, counted from January 2018: uint8 (H, W, 4), RGB and an alpha of 255."""
    rng = np.random.default_rng((*scene.key, 1, month))
    green = 0.5 + 0.5 * scene.seasonality * np.cos((month % 12 - scene.peak) * np.pi / 6)
    green = np.clip(green + rng.uniform(-0.1, 0.1), 0, 1)[..., None]
    image = scene.bare + (scene.lush - scene.bare) * green
    age = (month - scene.developed)[..., None]
    yard = 0.45 * scene.soil + 0.3 * image + YARD
    image = np.where(age < 0, image, np.where(age < 4, scene.soil * 1.12, yard))  # a construction site is bare at first
    image = np.where(scene.street[..., None] <= month, 0.5 * scene.soil + ROAD, image)
    built = scene.finished[scene.building] <= month
    reach = max(1, round(0.0025 * len(image)))
    shadow = np.roll(built, (-reach, -reach), (0, 1)) & ~built
    image = np.where(built[..., None], scene.roof[scene.building], np.where(shadow[..., None], 0.6 * image, image))
    haze, cloud = (smooth_noise(rng, image.shape[1], cells)[: len(image)] for cells in (2, 3))
    haze = rng.beta(1.5, 9) * (0.6 + 0.8 * haze)
    if rng.random() < 0.45 * scene.cover.grass:
        haze = np.maximum(haze, np.clip(4 * (cloud - rng.uniform(0.75, 1)), 0, 0.75))
    image *= (rng.uniform(0.88, 1.08) * rng.uniform(0.97, 1.03, 3)).astype(np.float32)
    image += (HAZE - image) * haze[..., None]
    return np.dstack([image.clip(0, 255).astype(np.uint8), np.full(haze.shape, 255, np.uint8)])
