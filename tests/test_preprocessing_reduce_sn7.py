"""Reduced mosaics: means of blocks, where they were, prepared like full ones; what cannot be reduced is refused."""

import numpy as np
import pytest
import rasterio

from preprocessing import make_sn7_csv, make_sn7_sample, reduce_sn7

SCRIPT = "preprocessing/reduce_sn7.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A drawn tree of 2 AOIs x 2 months, 64 pixels."""
    out = tmp_path_factory.mktemp("sample")
    words = ["--out", str(out), "--aois", "2", "--months", "2", "--size", "64"]
    make_sn7_sample.main(make_sn7_sample.get_parser().parse_args(words))
    return out / "train"


def reduce(tree, out, *more):
    words = ["--data-dir", tree, "--out-dir", out, "--size", 16, "--workers", 2, *more]
    reduce_sn7.main(reduce_sn7.get_parser().parse_args(list(map(str, words))))
    return sorted(out.rglob("*.tif"))


def test_pixels_are_means_of_blocks_and_lie_where_they_lay(tree, tmp_path):
    paths = reduce(tree, tmp_path / "small")
    assert [path.relative_to(tmp_path / "small") for path in paths] == sorted(
        path.relative_to(tree) for path in tree.rglob("*.tif")
    )
    for path in paths:
        with rasterio.open(path) as small, rasterio.open(tree / path.relative_to(tmp_path / "small")) as full:
            assert small.shape == (16, 16) and small.count == 3 and small.crs == full.crs
            assert small.bounds == pytest.approx(full.bounds)
            if full.shape == (64, 64):
                means = full.read([1, 2, 3]).reshape(3, 16, 4, 16, 4).mean((2, 4))
                assert np.abs(small.read() - means).max() <= 0.5


def test_a_reduced_tree_is_prepared_as_a_full_one(tree, tmp_path, capsys):
    reduce(tree, tmp_path / "small")
    words = ["--data-dir", str(tmp_path / "small"), "--out-dir", str(tmp_path / "lists")]
    make_sn7_csv.main(make_sn7_csv.get_parser().parse_args(words))
    assert "4 mosaics" in capsys.readouterr().out
    assert np.load(tmp_path / "lists/patches.npy", mmap_mode="r").shape == (64, 3, 4, 4)


def test_started_again_it_leaves_what_is_there(tree, tmp_path, capsys):
    paths = reduce(tree, tmp_path / "small")
    paths[0].unlink()
    before = paths[1].stat().st_mtime_ns
    assert reduce(tree, tmp_path / "small") == paths and paths[1].stat().st_mtime_ns == before
    assert "4 mosaics of 64 pixels reduced to 16" in (said := capsys.readouterr().out) and "(3 were there" in said


def test_what_cannot_be_reduced_is_refused_in_one_line(tree, tmp_path, run_script):
    with pytest.raises(ValueError, match="--size 48 does not divide the 64 pixels"):
        reduce(tree, tmp_path / "small", "--size", 48)
    with pytest.raises(ValueError, match="need a folder of their own"):
        reduce(tree, tree)
    ran = run_script(SCRIPT, "--data-dir", tmp_path / "none", "--out-dir", tmp_path / "small")
    assert ran.returncode == 1 and ran.stderr.startswith("reduce_sn7: no folder") and ran.stderr.count("\n") == 1
