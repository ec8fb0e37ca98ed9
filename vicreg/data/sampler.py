"""Order of the samples of a run: a function of (seed, epoch), so that any step can be made again."""

import atexit
import os
import shutil
import signal
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicreg.common.logger import log
from vicreg.common.random_streams import rng
from vicreg.data.base import SampleKey
from vicreg.distributed.process_group import timeout_seconds, world_size

_PREFETCH = 4  # batches per loader process
_LOADER_SECONDS = 600.0  # that a loader process may take for a batch, or the time-out of collectives if it is longer
_SHARED_MEMORY = Path("/dev/shm")
_MAX_TMPDIR = 75  # bytes; multiprocessing adds 32, and the address of a socket has at most 107


def epoch_order(n: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of ``n`` samples in an epoch, from 0, and the sample seeds.

    Returns:
        A permutation of range(n), and int64 numbers (n,) in [0, 2^63 - 1): the seed of each position, which decides
        everything random about loading that sample, such as the other image of its pair.
    """
    generator = rng(seed, "order", epoch)
    return generator.permutation(n), generator.integers(0, 2**63 - 1, n)


class ResumableBatchSampler(torch.utils.data.Sampler[list[SampleKey]]):
    """Batch sampler over a whole run: yields the keys of one process for each step from ``start``.

    Steps run through consecutive epochs. Samples that do not fill a batch at the end of an epoch are dropped.

    Args:
        n: Number of samples of the data set.
        batch_size: Samples per step of all processes together.
        seed: Seed of the run.
        steps: Number of steps of the run.
        start: First step to yield.
        rank: Rank of this process.
        world_size: Number of processes; each gets an equal part of a batch.

    Attributes:
        steps_per_epoch: Number of whole batches in an epoch.

    Raises:
        ValueError: The data set does not fill one batch.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, steps: int, start: int = 0, rank: int = 0, world_size: int = 1
    ):
        if n < batch_size:
            raise ValueError(f"{n} samples do not fill a batch of {batch_size}; lower --batch-size")
        self._n, self._batch_size, self._seed, self._start, self._steps = n, batch_size, seed, start, steps
        local_batch_size = batch_size // world_size
        self._local = slice(rank * local_batch_size, (rank + 1) * local_batch_size)
        self.steps_per_epoch = n // batch_size

    def __len__(self) -> int:
        return max(0, self._steps - self._start)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        current, order, seeds = -1, np.empty(0), np.empty(0)
        for step in range(self._start, self._steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, (order, seeds) = epoch, epoch_order(self._n, self._seed, epoch)
            rows = slice(batch * self._batch_size, (batch + 1) * self._batch_size)
            yield list(zip(order[rows][self._local].tolist(), seeds[rows][self._local].tolist(), strict=True))


def _identity(batch: Any) -> Any:
    return batch  # ``__getitems__`` returns whole batches


def _ignore_signals(worker: int) -> None:
    """Leave it to the training process to save a checkpoint, and then end its workers."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class _Loader(torch.utils.data.DataLoader):
    """A DataLoader whose workers end with the process, even if the traceback of an error still holds the iterator.

    At exit Python sends them SIGTERM only, which they ignore, and would wait for them forever.
    """

    def __iter__(self) -> Any:
        iterator: Any = super().__iter__()
        if self.num_workers:  # registered last, called first: before PyTorch's own shutdown, which takes 5 s a worker
            atexit.register(_end_workers, weakref.ref(iterator), iterator._workers)
        return iterator


def _end_workers(reference: weakref.ref, workers: list[Any]) -> None:
    """End workers in PyTorch's way, and kill those that do not answer: Python would wait for them forever."""
    iterator = reference()
    if iterator is not None:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def fit_shared_memory(workers: int, batch_bytes: int, free: int) -> tuple[int, int]:
    """Return how many of ``workers``, and batches that each prefetches, fit into ``free`` bytes of shared memory.

    At most ``workers * prefetch`` batches wait, one more is made ready, and one is in use. (0, 0) if not even one
    process fits.
    """
    for count in range(workers, 0, -1):
        for prefetch in range(_PREFETCH, 0, -1):
            if (count * prefetch + 2) * batch_bytes <= free:
                return count, prefetch
    return 0, 0


def _fit_workers(dataset: Any, batch_sampler: Any, workers: int) -> tuple[int, int]:
    """Apply ``fit_shared_memory`` to this machine, measured with some samples; log a reduction."""
    keys: Any = next(iter(batch_sampler), [])
    if not keys or not _SHARED_MEMORY.is_dir():
        return workers, _PREFETCH
    some = keys[:16]  # one alone may have no partner, and return one image for both
    sample = dataset.__getitems__(some)
    tensors = sample if isinstance(sample, (tuple, list)) else [sample]
    storages = (part.untyped_storage() for part in tensors if isinstance(part, torch.Tensor))
    batch_bytes = len(keys) * sum({one.data_ptr(): one.nbytes() for one in storages}.values()) // len(some)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    free = shutil.disk_usage(_SHARED_MEMORY).free // processes
    count, prefetch = fit_shared_memory(workers, batch_bytes, free)
    if count < workers:
        log(
            f"note: {count} loading processes, not {workers}: batches of {batch_bytes / 1e6:.0f} MB do not fit into "
            f"the {free / 1e6:.0f} MB of {_SHARED_MEMORY} for each process (docker run --shm-size=8g gives more)"
        )
    return count, prefetch


def _shorten_temporary_folder() -> None:
    """Use /tmp where the path of TMPDIR is too long for the sockets through which loader processes pass batches."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _MAX_TMPDIR and os.access("/tmp", os.W_OK):
        tempfile.tempdir = "/tmp"
        log(f"note: the path of TMPDIR is too long for sockets ({len(folder)} characters); loading processes use /tmp")


def build_loader(
    dataset: Any, batch_sampler: torch.utils.data.Sampler[list[SampleKey]], workers: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """Return a DataLoader over a data set that loads whole batches.

    Args:
        dataset: ``PairDataset``, or any object whose ``__getitems__(keys)`` returns a batch of tensors.
        batch_sampler: Keys of each step.
        workers: Number of loader processes; 0 loads in this process. There are fewer, with a line in the log, if the
            batches do not fit into shared memory.
        device: Device that trains; memory is pinned for GPUs.

    Raises:
        RuntimeError: While iterating: a loader process died, or did not deliver a batch in ten minutes.
    """
    prefetch = _PREFETCH
    if workers:
        _shorten_temporary_folder()
        workers, prefetch = _fit_workers(dataset, batch_sampler, workers)
    return _Loader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=device.type == "cuda" and workers > 0,
        prefetch_factor=prefetch if workers else None,
        timeout=max(_LOADER_SECONDS, timeout_seconds()) if workers else 0,
        worker_init_fn=_ignore_signals,
    )
