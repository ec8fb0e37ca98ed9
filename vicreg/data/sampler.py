"""Which samples make up which step: counted from (seed, epoch), so that any step can be made again."""

import atexit
import signal
import weakref

import numpy as np
import torch


def epoch_order(count, seed, epoch):
    """Order of an epoch, and a random number for each of its places.

    Returns:
        (order, draws): a permutation of range(count), and int64 numbers in [0, 2^63) that settle everything random
        about fetching that sample (such as which other month is its positive).
    """
    random = np.random.default_rng([seed, epoch])
    return random.permutation(count), random.integers(0, 2**63 - 1, count)


class ResumableBatchSampler(torch.utils.data.Sampler):
    """Batch sampler over a whole run: yields one process's ``[(index, draw), …]`` for each step from ``start``.

    Steps are taken from an endless chain of epochs; what does not fill a whole batch at an epoch's end is dropped.

    Args:
        count: samples in the data set. batch_size: of all processes together.
        seed: of the run. steps: where the run ends. start: the first step to yield.
        rank, world_size: which share of each batch is ours.

    Raises:
        ValueError: the data set does not fill one batch.
    """

    def __init__(self, count, batch_size, seed, steps, start=0, rank=0, world_size=1):
        if count < batch_size:
            raise ValueError(f"{count} samples do not fill a batch of {batch_size}; lower --batch-size")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.steps = start, steps
        share = batch_size // world_size
        self.mine = slice(rank * share, (rank + 1) * share)
        self.steps_per_epoch = count // batch_size

    def __len__(self):
        return max(0, self.steps - self.start)

    def __iter__(self):
        current = None
        for step in range(self.start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != current:
                order, draws = epoch_order(self.count, self.seed, epoch)
                current = epoch
            batch = slice(place * self.batch_size, (place + 1) * self.batch_size)
            yield list(zip(order[batch][self.mine].tolist(), draws[batch][self.mine].tolist(), strict=True))


def _as_fetched(batch):
    return batch  # ``__getitems__`` has already joined it


def _outlive_signals(worker):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the training process saves first, and then ends its workers


class _Loader(torch.utils.data.DataLoader):
    """A DataLoader whose workers end when the process does, even if an error's traceback still holds the iterator.

    At exit Python only sends them SIGTERM, which they ignore, and would wait for them forever.
    """

    def __iter__(self):
        found = super().__iter__()
        if self.num_workers:  # last registered, first called: before torch's own farewell, which takes 5 s a worker
            atexit.register(_end_workers, weakref.ref(found))
        return found


def _end_workers(reference):
    iterator = reference()
    if iterator is not None:
        iterator._shutdown_workers()


def build_loader(dataset, batches, workers, device):
    """A DataLoader over a data set whose ``__getitems__(keys)`` returns joined tensors."""
    return _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_fetched,
        pin_memory=device.type == "cuda" and workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_outlive_signals,
    )
