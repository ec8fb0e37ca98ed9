"""Procedural satellite scenery: land that looks like a place, and towns that grow month by month.

`build_scene` lays out an AOI: soil, fields, trees, water, hills, and blocks of houses, each with the month it is
finished. `draw_mosaic` paints a month of it: leaves follow the season of the hemisphere, streets and buildings are
only ever added, and light, haze and cloud change by the month, so the mean color alone does not tell the place.
Lengths are in tile sides (1 is about 4.9 km, x to the east, y to the south): the same ground at every image size.
Months are counted from January 2018.
"""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

GROWTH, GROWTH_MONTHS = 0.16, 24  # a town takes up another 16 % of the tile within two years
STREET = 0.0055  # width
YARD, ROAD, HAZE = np.array([(36, 34, 31), (70, 69, 67), (214, 212, 208)], np.float32)
CROPS = np.array([(62, 86, 42), (98, 112, 54), (132, 124, 66), (46, 64, 36)])
# width and height of a field of each shape in sides, and how far it strays from straight borders
PARCELS = {"patch": (1.4, 1, 0.09), "rect": (1.6, 1, 0.01), "strip": (0.4, 2.4, 0.03), "round": (1, 1, 0)}
ROOFS = {
    "tan": ((222, 204, 180), (196, 174, 148), (238, 226, 208), (176, 158, 140)),
    "white": ((226, 224, 218), (198, 196, 190), (244, 242, 238), (160, 156, 150), (112, 138, 170)),
    "clay": ((178, 116, 84), (150, 104, 84), (206, 180, 158), (226, 220, 210)),
    "slate": ((130, 118, 108), (160, 138, 122), (112, 106, 102), (214, 208, 200)),
}

# What AOIs of one land cover share. Shares are of the area, 0..1.
# soil, green: colors of bare ground, of grass and trees. parcel, side: shape (key of PARCELS) and size of the fields.
# farmed: share of the parcels. grass: how green open land gets, 0..1; wet places are cloudy, too. trees: share.
# relief: strength of the hill shading. town: share built up at the start. block: width of a block of houses.
# works: share of the blocks that are one large building. bend: how far streets stray from straight lines.
Cover = namedtuple("Cover", "soil green parcel side farmed grass trees water relief town block works bend roofs")
COVERS = {
    "rainforest": ("#a8764e", "#2c4022", "patch", 0.1, 0.15, 0.9, 0.75, "", 0.3, 0.16, 0.046, 0.04, 0.05, "white"),
    "newtown": ("#d2bca4", "#968e64", "rect", 0.1, 0.05, 0.1, 0.01, "", 0.1, 0.4, 0.058, 0.03, 0.004, "tan"),
    "suburb": ("#7e6a50", "#3c4a2a", "patch", 0.08, 0.45, 0.9, 0.4, "ponds", 0.1, 0.34, 0.06, 0.07, 0.06, "slate"),
    "coast": ("#bea890", "#686a46", "patch", 0.08, 0.1, 0.4, 0.08, "coast", 0.1, 0.4, 0.042, 0.04, 0.02, "white"),
    "farmland": ("#aa784c", "#46582e", "rect", 0.085, 0.92, 0.7, 0.05, "", 0.05, 0.1, 0.058, 0.05, 0.006, "white"),
    "paddy": ("#706048", "#40562e", "strip", 0.03, 0.95, 0.9, 0.12, "river", 0, 0.18, 0.042, 0.06, 0.04, "white"),
    "port": ("#847868", "#38462a", "strip", 0.05, 0.6, 0.8, 0.12, "docks", 0, 0.46, 0.074, 0.45, 0.004, "white"),
    "metro": ("#7e6c5c", "#3e482c", "patch", 0.06, 0.4, 0.7, 0.12, "river", 0.1, 0.64, 0.04, 0.06, 0.04, "slate"),
    "desert": ("#d4b28c", "#9e9264", "round", 0.14, 0.1, 0.15, 0.01, "", 0.1, 0.04, 0.05, 0.03, 0.01, "tan"),
    "steppe": ("#967a56", "#606038", "strip", 0.07, 0.45, 0.6, 0.05, "river", 0.2, 0.1, 0.054, 0.04, 0.01, "slate"),
    "hills": ("#927052", "#505030", "patch", 0.05, 0.3, 0.5, 0.14, "", 0.8, 0.24, 0.042, 0.03, 0.07, "clay"),
    "redearth": ("#b07850", "#46522a", "patch", 0.05, 0.6, 0.8, 0.3, "ponds", 0.2, 0.2, 0.046, 0.08, 0.05, "clay"),
}
COVERS = {name: Cover(*row) for name, row in COVERS.items()}


@dataclass(frozen=True)
class Scene:
    """One AOI at one resolution, H rows x W columns: all that does not depend on the month. Colors are 0..255."""

    bare: np.ndarray  # (H, W, 3) ground and water without leaves
    lush: np.ndarray  # (H, W, 3) the same at its greenest
    peak: np.ndarray  # (H, W) calendar month (0 is January) in which it is greenest
    swing: float  # how much the seasons matter, 0..1
    settled: np.ndarray  # (H, W) month in which the land is built up, inf where never
    street: np.ndarray  # (H, W) month in which a street is laid, inf where never
    building: np.ndarray  # (H, W) index of the building on a pixel, the last one (a dummy) where none
    finished: np.ndarray  # (N + 1,) month from which each building stands, newest first; inf for the dummy
    roof: np.ndarray  # (N + 1, 3) colors
    outlines: np.ndarray  # (N, 5, 2) closed rings: x, y in pixels from the top left
    cover: Cover
    key: tuple  # seeds what changes by the month


def _even(field):
    """Spread a field's values evenly over 0..1, so that `field > 1 - share` takes that share of the area."""
    ranks, some = np.linspace(0, 1, 65), field.ravel()[:: 1 + field.size // 2**16]
    return np.interp(field, np.quantile(some, ranks), ranks).astype(np.float32)


def _noise(rng, size, cells):
    """Smooth noise (size, size), even over 0..1, with `cells` of its largest features along a side."""
    grids = [Image.fromarray(rng.random((cells << k, cells << k), dtype=np.float32)) for k in range(4)]
    resized = [np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) for grid in grids]
    return _even(sum(layer * 0.55**k for k, layer in enumerate(resized)))


def _parcels(rng, cover, x, y, wobble):
    """Divide the land: how deep inside its parcel each position is (0 on a border), and five numbers 0..1 a parcel."""
    (wide, high, stray), side = PARCELS[cover.parcel], cover.side * rng.uniform(0.75, 1.35)
    turned = (x + stray * wobble[0] + 1j * (y + stray * wobble[1])) * np.exp(1j * rng.uniform(-0.8, 0.8))
    down = turned.imag / (side * high)
    row = np.floor(down).astype(int)
    along = turned.real / (side * wide) + (rng.random(64)[row % 64] if stray else 0)
    column = np.floor(along).astype(int)
    off = np.abs(along - column - 0.5), np.abs(down - row - 0.5)
    depth = side * np.maximum(0.47 - (np.maximum(*off) if stray else np.hypot(*off)), 0)
    return depth, rng.random((5, 64, 64))[:, row % 64, column % 64]


def _shore(kind, rng, x, y, wobble):
    """Distance to the shore at each position, below 0 in the water."""
    at, phase, width = rng.uniform(0.3, 0.7), rng.uniform(0, 6.3), rng.uniform(0.02, 0.045)
    turned = (x - 0.5 + 1j * (y - 0.5)) * np.exp(1j * rng.uniform(0, 6.3))
    x, y = turned.real + 0.5, turned.imag + 0.5
    bank = y - at - 0.13 * np.sin(5 * x + phase) - 0.04 * np.sin(13 * x + 2 * phase)
    basins = np.maximum(np.abs((x * 6 + phase) % 1 - 0.5) / 6 - 0.025, np.abs(y - at - 0.12) - 0.12)
    return {
        "": np.ones_like(x),
        "river": np.abs(bank) - width * (0.6 + 0.8 * wobble),
        "coast": bank + 0.3 * wobble - 0.1,
        "docks": np.minimum(np.abs(y - at) - 0.045, basins),  # a canal and the basins on one bank
        "ponds": (0.97 - wobble) * 0.2,
    }[kind]


def _lay_blocks(rng, cover, wanted, dry):
    """Lay out a town on a turned, gently bent grid of streets, the most wanted land first.

    Args:
        wanted: (W, W) how much the land asks to be built on, even over 0..1. dry: (W, W) bool, no water.

    Returns:
        Rings (M, 5, 2) of the blocks to the middle of the streets, rings without the streets, month (M,) each is
        settled, rings (N, 5, 2) of the buildings, month (N,) each is finished, rings of the two main roads.
    """
    angle, wave, phase = rng.uniform(-0.7, 0.7), rng.uniform(3, 9, 4), rng.uniform(0, 6.3, 4)
    wide, high = cover.block * rng.uniform((0.85, 0.55), (1.2, 0.8))

    def to_map(s, t):  # along and across the streets -> x, y
        ds = cover.bend * np.sin(wave[0] * t + phase[0]) * np.cos(wave[1] * s + phase[1])
        dt = cover.bend * np.sin(wave[2] * s + phase[2]) * np.cos(wave[3] * t + phase[3])
        turned = (s + ds + 1j * (t + dt)) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], -1) + 0.5

    def boxes(s, t, w, h):
        dx, dy = np.multiply.outer(w, [-0.5, 0.5, 0.5, -0.5, -0.5]), np.multiply.outer(h, [-0.5, -0.5, 0.5, 0.5, -0.5])
        return to_map(s[:, None] + dx, t[:, None] + dy)

    s, t = ((np.arange(-int(0.85 / side), int(0.85 / side)) + 0.5) * side for side in (wide, high))
    s, t = (grid.ravel() for grid in np.meshgrid(s, t))
    column, row = np.clip(to_map(s, t) * len(dry), 0, len(dry) - 1).astype(int).T
    settled = (1 - wanted[row, column] - cover.town) / GROWTH * GROWTH_MONTHS
    lone = (rng.random(len(s)) < 0.03) & (settled > 0)  # farmsteads and other houses out of town
    settled = np.where(lone, rng.uniform(-40, 40, len(s)), settled)
    ours = dry[row, column] & (settled < GROWTH_MONTHS)
    works = _even(np.sin(9 * s + phase[0]) * np.sin(9 * t + phase[1]) + rng.random(len(s))) > 1 - cover.works
    lots = [(boxes(s, t, 0.85 * wide - STREET, 0.85 * high - STREET), settled + 2, works)]
    across, down = (wide - 2 * STREET) / 3, (high - 2 * STREET) / 2  # six lots to a block of houses
    for k in range(6):
        w, h = across * rng.uniform(0.55, 0.9, len(s)), down * rng.uniform(0.55, 0.9, len(s))
        built = np.maximum(settled, rng.uniform(-60, 30, len(s))) + rng.uniform(0, 5, len(s))
        lots.append((boxes(s + (k % 3 - 1) * across, t + (k // 3 - 0.5) * down, w, h), built, ~works))
    houses, finished = (np.concatenate([lot[part][lot[2] & ours] for lot in lots]) for part in (0, 1))
    there, held_out = np.linspace(-0.9, 0.9, 60), np.repeat([-0.7 * STREET, 0.7 * STREET, -0.7 * STREET], (60, 60, 1))
    way, (first, second) = np.concatenate([there, there[::-1], there[:1]]), rng.integers(-5, 6, 2)
    roads = [to_map(first * wide + held_out, way), to_map(way, second * high + held_out)]
    blocks, land = boxes(s, t, wide, high), boxes(s, t, wide - STREET, high - STREET)
    return blocks[ours], land[ours], settled[ours], houses, finished, roads


def _fill(size, rings):
    """Index of the last polygon over the center of each pixel (size, size), -1 where there is none."""
    from rasterio.features import rasterize  # GDAL's rule, so that burning the footprints gives the pixels drawn

    shapes = [({"type": "Polygon", "coordinates": [(r * size).tolist()]}, index) for index, r in enumerate(rings)]
    return rasterize(shapes, (size, size), fill=-1, dtype="int32")


def _lay_land(rng, cover, x, y):
    """Colors of the open land: (W, W, 3) bare and lush, (W, W) month of its best, distance to the shore."""
    tint = rng.uniform(0.94, 1.06, (2, 3))  # AOIs of one cover share the palette, not the exact color
    soil, green = (np.array(ImageColor.getrgb(c)) * t for c, t in zip(cover[:2], tint, strict=True))
    ground, hill, canopy, grain = (_noise(rng, len(x), cells) for cells in (3, 4, 5, 80))
    shore = _shore(cover.water, rng, x, y, _noise(rng, len(x), 4))
    depth, (use, crop, shade, fallow, ripe) = _parcels(rng, cover, x, y, (ground, canopy))
    farmed = (use < cover.farmed) & (depth > 0)
    bare = soil * (0.86 + 0.2 * ground + np.where(farmed, 0.3 * (shade - 0.5), 0.15 * (hill - 0.5)))[..., None]
    grown = np.where(farmed[..., None], CROPS[(crop * 4).astype(int)] * tint[1], green)
    vigour = np.where(farmed, 0.9 * (fallow > 0.15), cover.grass * (0.4 + 0.6 * canopy))[..., None]
    hedge = np.where(farmed & (depth < 0.0015), 0.8, 1.0)[..., None]
    bare, lush = bare * hedge, (bare + (grown - bare) * vigour) * hedge
    trees = ((0.75 * canopy + 0.25 * grain > 1 - cover.trees) & ~(farmed & (canopy < 0.7)))[..., None]
    wood = green * (0.6 + 0.5 * grain[..., None])
    bare, lush = np.where(trees, wood * 0.85 + soil * 0.1, bare), np.where(trees, wood, lush)
    slope = (np.gradient(hill, axis=1) + np.gradient(hill, axis=0)) * len(x)
    light = (np.clip(1 - 0.09 * cover.relief * slope, 0.5, 1.4) * (0.92 + 0.16 * grain))[..., None]
    sea = (44, 62, 74) * tint[0] + 14 * np.exp(np.minimum(shore, 0) * 25)[..., None]
    wet, beach = (shore < 0)[..., None], (shore < 0.006)[..., None]
    bare, lush = (np.where(wet, sea, np.where(beach, soil * 1.1, color * light)) for color in (bare, lush))
    return bare, lush, 6 + np.where(farmed, 6 * ripe - 3, 0), shore


def build_scene(cover, latitude, size, rows=None, key=(0,)):
    """Lay out an AOI.

    Args:
        cover: a land cover, a key of `COVERS`.
        latitude: degrees, for the seasons.
        size: width W in pixels.
        rows: height H in pixels, at most W (the default); fewer leave out the southern edge.
        key: whole numbers >= 0 that tell this AOI from others of its cover.

    Returns:
        A Scene, always the same for the same arguments.
    """
    rng, cover, rows = np.random.default_rng(key), COVERS[cover], rows or size
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    bare, lush, peak, shore = _lay_land(rng, cover, x, y)
    centers = rng.uniform((0.1, 0.1, 0.15), (0.9, 0.9, 0.35), (rng.integers(1, 4), 3))  # x, y, reach of one to three
    near = [np.hypot(x - cx, y - cy) / spread for cx, cy, spread in centers]
    wanted = _even(0.35 * _noise(rng, size, 5) + np.exp(-np.min(near, 0)) - 2 * (shore < 0.01))
    blocks, land, settled, houses, finished, roads = _lay_blocks(rng, cover, wanted, shore > 0.012)
    column, row = np.clip(houses * size, 0, size - 1).astype(int).T
    fits = ((houses > 0.002) & (houses < (0.998, min(0.998, rows / size)))).all((1, 2))
    fits &= (shore[row, column] > 0).all(0)
    kept = np.flatnonzero(fits)[np.argsort(-finished[fits])]  # newest first: an older one, drawn later, stays whole
    houses, finished = houses[kept], finished[kept]
    roofs = rng.choice(np.float32(ROOFS[cover.roofs]), len(houses) + 1)
    roofs *= rng.uniform(0.9, 1.1, (len(houses) + 1, 1))
    block, inner = _fill(size, [*blocks, *roads]), _fill(size, [*land, *roads])
    block[(shore < 0) & ((block < len(land)) | (shore < -0.06))] = -1  # bridges, but no road out to sea
    inside = (inner >= 0) & (inner < len(land))
    settled = np.concatenate([settled, [-99, -99, np.inf]])[block]  # main roads are old; -1, the last: open land
    layers = bare, lush, (peak + 6 * (latitude < 0)) % 12, settled, np.where(inside, np.inf, settled)
    bare, lush, peak, settled, street = (layer[:rows].astype(np.float32) for layer in layers)
    building, finished = _fill(size, houses)[:rows], np.append(finished, np.inf)
    swing = min(1, 0.3 + abs(latitude) / 50)
    return Scene(bare, lush, peak, swing, settled, street, building, finished, roofs, houses * size, cover, tuple(key))


def draw_mosaic(scene, month):
    """Paint a month of a scene, counted from January 2018: uint8 (H, W, 4), RGB and an alpha of 255."""
    rng = np.random.default_rng((*scene.key, 1, month))
    green = 0.5 + 0.5 * scene.swing * np.cos((month % 12 - scene.peak) * np.pi / 6)
    green = np.clip(green + rng.uniform(-0.1, 0.1), 0, 1)[..., None]
    image = scene.bare + (scene.lush - scene.bare) * green
    soil = np.array(ImageColor.getrgb(scene.cover.soil), np.float32)
    age = (month - scene.settled)[..., None]
    yard = np.where(age < 4, soil * 1.12, 0.45 * soil + 0.3 * image + YARD)  # a building site is bare at first
    image = np.where(age < 0, image, yard)
    image = np.where(scene.street[..., None] <= month, 0.5 * soil + ROAD, image)
    built = scene.finished[scene.building] <= month
    reach = max(1, round(0.0025 * len(image)))
    shadow = np.roll(built, (-reach, -reach), (0, 1)) & ~built
    image = np.where(built[..., None], scene.roof[scene.building], np.where(shadow[..., None], 0.6 * image, image))
    haze, cloud = (_noise(rng, image.shape[1], cells)[: len(image)] for cells in (2, 3))
    haze = rng.beta(1.5, 9) * (0.6 + 0.8 * haze)
    if rng.random() < 0.45 * scene.cover.grass:
        haze = np.maximum(haze, np.clip(4 * (cloud - rng.uniform(0.75, 1)), 0, 0.75))
    image *= (rng.uniform(0.88, 1.08) * rng.uniform(0.97, 1.03, 3)).astype(np.float32)
    image += (HAZE - image) * haze[..., None]
    return np.dstack([image.clip(0, 255).astype(np.uint8), np.full(haze.shape, 255, np.uint8)])
