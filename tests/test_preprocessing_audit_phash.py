"""Facts about the perceptual hash: it is imagehash's, with turns and shifts, and the search misses nothing."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from preprocessing.audit import phash
from preprocessing.audit.phash import (
    HASH_SIZE,
    SHIFTS,
    SIDE,
    WINDOW,
    all_hashes,
    contrast,
    hash_bits,
    nearest,
    orientations,
    pack_hashes,
    popcount,
    spectra,
    thumbnail,
)


def textures(count, side=32, seed=0):
    """Smooth random color images, uint8 (count, side, side, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 10, 10, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC)) for image in small])


def thumbnails(images):
    return np.stack([thumbnail(image) for image in images])


def test_the_hash_is_imagehashs_phash_of_the_window():
    shown = thumbnails(textures(50))
    start = (SIDE - WINDOW) // 2
    bits = hash_bits(spectra(shown)[:, 0])
    for found, image in zip(bits, shown, strict=True):
        window = Image.fromarray(image).crop((start, start, start + WINDOW, start + WINDOW))
        expected = imagehash.phash(window, hash_size=HASH_SIZE, highfreq_factor=WINDOW // HASH_SIZE)
        assert (found == expected.hash).all()


def test_the_distance_of_packed_words_is_imagehashs():
    found = spectra(thumbnails(textures(2)))[:, 0]
    first, second = (imagehash.ImageHash(bits) for bits in hash_bits(found))
    words = pack_hashes(found)
    assert words.shape == (2, 3) and popcount(words[0] ^ words[1]).sum() == first - second > 20


def test_the_eight_orientations_are_those_of_the_image_itself():
    shown = thumbnails(textures(1))[0]
    turned = [np.rot90(side, k) for side in (shown, shown.T) for k in range(4)]
    expected = {hash_bits(spectra(image[None])[0, 0]).tobytes() for image in turned}
    found = hash_bits(orientations(spectra(shown[None])[0, 0]))
    assert {bits.tobytes() for bits in found} == expected and len(expected) == 8
    assert (found[0] == hash_bits(spectra(shown[None])[0, 0])).all()


@pytest.mark.parametrize("shift", [(1, 0), (-2, 1), (2, 2)])
def test_a_shift_of_the_image_leaves_one_of_its_hashes_as_it_was(shift):
    big = thumbnails(textures(1, seed=3))[0]
    moved = np.roll(big, [step * phash.STEP for step in shift], (0, 1))  # what comes in is outside the window
    expected = pack_hashes(spectra(big[None])[0, 0])
    distances = popcount(all_hashes(moved[None], SHIFTS, dihedral=False)[0] ^ expected).sum(1)
    assert distances.min() == 0 and distances[len(distances) // 2] > 0  # not without shifts


def test_bits_are_counted_alike_with_and_without_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    expected = [int(word).bit_count() for word in words]
    assert popcount(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert popcount(words).tolist() == expected


def test_the_search_finds_what_a_comparison_of_all_pairs_finds():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 2**64, (300, 3), dtype=np.uint64)
    queries = rng.integers(0, 2**64, (70, 5, 3), dtype=np.uint64)
    for query in range(0, 70, 2):  # near ones: some bits of a stored hash turned
        flips = rng.permutation(192)[: query // 2]
        words = stored[query].copy()
        for bit in flips:
            words[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        queries[query, query % 5] = words
    index, bits = nearest(queries, stored, 24, workers=2)
    apart = popcount(queries[:, :, None] ^ stored)
    total = np.where(apart[..., 0] <= 12, apart.sum(-1, dtype=int), 999).min(1)  # (queries, stored)
    assert (bits == np.minimum(total.min(1), 25)).all()
    assert (index == np.where(total.min(1) <= 24, total.argmin(1), -1)).all() and (index >= 0).sum() > 20


def test_nothing_is_near_where_there_is_nothing():
    words = np.zeros((2, 1, 3), np.uint64)
    assert [part.tolist() for part in nearest(words, words[:0, 0], 24)] == [[-1, -1], [25, 25]]
    assert [part.tolist() for part in nearest(words[:0], words[:, 0], 24)] == [[], []]


def test_contrast_is_that_of_half_of_the_image_so_one_bright_corner_is_featureless():
    checks = (np.indices((SIDE, SIDE)).sum(0) % 2 * 20).astype(np.uint8)  # standard deviation 10 everywhere
    corner = np.zeros_like(checks)
    corner[: SIDE // 3, : SIDE // 3] = 10 * checks[: SIDE // 3, : SIDE // 3]
    assert contrast(np.stack([checks, corner, np.full_like(checks, 99)])).tolist() == [10, 0, 0]
