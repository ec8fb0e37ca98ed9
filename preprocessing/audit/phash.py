"""What shows that two images are one though their pixels differ: a perceptual hash that small changes hardly touch.

The hash is imagehash's ``phash`` (which of an image's low frequencies lie above their median), taken of the middle 7/8
of the side. An image shifted by a few pixels still has that middle, elsewhere: so it is looked for in windows at
``SHIFTS``, and in all eight orientations, which cost next to nothing, since a flip only turns signs of frequencies.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

HASH_SIZE = 12  # low frequencies per axis, so 144 bits
SIDE = 96  # images are resized to this, the window is 7/8 of it: 84 = 7 * 12, as phash resizes to a multiple
WINDOW = SIDE * 7 // 8
STEP = SIDE // 32
SHIFTS = tuple(range(-2, 3))  # in 1/32 of the side, along both axes
MOST = 24  # bits that may differ, and MIN_CONTRAST: chosen by benchmarks/bench_audit.py
MIN_CONTRAST = 2.0  # of 255
_TILES = 4
_BLOCK = 16  # hashes at a time: their distances stay in the processor's cache

_LOWEST_FIRST = np.argsort(np.maximum(*np.indices((HASH_SIZE, HASH_SIZE))).ravel() >= 8, kind="stable")

# DCT-II of a window, low frequencies only
_BASIS = 2 * np.cos(np.pi * np.arange(HASH_SIZE)[:, None] * (2 * np.arange(WINDOW) + 1) / (2 * WINDOW))


def thumbnail(pixels):
    """Gray image of SIDE x SIDE.

    Args:
        pixels: uint8 (H, W, 3) or (H, W).

    Returns:
        uint8 (SIDE, SIDE).
    """
    gray = Image.fromarray(pixels).convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def contrast(thumbnails):
    """How much there is to recognize: the standard deviation within a tile, median over 4 x 4 tiles.

    The median, because one bright corner on calm water gives much the same hash as another; half of the image must
    have some texture.

    Args:
        thumbnails: uint8 (n, SIDE, SIDE).

    Returns:
        float (n,), in gray levels of 255.
    """
    tile = SIDE // _TILES
    tiles = np.asarray(thumbnails, np.float32).reshape(-1, _TILES, tile, _TILES, tile)
    return np.median(tiles.std((2, 4)).reshape(len(tiles), -1), axis=1)


def spectra(thumbnails, shifts=(0,)):
    """Low frequencies of windows of thumbnails.

    Args:
        thumbnails: uint8 (n, SIDE, SIDE). shifts: of the windows, in 1/32 of the side, along both axes.

    Returns:
        float64 (n, len(shifts)**2, HASH_SIZE, HASH_SIZE), as ``scipy.fftpack.dct`` along both axes gives them.
    """
    starts = [(SIDE - WINDOW) // 2 + STEP * shift for shift in shifts]
    images = np.asarray(thumbnails, np.float64)
    rows = np.stack([_BASIS @ images[:, start : start + WINDOW] for start in starts], 1)  # (n, S, HASH_SIZE, SIDE)
    both = np.stack([rows[..., start : start + WINDOW] @ _BASIS.T for start in starts], 2)
    return both.reshape(len(images), len(starts) ** 2, HASH_SIZE, HASH_SIZE)


def orientations(coefficients):
    """Low frequencies of the image turned and flipped in all eight ways, the image itself first.

    Args:
        coefficients: (..., HASH_SIZE, HASH_SIZE).

    Returns:
        (8, ..., HASH_SIZE, HASH_SIZE).
    """
    odd = (-1.0) ** np.arange(HASH_SIZE)  # mirrored, a cosine of odd frequency changes its sign
    turned = (coefficients, np.swapaxes(coefficients, -1, -2))
    return np.stack([c * down * across for c in turned for down in (1, odd[:, None]) for across in (1, odd)])


def hash_bits(coefficients):
    """Which low frequencies lie above their median: (..., HASH_SIZE, HASH_SIZE) -> bool of the same shape."""
    return coefficients > np.median(coefficients, axis=(-2, -1), keepdims=True)


def hash_words(coefficients):
    """Hash of low frequencies, packed.

    Args:
        coefficients: (..., HASH_SIZE, HASH_SIZE).

    Returns:
        uint64 (..., 3): first the 8 x 8 lowest frequencies, then the others; bits that are not used are zero.
    """
    bits = hash_bits(coefficients).reshape(*coefficients.shape[:-2], -1)[..., _LOWEST_FIRST]
    words = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // 64) * 8), np.uint8)
    words[..., : bits.shape[-1] // 8] = np.packbits(bits, axis=-1)
    return words.view(np.uint64)


def all_hashes(thumbnails, shifts=SHIFTS, turned=True):
    """Hashes of every shift and orientation.

    Returns:
        uint64 (n, V, 3), V = len(shifts)**2 * (8 if turned else 1).
    """
    found = spectra(thumbnails, shifts)
    words = hash_words(orientations(found) if turned else found[None])  # (8, n, S, 3)
    return np.ascontiguousarray(np.moveaxis(words, 0, 1)).reshape(len(found), -1, words.shape[-1])


def ones(words):
    """How many bits are set in each of an array's uint64."""
    if hasattr(np, "bitwise_count"):  # since numpy 2, one instruction each
        return np.bitwise_count(words)
    pairs = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((eights * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def nearest(queries, stored, most, workers=1, progress=lambda iterator, total: iterator):
    """The stored hash nearest to each query; all pairs are compared, a few rows at a time.

    Near are two hashes that differ in ``most`` bits at most, and in half of that in the 8 x 8 lowest frequencies: these
    tell nearly all pairs apart by one word, and real copies differ in them less than in the others.

    Args:
        queries: uint64 (m, V, W), V hashes of each query, the nearest counts. stored: uint64 (n, W).
        most: bits that may differ. workers: threads.
        progress: function (iterator, total) -> iterator, over groups of queries.

    Returns:
        index into stored (m,), -1 where nothing is near enough, and distance in bits (m,), most + 1 there.
    """
    columns = np.ascontiguousarray(stored.T)
    size = max(1, 2048 // queries.shape[1])
    groups = [queries[start : start + size] for start in range(0, len(queries), size)]
    with ThreadPoolExecutor(workers) as pool:  # numpy lets go of the interpreter while it counts
        found = list(progress(pool.map(lambda group: _nearest(group, columns, most), groups), len(groups)))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _nearest(queries, columns, most):
    """``nearest`` for one group; columns: stored hashes as (W, n)."""
    best = np.full(len(queries), (most + 1) << 32, np.int64)  # distance and index in one number, so that min finds both
    flat = queries.reshape(-1, queries.shape[-1])
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        near = ones(block[:, :1] ^ columns[0]) <= most // 2
        query, other = np.divmod(np.flatnonzero(near), columns.shape[1])
        distance = ones(block[query] ^ columns[:, other].T).sum(1, dtype=np.int64)
        np.minimum.at(best, (start + query) // queries.shape[1], distance << 32 | other)
    distance = best >> 32
    return np.where(distance <= most, best & 0xFFFFFFFF, -1), np.minimum(distance, most + 1)
