"""Procedural landscapes for the sample tree: land that differs by place, and towns that grow month by month.

`build_scene` lays out an AOI: soil, fields, trees, water, hills, and blocks of houses with their months of completion.
Land covers differ in structure: in the texture of the ground, the shape and size of fields and blocks, the density of
buildings, the layout of streets, in trees, water and relief. Colors vary within an AOI as much as between AOIs. Lengths
are in tile sides (1 is about 4.9 km, x to the east, y to the south): the same ground at every image size. Months are
counted from January 2018.
"""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

GROWTH, GROWTH_MONTHS = 0.16, 24  # a town grows by 16 % of the tile within two years
STREET = 0.0055  # width
OTHERS = 0.8  # fraction of the colors of soil and vegetation that comes from other covers, and varies within the AOI
GRAIN = 0.6  # contrast of the texture of the ground
OPEN, TREES, WATER = range(3)
CROPS = np.array([(62, 86, 42), (98, 112, 54), (132, 124, 66), (46, 64, 36)])
# width and height of a field of each shape in field sides, and how much its borders bend
PARCELS = {"patch": (1.4, 1, 0.09), "rect": (1.6, 1, 0.01), "strip": (0.4, 2.4, 0.03), "round": (1, 1, 0)}
ROOFS = {
    "tan": ((222, 204, 180), (196, 174, 148), (238, 226, 208), (176, 158, 140)),
    "white": ((226, 224, 218), (198, 196, 190), (244, 242, 238), (160, 156, 150), (112, 138, 170)),
    "clay": ((178, 116, 84), (150, 104, 84), (206, 180, 158), (226, 220, 210)),
    "slate": ((130, 118, 108), (160, 138, 122), (112, 106, 102), (214, 208, 200)),
}

# Parameters of each land cover. Fractions are of the area, 0..1.
# soil, green: colors of bare ground, of grass and trees. parcel, side: shape (key of PARCELS) and size of the fields.
# farmed: fraction of the parcels. grass: how green open land gets, 0..1; wet places are cloudy, too. trees: fraction.
# relief: strength of the hill shading. town: fraction built up at the start. block: width of a block of houses.
# large: fraction of the blocks that are one large building. bend: how much streets bend.
_FIELDS = "soil green parcel side farmed grass trees water relief town block large bend roofs"
Cover = namedtuple("Cover", f"{_FIELDS} grain stretch")
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
# grain, stretch: texture of the ground, such as dunes, scrub or furrows: its features along the height of the tile, and
# how many times wider than high they are.
TEXTURES = {
    "rainforest": (40, 1), "newtown": (24, 1), "suburb": (120, 1), "coast": (24, 5), "farmland": (70, 5),
    "paddy": (40, 5), "port": (120, 5), "metro": (70, 1), "desert": (14, 5), "steppe": (90, 3), "hills": (14, 1),
    "redearth": (50, 2),
}  # fmt: skip
COVERS = {name: Cover(*row, *TEXTURES[name]) for name, row in COVERS.items()}


@dataclass(frozen=True)
class Scene:
    """One AOI at one resolution, H rows x W columns: what does not depend on the month. Colors are 0..255."""

    soil: np.ndarray  # (H, W, 3) color of soil
    surface: np.ndarray  # (H, W) OPEN, TREES or WATER
    bare: np.ndarray  # (H, W, 3) color of ground and water without vegetation
    lush: np.ndarray  # (H, W, 3) color at the peak of vegetation
    peak: np.ndarray  # (H, W) calendar month of the peak of vegetation (0 is January)
    seasonality: float  # amplitude of the seasons, 0..1
    developed: np.ndarray  # (H, W) month in which the land is developed, inf for open land
    street: np.ndarray  # (H, W) month in which a street is built, inf without one
    building: np.ndarray  # (H, W) index of the building on a pixel; without one, the last index (a dummy)
    finished: np.ndarray  # (N + 1,) month in which each building is finished, newest first; inf for the dummy
    roof: np.ndarray  # (N + 1, 3) colors
    outlines: np.ndarray  # (N, 5, 2) closed rings: x, y in pixels from the top left
    cover: Cover
    key: tuple  # seed of the monthly variation


def _equalize(field: np.ndarray) -> np.ndarray:
    """Equalize a field's histogram over 0..1, so that `field > 1 - p` selects a fraction p of the area."""
    ranks, some = np.linspace(0, 1, 65), field.ravel()[:: 1 + field.size // 2**16]
    return np.interp(field, np.quantile(some, ranks), ranks).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: int, stretch: int = 1) -> np.ndarray:
    """Return smooth noise (size, size), uniform over 0..1, with `cells` of its largest features along the height.

    They are `stretch` times wider than high.
    """
    shapes = [(cells << k, max(1, (cells << k) // stretch)) for k in range(4)]
    grids = [Image.fromarray(rng.random(shape, dtype=np.float32)) for shape in shapes]
    resized = [np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) for grid in grids]
    return _equalize(sum(layer * 0.55**k for k, layer in enumerate(resized)))


def _parcels(rng, cover, x, y, wobble):
    """Divide land into parcels: return the depth of each position inside its parcel and five random numbers of it."""
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
    """Return the distance to the shore at each position, negative in the water."""
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


def _town(rng, cover, suitability, dry):
    """Lay out a town on a rotated, slightly bent grid of streets, in order of ``suitability``, uniform over 0..1.

    Returns rings (M, 5, 2) of the blocks up to the center of the streets, rings without the streets, month of
    development (M,), rings (N, 5, 2) of the buildings, month of completion (N,), rings of the two main roads.
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
    developed = (1 - suitability[row, column] - cover.town) / GROWTH * GROWTH_MONTHS
    isolated = (rng.random(len(s)) < 0.03) & (developed > 0)  # farmsteads and other isolated houses
    developed = np.where(isolated, rng.uniform(-40, 40, len(s)), developed)
    buildable = dry[row, column] & (developed < GROWTH_MONTHS)
    large = _equalize(np.sin(9 * s + phase[0]) * np.sin(9 * t + phase[1]) + rng.random(len(s))) > 1 - cover.large
    lots = [(boxes(s, t, 0.85 * wide - STREET, 0.85 * high - STREET), developed + 2, large)]
    across, down = (wide - 2 * STREET) / 3, (high - 2 * STREET) / 2  # six lots to a block of houses
    for k in range(6):
        w, h = across * rng.uniform(0.55, 0.9, len(s)), down * rng.uniform(0.55, 0.9, len(s))
        built = np.maximum(developed, rng.uniform(-60, 30, len(s))) + rng.uniform(0, 5, len(s))
        lots.append((boxes(s + (k % 3 - 1) * across, t + (k // 3 - 0.5) * down, w, h), built, ~large))
    houses, finished = (np.concatenate([lot[part][lot[2] & buildable] for lot in lots]) for part in (0, 1))
    length, lateral = np.linspace(-0.9, 0.9, 60), np.repeat([-0.7 * STREET, 0.7 * STREET, -0.7 * STREET], (60, 60, 1))
    outline, (first, second) = np.concatenate([length, length[::-1], length[:1]]), rng.integers(-5, 6, 2)
    roads = [to_map(first * wide + lateral, outline), to_map(outline, second * high + lateral)]
    blocks, land = boxes(s, t, wide, high), boxes(s, t, wide - STREET, high - STREET)
    return blocks[buildable], land[buildable], developed[buildable], houses, finished, roads


def _rasterize(size, rings):
    """Return the index of the last polygon over the center of each pixel (size, size), -1 without one."""
    from rasterio.features import rasterize  # GDAL's rule: rasterized footprints equal the drawn buildings

    shapes = [({"type": "Polygon", "coordinates": [(r * size).tolist()]}, index) for index, r in enumerate(rings)]
    return rasterize(shapes, (size, size), fill=-1, dtype="int32")


def _mixed_color(rng, cover, column, size):
    """Return the soil (column 0) or green (1) at each position (W, W, 3): the cover's, mixed with those of others."""
    colors = np.array([ImageColor.getrgb(row[column]) for row in COVERS.values()], float)
    noise, others = smooth_noise(rng, size, 3), rng.permutation(colors)[:4]
    mixed = np.stack([np.interp(noise, np.linspace(0, 1, 4), channel) for channel in others.T], -1)
    return np.array(ImageColor.getrgb(cover[column])) * (1 - OTHERS) + mixed * OTHERS


def _land_colors(rng, cover, x, y):
    """Lay out the open land: the layers `soil` to `peak` of a Scene, and the distance to the shore (W, W)."""
    tint = rng.uniform(0.94, 1.06, (2, 3))  # AOIs of one cover differ slightly in color
    soil, green = (_mixed_color(rng, cover, column, len(x)) * tint[column] for column in (0, 1))
    ground, hill, canopy = (smooth_noise(rng, len(x), cells) for cells in (3, 4, 5))
    grain = smooth_noise(rng, len(x), cover.grain, cover.stretch)
    shore = _shore(cover.water, rng, x, y, smooth_noise(rng, len(x), 4))
    depth, (use, crop, shade, fallow, ripe) = _parcels(rng, cover, x, y, (ground, canopy))
    farmed = (use < cover.farmed) & (depth > 0)
    bare = soil * (0.86 + 0.2 * ground + np.where(farmed, 0.3 * (shade - 0.5), 0.15 * (hill - 0.5)))[..., None]
    grown = np.where(farmed[..., None], CROPS[(crop * 4).astype(int)] * tint[1], green)
    growth = np.where(farmed, 0.9 * (fallow > 0.15), cover.grass * (0.4 + 0.6 * canopy))[..., None]
    hedge = np.where(farmed & (depth < 0.0015), 0.8, 1.0)[..., None]
    bare, lush = bare * hedge, (bare + (grown - bare) * growth) * hedge
    trees = ((0.75 * canopy + 0.25 * grain > 1 - cover.trees) & ~(farmed & (canopy < 0.7)))[..., None]
    wood = green * (0.6 + 0.5 * grain[..., None])
    bare, lush = np.where(trees, wood * 0.85 + soil * 0.1, bare), np.where(trees, wood, lush)
    slope = (np.gradient(hill, axis=1) + np.gradient(hill, axis=0)) * len(x)
    light = (np.clip(1 - 0.09 * cover.relief * slope, 0.5, 1.4) * (1 - GRAIN / 2 + GRAIN * grain))[..., None]
    sea = (44, 62, 74) * tint[0] + 14 * np.exp(np.minimum(shore, 0) * 25)[..., None]
    wet, beach = (shore < 0)[..., None], (shore < 0.006)[..., None]
    bare, lush = (np.where(wet, sea, np.where(beach, soil * 1.1, color * light)) for color in (bare, lush))
    surface = np.where(shore < 0, WATER, np.where(trees[..., 0], TREES, OPEN))
    return (soil, surface, bare, lush, 6 + np.where(farmed, 6 * ripe - 3, 0)), shore


def build_scene(cover: str, latitude: float, size: int, rows: int | None = None, key: tuple[int, ...] = (0,)) -> Scene:
    """Lay out an AOI; the result depends on the arguments only.

    Args:
        cover: Land cover, a key of `COVERS`.
        latitude: Latitude in degrees, for the seasons.
        size: Width W in pixels.
        rows: Height H in pixels, at most W (default: W); fewer rows leave out the southern edge.
        key: Integers >= 0 that seed this AOI.
    """
    rng, cover, rows = np.random.default_rng(key), COVERS[cover], rows or size
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    (*land_layers, peak), shore = _land_colors(rng, cover, x, y)
    centers = rng.uniform((0.1, 0.1, 0.15), (0.9, 0.9, 0.35), (rng.integers(1, 4), 3))  # x, y, reach of one to three
    near = [np.hypot(x - cx, y - cy) / radius for cx, cy, radius in centers]
    suitability = _equalize(0.35 * smooth_noise(rng, size, 5) + np.exp(-np.min(near, 0)) - 2 * (shore < 0.01))
    blocks, land, developed, houses, finished, roads = _town(rng, cover, suitability, shore > 0.012)
    column, row = np.clip(houses * size, 0, size - 1).astype(int).T
    fits = ((houses > 0.002) & (houses < (0.998, min(0.998, rows / size)))).all((1, 2))
    fits &= (shore[row, column] > 0).all(0)
    order = np.flatnonzero(fits)[np.argsort(-finished[fits])]  # newest first: older buildings are drawn over newer ones
    houses, finished = houses[order], finished[order]
    roofs = rng.choice(np.float32(ROOFS[cover.roofs]), len(houses) + 1)
    roofs *= rng.uniform(0.9, 1.1, (len(houses) + 1, 1))
    block, inner = _rasterize(size, [*blocks, *roads]), _rasterize(size, [*land, *roads])
    block[(shore < 0) & ((block < len(land)) | (shore < -0.06))] = -1  # no roads out to sea
    inside = (inner >= 0) & (inner < len(land))
    developed = np.concatenate([developed, [-99, -99, np.inf]])[block]  # old main roads; open land
    layers = *land_layers, (peak + 6 * (latitude < 0)) % 12, developed, np.where(inside, np.inf, developed)
    *land_layers, peak, developed, street = (layer[:rows].astype(np.float32) for layer in layers)
    building, finished = _rasterize(size, houses)[:rows], np.append(finished, np.inf)
    seasonality = min(1, 0.3 + abs(latitude) / 50)
    months = developed, street, building, finished
    return Scene(*land_layers, peak, seasonality, *months, roofs, houses * size, cover, tuple(key))
