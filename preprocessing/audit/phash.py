"""Perceptual hashes that small changes of an image hardly affect, and the search for the nearest one.

The hash is the one of ``imagehash.phash`` (which low DCT frequencies lie above their median), computed on the central
7/8 of the image. A query is hashed in windows at all ``SHIFTS`` and in all eight orientations of the image, so that
shifted, rotated and flipped copies match too. Orientations are cheap: a flip changes signs of DCT coefficients only.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

HASH_SIZE = 12  # low frequencies per axis: 144 bits
SIDE = 96  # size of the thumbnails; the window is 7/8 of it, 84 = 7 * 12, since phash resizes to a multiple of 12
WINDOW = SIDE * 7 // 8
STEP = SIDE // 32
SHIFTS = tuple(range(-2, 3))  # in 1/32 of the side, along both axes
MAX_BITS = 24  # Hamming distance of near duplicates; MAX_BITS and MIN_CONTRAST are chosen by benchmarks/bench_audit.py
MIN_CONTRAST = 2.0  # gray levels of 255
MAX_BLACK = 16  # of 255, in all channels, or below white: JPEG makes no-data areas nearly black
MIN_NODATA = 0.01  # fraction of the image; smaller areas are ordinary shadows
_MAX_FRINGE, _FRINGE = 40, 4  # of 255, and pixels: what JPEG and resampling have mixed with black
_TILES = 4
_BLOCK = 16  # hashes compared at a time, so that their distances stay in the processor's cache

# order of the bits: the 8 x 8 lowest frequencies first
_LOWEST_FIRST = np.argsort(np.maximum(*np.indices((HASH_SIZE, HASH_SIZE))).ravel() >= 8, kind="stable")

# DCT-II of a window, low frequencies only
_BASIS = 2 * np.cos(np.pi * np.arange(HASH_SIZE)[:, None] * (2 * np.arange(WINDOW) + 1) / (2 * WINDOW))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Convert an image, uint8 (H, W, 3) or (H, W), to a gray thumbnail, uint8 (SIDE, SIDE).

    No-data areas get the mean of the other pixels.
    """
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    nodata = nodata_mask(pixels)
    if nodata.any() and not nodata.all():
        gray = np.where(nodata, np.uint8(round(gray[~nodata].mean())), gray)
    return np.asarray(Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def nodata_mask(pixels: np.ndarray) -> np.ndarray:
    """Find black areas that touch the border and white areas that hold a corner, such as wedges of a rotated scene.

    Without a mask, the outline of these areas would decide the hash, and unrelated images would match. What lies behind
    a straight edge always holds a corner; a bright roof that a shift moves to the border seldom does.
    """
    bands = pixels if pixels.ndim == 3 else pixels[..., None]
    border = np.ones(bands.shape[:2], bool)
    border[1:-1, 1:-1] = False
    corners = np.ones_like(border)
    corners[2:-2] = corners[:, 2:-2] = False
    return _dark_at(border, bands.max(-1)) | _dark_at(corners, 255 - bands.min(-1))


def _dark_at(place: np.ndarray, brightest: np.ndarray) -> np.ndarray:
    """Find large dark areas that touch ``place``, bool (H, W), and their fringe: bool (H, W)."""
    black = brightest <= MAX_BLACK
    if black.mean() < MIN_NODATA:
        return np.zeros_like(black)
    areas, _ = ndimage.label(black)
    touching = np.unique(areas[place])
    mask = np.isin(areas, touching[touching > 0])
    if mask.mean() < MIN_NODATA:
        return np.zeros_like(black)
    mask = ndimage.binary_dilation(mask, np.ones((3, 3)), _FRINGE, mask=brightest <= _MAX_FRINGE)
    return ndimage.binary_dilation(mask, np.ones((3, 3)))


def contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Compute the contrast of images: the standard deviation within a tile, median over 4 x 4 tiles.

    The median requires some texture in half of the image. One bright corner on calm water is not enough, because its
    hash is much the same as that of another such image. Thumbnails are uint8 (n, SIDE, SIDE), the result is float (n,)
    in gray levels of 255.
    """
    tile = SIDE // _TILES
    tiles = np.asarray(thumbnails, np.float32).reshape(-1, _TILES, tile, _TILES, tile)
    return np.median(tiles.std((2, 4)).reshape(len(tiles), -1), axis=1)


def spectra(thumbnails: np.ndarray, shifts: tuple[int, ...] = (0,)) -> np.ndarray:
    """Compute the low DCT frequencies of windows of thumbnails, as ``scipy.fftpack.dct`` along both axes.

    Thumbnails are as for ``all_hashes``, the result is float64 (n, S**2, HASH_SIZE, HASH_SIZE).
    """
    starts = [(SIDE - WINDOW) // 2 + STEP * shift for shift in shifts]
    images = np.asarray(thumbnails, np.float64)
    rows = np.stack([_BASIS @ images[:, start : start + WINDOW] for start in starts], 1)  # (n, S, HASH_SIZE, SIDE)
    both = np.stack([rows[..., start : start + WINDOW] @ _BASIS.T for start in starts], 2)
    return both.reshape(len(images), len(starts) ** 2, HASH_SIZE, HASH_SIZE)


def orientations(coefficients: np.ndarray) -> np.ndarray:
    """Return the DCT coefficients of the eight rotations and flips, itself first: (8, *shape of the input)."""
    sign = (-1.0) ** np.arange(HASH_SIZE)  # a flip negates the coefficients of odd frequency
    transposed = (coefficients, np.swapaxes(coefficients, -1, -2))
    return np.stack([c * down * across for c in transposed for down in (1, sign[:, None]) for across in (1, sign)])


def hash_bits(coefficients: np.ndarray) -> np.ndarray:
    """Return which coefficients lie above their median: (..., HASH_SIZE, HASH_SIZE), bool."""
    return coefficients > np.median(coefficients, axis=(-2, -1), keepdims=True)


def pack_hashes(coefficients: np.ndarray) -> np.ndarray:
    """Hash DCT coefficients (..., HASH_SIZE, HASH_SIZE) to words uint64 (..., 3).

    The bits of the 8 x 8 lowest frequencies come first, then the others. Unused bits are zero.
    """
    bits = hash_bits(coefficients).reshape(*coefficients.shape[:-2], -1)[..., _LOWEST_FIRST]
    packed = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // 64) * 8), np.uint8)
    packed[..., : bits.shape[-1] // 8] = np.packbits(bits, axis=-1)
    return packed.view(np.uint64)


def all_hashes(thumbnails: np.ndarray, shifts: tuple[int, ...] = SHIFTS, dihedral: bool = True) -> np.ndarray:
    """Hash every shift and orientation of thumbnails.

    Args:
        thumbnails: uint8 (n, SIDE, SIDE).
        shifts: Offsets S of the windows along both axes, in 1/32 of the side.
        dihedral: Whether to hash all eight rotations and flips.

    Returns:
        uint64 (n, V, 3), V = S**2 * (8 if dihedral else 1).
    """
    coefficients = spectra(thumbnails, shifts)
    hashes = pack_hashes(orientations(coefficients) if dihedral else coefficients[None])  # (8, n, S**2, 3)
    return np.ascontiguousarray(np.moveaxis(hashes, 0, 1)).reshape(len(coefficients), -1, hashes.shape[-1])


def popcount(values: np.ndarray) -> np.ndarray:
    """Count the bits that are set in each uint64 of an array."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(values)
    pairs = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((eights * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def nearest(
    queries: np.ndarray, references: np.ndarray, max_bits: int, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest reference hash of each query by comparing all pairs.

    Two hashes match if they differ in at most ``max_bits`` bits, and in at most half of that in the 8 x 8 lowest
    frequencies. The second condition rejects nearly all pairs by one word, and copies differ less there than elsewhere.

    Args:
        queries: uint64 (m, V, W), V hashes of each query; the nearest one counts.
        references: uint64 (n, W).
        max_bits: Largest Hamming distance.
        workers: Number of threads.

    Returns:
        Index into ``references`` (m,), -1 without a match, and Hamming distance (m,), max_bits + 1 without a match.
    """
    columns = np.ascontiguousarray(references.T)
    size = max(1, 2048 // queries.shape[1])
    groups = [queries[start : start + size] for start in range(0, len(queries), size)]
    with ThreadPoolExecutor(workers) as pool:  # NumPy releases the GIL while it counts
        pending = pool.map(lambda group: _nearest(group, columns, max_bits), groups)
        results = list(tqdm(pending, "comparing", len(groups), disable=None))  # hidden without a terminal
    if not results:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    index, distance = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return index, distance


def _nearest(queries: np.ndarray, columns: np.ndarray, max_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute ``nearest`` for one group of queries; ``columns`` are the reference hashes as (W, n)."""
    best = np.full(len(queries), (max_bits + 1) << 32, np.int64)  # distance and index in one number for the minimum
    flat = queries.reshape(-1, queries.shape[-1])
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        candidates = popcount(block[:, :1] ^ columns[0]) <= max_bits // 2
        query, other = np.divmod(np.flatnonzero(candidates), columns.shape[1])
        distance = popcount(block[query] ^ columns[:, other].T).sum(1, dtype=np.int64)
        np.minimum.at(best, (start + query) // queries.shape[1], distance << 32 | other)
    distance = best >> 32
    return np.where(distance <= max_bits, best & 0xFFFFFFFF, -1), np.minimum(distance, max_bits + 1)
