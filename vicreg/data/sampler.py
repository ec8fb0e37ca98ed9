"""Order of the samples of a run: a function of (seed, epoch), so that any step can be made again."""

import atexit
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vicreg.common.random_streams import rng
from vicreg.data.base import SampleKey


def epoch_order(n: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of an epoch and the sample seeds.

    Args:
        n: Number of samples.
        seed: Seed of the run.
        epoch: Epoch, from 0.

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


def _ignore_sigterm(worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the training process saves a checkpoint, then ends its workers


class _Loader(torch.utils.data.DataLoader):
    """A DataLoader whose workers end with the process, even if the traceback of an error still holds the iterator.

    At exit Python sends them SIGTERM only, which they ignore, and would wait for them forever.
    """

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        if self.num_workers:  # registered last, called first: before PyTorch's own shutdown, which takes 5 s a worker
            atexit.register(_end_workers, weakref.ref(iterator))
        return iterator


def _end_workers(reference: weakref.ref) -> None:
    iterator = reference()
    if iterator is not None:
        iterator._shutdown_workers()


def build_loader(
    dataset: Any, batch_sampler: torch.utils.data.Sampler[list[SampleKey]], workers: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """Return a DataLoader over a data set that loads whole batches.

    Args:
        dataset: ``PairDataset``, or any object whose ``__getitems__(keys)`` returns a batch of tensors.
        batch_sampler: Keys of each step.
        workers: Number of loader processes; 0 loads in this process.
        device: Device that trains; memory is pinned for GPUs.
    """
    return _Loader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=device.type == "cuda" and workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_sigterm,
    )
