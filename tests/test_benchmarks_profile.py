"""The prediction of bench_profile.py, and the fit and the memory of bench_run.py."""

import mmap
import os

import pytest

from benchmarks import bench_profile, bench_run, processes
from vicreg.models.backbones import create_backbone


def test_operations_are_those_of_the_linear_layers_and_convolutions():
    operations, weights = bench_profile.count_operations("test_resnet", 16, 4, 8)
    wider, more = bench_profile.count_operations("test_resnet", 16, 4, 16)
    width = create_backbone("test_resnet").num_features
    # of 4 pairs: 8 rows, forward and twice that backward, 2 operations for each multiplication
    assert wider - operations == 8 * 3 * 2 * ((width * 16 + 2 * 16 * 16) - (width * 8 + 2 * 8 * 8))
    assert bench_profile.count_operations("test_resnet", 16, 8, 8)[0] == 2 * operations
    assert more > weights > sum(weight.numel() for weight in create_backbone("test_resnet").parameters())


def test_first_setting_is_predicted_as_measured(monkeypatch, capsys):
    measured = {4: [0.1, 1.0, 0.2, 2.0, 0.3, 3.6], 8: [0.2, 4.0, 0.4, 8.0, 0.3, 12.9]}
    monkeypatch.setattr(bench_profile, "profile_step", lambda args, arch, side, batch, width: (measured[batch], 1.0))
    words = ["--settings", "test_resnet,16,4,8", "test_resnet,16,8,8", "--device", "cpu"]
    bench_profile.main(bench_profile.get_parser().parse_args(words))
    first, second = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert first[7:9] == ["3.600", "1.00"]
    assert second[7:9] == ["6.900", "1.87"]  # twice 3.2 s of the network and 0.1 s of augmentation, the same optimizer


@pytest.mark.parametrize("text", ["resnet18", "resnet18,64,256", "resnet18,64,256,-8", ",64,256,8", "resnet18,64,0,8"])
def test_wrong_setting_is_refused(text):
    with pytest.raises(ValueError, match="expected ARCH,SIDE,BATCH,WIDTH"):
        bench_profile.parse_setting(text)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_own_memory_grows_by_what_is_allocated():
    before = processes.own_memory(os.getpid())
    with mmap.mmap(-1, 100_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:  # not from freed memory
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
        assert 0.09 < processes.own_memory(os.getpid()) - before < 0.12
    assert processes.own_memory(2**22 + 1) == 0


def test_seconds_of_several_counts_are_fitted_by_a_line(monkeypatch, capsys):
    counts = iter([1000, 2000, 4000])

    def run_variant(args, variant, csv_dir, exp_dir):
        return {"seconds": 5 + next(counts) / 100, "memory": 0.5, "pairs_per_second": 100, "data_time": 0}

    monkeypatch.setattr(bench_run, "write_pack", lambda folder, count, side: folder.mkdir())
    monkeypatch.setattr(bench_run, "run_variant", run_variant)
    words = ["--patches", "4000", "1000", "2000", "--batch-size", "8", "--variants", "loader", "--device", "cpu"]
    bench_run.main(bench_run.get_parser().parse_args(words))
    output = capsys.readouterr().out
    assert "seconds = 5.0 + patches / 100\n" in output and "own memory  0.50 GB" in output
