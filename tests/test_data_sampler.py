"""Batches of a run: order, sample seeds, resumption and the share of each process."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vicreg.common import cli
from vicreg.data import sampler
from vicreg.data.sampler import ResumableBatchSampler, epoch_order


def test_epoch_order_is_a_permutation_with_63_bit_seeds():
    order, draws = epoch_order(50, seed=1, epoch=2)
    assert sorted(order) == list(range(50)) and len(set(draws)) == 50
    assert draws.dtype == np.int64 and draws.min() >= 0 and draws.max() > 2**60


def test_epoch_order_depends_on_seed_and_epoch_alone():
    first = epoch_order(50, 1, 2)
    np.random.seed(0)
    for mine, again in zip(first, epoch_order(50, 1, 2), strict=True):
        np.testing.assert_array_equal(mine, again)
    for other in ((2, 2), (1, 3), (2, 1)):
        for mine, theirs in zip(first, epoch_order(50, *other), strict=True):
            assert (mine != theirs).any()


def test_batch_sampler_yields_each_sample_once_per_epoch():
    batches = list(ResumableBatchSampler(12, 4, seed=0, steps=9))
    assert [len(batch) for batch in batches] == [4] * 9
    epochs = [[index for batch in batches[n : n + 3] for index, _ in batch] for n in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    order, draws = epoch_order(12, 0, 1)
    assert batches[3] == list(zip(order[:4].tolist(), draws[:4].tolist(), strict=True))


def test_batch_sampler_drops_the_incomplete_batch():
    batches = list(ResumableBatchSampler(11, 4, seed=0, steps=4))
    for epoch in (batches[:2], batches[2:]):
        assert len({index for batch in epoch for index, _ in batch}) == 8
    assert ResumableBatchSampler(11, 4, seed=0, steps=4).steps_per_epoch == 2


@pytest.mark.parametrize("start", range(10))
def test_batch_sampler_resumes_at_any_step(start):
    whole = list(ResumableBatchSampler(11, 4, seed=3, steps=9))
    rest = ResumableBatchSampler(11, 4, seed=3, steps=9, start=start)
    assert list(rest) == whole[start:] and len(rest) == 9 - start


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_batch_sampler_ranks_together_yield_the_batch_of_one_process(processes):
    whole = list(ResumableBatchSampler(20, 6, seed=3, steps=7))
    shares = [ResumableBatchSampler(20, 6, 3, 7, rank=rank, world_size=processes) for rank in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {6 // processes}
        assert sum(parts, []) == batch


def test_batch_sampler_refuses_a_data_set_smaller_than_a_batch():
    with pytest.raises(ValueError, match="7 samples do not fill a batch of 8; lower --batch-size"):
        ResumableBatchSampler(7, 8, seed=0, steps=1)
    assert len(list(ResumableBatchSampler(8, 8, seed=0, steps=3))) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_passes_whole_batches_of_keys_to_the_data_set(workers):
    class Keys(torch.utils.data.Dataset):
        def __getitems__(self, keys):
            return torch.tensor(keys)

    batches = ResumableBatchSampler(5, 2, seed=0, steps=4)
    found = list(sampler.build_loader(Keys(), batches, workers, torch.device("cpu")))
    assert [batch.tolist() for batch in found] == [[list(key) for key in batch] for batch in batches]


def test_loader_workers_end_when_the_process_fails(repo_root):
    code = """
import torch
from vicreg.data import sampler

class Keys(torch.utils.data.Dataset):
    def __getitems__(self, keys):
        return torch.tensor(keys)

def train():
    batch_sampler = sampler.ResumableBatchSampler(5, 2, seed=0, steps=40)
    batches = iter(sampler.build_loader(Keys(), batch_sampler, 2, torch.device("cpu")))
    next(batches)
    raise RuntimeError("out of memory, say")  # its traceback holds the batches until the very end

train()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1 and ran.stderr.splitlines()[-1] == "RuntimeError: out of memory, say"


@pytest.mark.parametrize(
    ("workers", "free", "expected"),
    [
        (2, 100, (2, 4)),
        (2, 99, (2, 3)),
        (2, 40, (2, 1)),
        (2, 39, (1, 1)),
        (2, 29, (0, 0)),
        (0, 100, (0, 0)),
        (3, 0, (0, 0)),
    ],
)
def test_loader_workers_fit_into_shared_memory(workers, free, expected):
    """Batches of 10 bytes: those prefetched, one made ready and one in use."""
    assert sampler.fit_shared_memory(workers, 10, free) == expected


class Partners:
    """Pairs of two images of 1000 bytes, but for the first sample, which is its own partner."""

    def __getitems__(self, keys):
        first = torch.zeros(len(keys), 1000, dtype=torch.uint8)
        return (first, first) if keys == [0] else (first, first.clone())


class Views:
    """Pairs of two views of 1000 bytes in one storage."""

    def __getitems__(self, keys):
        return tuple(torch.zeros(2, len(keys), 1000, dtype=torch.uint8))


@pytest.mark.parametrize("dataset", [Partners(), Views()])
def test_shared_memory_is_measured_with_both_images_of_a_pair(monkeypatch, tmp_path, dataset):
    measured = []
    monkeypatch.setattr(sampler, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(sampler, "fit_shared_memory", lambda *args: measured.append(args[1]) or (2, 2))
    sampler._fit_workers(dataset, [[0, 1, 2, 3]], 2)
    assert measured == [8000]


class Patches(torch.utils.data.Dataset):
    """Batches of 1 kB per sample; ``action`` runs in the loader process."""

    action = staticmethod(lambda: None)

    def __getitems__(self, keys):
        if torch.utils.data.get_worker_info() is not None:
            self.action()
        return torch.zeros(len(keys), 1000, dtype=torch.uint8)


def test_loader_uses_fewer_workers_where_shared_memory_is_small_and_says_so(monkeypatch, capsys):
    batches = ResumableBatchSampler(5, 2, seed=0, steps=4)
    build = functools.partial(sampler.build_loader, Patches(), batches, 2, torch.device("cpu"))
    monkeypatch.setattr(sampler, "world_size", lambda: 2)  # they share the memory
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for free, workers in ((2 * 2000 * 10, 2), (2 * 2000 * 3, 1), (2 * 2000 * 2, 0)):
        usage = shutil._ntuple_diskusage(free, 0, free)
        monkeypatch.setattr(sampler.shutil, "disk_usage", lambda path, usage=usage: usage)
        loader = build()
        assert loader.num_workers == workers and sum(len(batch) for batch in loader) == 8
        assert (f"note: {workers} loading processes, not 2" in capsys.readouterr().out) == (workers < 2)


def test_loader_leaves_a_temporary_folder_whose_path_is_too_long_for_sockets(monkeypatch, tmp_path, capsys):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    batches = ResumableBatchSampler(5, 2, seed=0, steps=4)
    assert sum(len(batch) for batch in sampler.build_loader(Patches(), batches, 1, torch.device("cpu"))) == 8
    assert tempfile.tempdir == "/tmp" and "TMPDIR is too long" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: time.sleep(60), "DataLoader timed out after 1"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "DataLoader worker"),
        (lambda: [][1], None),
        (lambda: Path("/missing.jpg").read_bytes(), "[Errno 2] No such file or directory: '/missing.jpg'"),
    ],
)
def test_loader_process_that_hangs_dies_or_fails_is_reported_in_one_line(monkeypatch, action, message):
    monkeypatch.setattr(sampler, "_LOADER_SECONDS", 1.0 if message and "timed out" in message else 60.0)
    monkeypatch.setattr(sampler, "timeout_seconds", lambda: 0.5)
    monkeypatch.setattr(Patches, "action", staticmethod(action))
    batches = ResumableBatchSampler(5, 2, seed=0, steps=4)
    iterator = iter(sampler.build_loader(Patches(), batches, 1, torch.device("cpu")))
    with pytest.raises((RuntimeError, IndexError, OSError)) as error:
        list(iterator)
    sampler._end_workers(lambda: iterator, iterator._workers)  # else they live until the end of all tests
    for worker in iterator._workers:
        worker.join(10)
        assert not worker.is_alive()
    if message is None:  # a bug keeps its traceback
        assert isinstance(error.value, IndexError) and cli.loader_error(error.value) is None
    else:
        line = cli.explain(error.value, None)
        assert line.startswith(message) and "\n" not in line
