"""Files of pixels: only arrays of the expected type are read."""

import os

import numpy as np
import pytest

from vicreg.data import imagery
from vicreg.data.pixel_arrays import map_pixels


def test_pixels_are_mapped_and_other_arrays_are_refused(tmp_path):
    """A signed or a float type would train on other values, and another byte order is none of PyTorch's."""
    path, pixels = tmp_path / "a.npy", np.arange(24, dtype=np.uint16).reshape(1, 2, 3, 4)
    np.save(path, pixels)
    found = map_pixels(path, "prepare again", dtypes=("uint8", "uint16"))
    assert type(found) is np.ndarray and not found.flags.writeable and (found == pixels).all()
    for wrong in (pixels, pixels.astype("i1"), pixels.astype("f4"), pixels[0].astype("u1"), np.uint8(3)):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=r"a.npy: damaged \(.* 4 dimensions of uint8\); prepare again"):
            map_pixels(path, "prepare again")
    np.save(path, pixels.astype(">u2"))
    with pytest.raises(ValueError, match=r"damaged \(>u2"):
        map_pixels(path, "prepare again", dtypes=("uint16",))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match=r"no file .*a.npy; prepare again"):
        map_pixels(tmp_path / "a.npy", "prepare again")


def test_shards_of_another_shape_are_refused(tmp_path):
    for number, side in enumerate((4, 4, 8)):
        np.save(tmp_path / f"{number}.npy", np.full((2, 3, side, side), number, np.uint8))
    shards = [{"file": f"{number}.npy", "rows": 2} for number in range(3)]
    assert imagery.PatchShards(tmp_path, shards[:2], "uint8")[np.array([3, 0])][:, 0, 0, 0].tolist() == [1, 0]
    for wrong in (shards, [shards[0], shards[1] | {"rows": 3}]):
        with pytest.raises(ValueError, match=r"\d.npy is \(2, 3, \d, \d\), not \(\d, 3, 4, 4\)"):
            imagery.PatchShards(tmp_path, wrong, "uint8")
