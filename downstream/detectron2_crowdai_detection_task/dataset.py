"""Images and polygons as Detectron2's models take them, fetched by counted keys."""

import numpy as np
from detectron2.data import DatasetFromList, DatasetMapper

from vicreg.data import sampler
from vicreg.data.image_io import error_reason


class Mapped:
    """Records as model inputs: ``dataset.__getitems__([(index, draw), …])`` returns a list of dicts.

    ``draw`` settles size and flip, so that an input depends on nothing but its key. An image that cannot be used comes
    back as the error that says why: errors that cross from a loading process would lose their words.

    Args:
        records: list of dicts, of ``coco.read_split``. cfg: settings. training: with augmentation and annotations.
    """

    def __init__(self, records, cfg, training):
        self._records = DatasetFromList(records, copy=False)  # one block of bytes, which loading processes share
        self._map = DatasetMapper(cfg, is_train=training)

    def __len__(self):
        return len(self._records)

    def __getitems__(self, keys):
        return [self._one(index, draw) for index, draw in keys]

    def _one(self, index, draw):
        record = self._records[index]
        np.random.seed(draw % 2**32)  # Detectron2's augmentations draw from numpy's global numbers
        try:
            return self._map(record)
        except MemoryError:
            raise
        except Exception as error:  # every decoder has its own
            path = record["file_name"]
            return ValueError(f"{path} cannot be used: {error_reason(error, path)}")


class Checked:
    """Batches of a loader; the first unusable image is raised as an error, ValueError."""

    def __init__(self, batches):
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for batch in self._batches:
            for sample in batch:
                if isinstance(sample, Exception):
                    raise sample
            yield batch


def training_batches(records, cfg, seed, begin, rank, processes, device):
    """Batches from step ``begin`` to the end of the run: this process's share of each.

    Raises:
        ValueError: too few images for one batch.
    """
    usable = [record for record in records if any(not found["iscrowd"] for found in record["annotations"])]
    batch = cfg.SOLVER.IMS_PER_BATCH
    if len(usable) < batch:
        raise ValueError(f"{len(usable)} training images do not fill a batch; lower SOLVER.IMS_PER_BATCH {batch}")
    keys = sampler.ResumableBatchSampler(len(usable), batch, seed, cfg.SOLVER.MAX_ITER, begin, rank, processes)
    dataset = Mapped(usable, cfg, training=True)
    return Checked(sampler.build_loader(dataset, keys, cfg.DATALOADER.NUM_WORKERS, device))


def judging_batches(records, cfg, rank, processes, device):
    """One image at a time, each once: this process's share."""
    dataset = Mapped(records, cfg, training=False)
    keys = [[(index, 0)] for index in range(rank, len(records), processes)]
    return Checked(sampler.build_loader(dataset, keys, cfg.DATALOADER.NUM_WORKERS, device))
