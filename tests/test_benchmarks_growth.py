"""The exponents of bench_growth.py, and what is printed of a failed point."""

import pytest

from benchmarks import bench_growth


def test_exponent_is_that_of_the_larger_half():
    sizes = [1, 2, 4, 8, 16, 32]
    slope, offset = bench_growth.fit_exponent(sizes, [1.0, 1.0, 1.0, 3 * 8.0**2, 3 * 16.0**2, 3 * 32.0**2])
    assert slope == pytest.approx(2) and offset == pytest.approx(1.0986, abs=1e-4)
    assert bench_growth.fit_exponent([2, 4], [1.0, 2.0])[0] == pytest.approx(1)
    assert bench_growth.fit_exponent([2, 4, 8], [7.0, 1.0, 2.0])[0] == pytest.approx(1)


def test_failed_point_names_its_values_and_the_error(tmp_path):
    args = bench_growth.get_parser().parse_args(["--arch", "resnet81", "--device", "cpu", "--steps", "1"])
    with pytest.raises(ValueError, match="--image-size 16 --batch-size 4 --mlp 8-8-8 .*failed: .*resnet81"):
        bench_growth.step_seconds(args, 4, 8, 16)


def test_points_vary_one_value_each_and_are_plotted(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(bench_growth, "step_seconds", lambda args, *point: seen.append(point) or point[0] * 0.5)
    words = ["--batch-sizes", "2", "4", "--dims", "8", "16", "--image-sizes", "32", "16", "--base", "3", "9", "20"]
    bench_growth.main(bench_growth.get_parser().parse_args([*words, "--out", str(tmp_path / "growth.svg")]))
    assert seen == [(2, 9, 20), (4, 9, 20), (3, 8, 20), (3, 16, 20), (3, 9, 16), (3, 9, 32)]
    assert "seconds ~ (batch size N)^1.00" in capsys.readouterr().out
    assert (tmp_path / "growth.svg").read_text().count("<svg") == 1
