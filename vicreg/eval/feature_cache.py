"""Frozen features, extracted once and kept under the digests of what they came from."""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vicreg.common import checkpoint_io, files
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.eval import features
from vicreg.models.backbones import BASELINES, PARAMETER_FREE, arch_of, check_channels, load_backbone

DTYPES = ("float32", "float16")
_USUAL = {Path(name).stem for name in (checkpoint_io.MODEL_FILE, checkpoint_io.BACKBONE_FILE)}  # their folder says more


class BackboneSpec(NamedTuple):
    """A backbone to look at: its name in tables, what ``load_backbone`` takes, and a digest of both."""

    name: str
    pretrained: str
    arch: str
    digest: str


def resolve_backbones(pretrained, arch=None, in_chans=3, seed=0):
    """Make sure of several checkpoints and baselines before work begins.

    Args:
        pretrained: list of paths and of ``BASELINES``. arch: of files that do not name theirs, and of ``random`` and
            ``imagenet``; those take the first file's where it is None. in_chans, seed: of the baselines.

    Returns:
        list of ``BackboneSpec``. Files are told apart by the sha256 of their bytes, baselines by name, arch and seed.

    Raises:
        FileNotFoundError, ValueError: a file that is none, twice the same, an architecture that nothing names.
    """
    pretrained = [str(name) for name in pretrained]
    if twice := {name for name in pretrained if pretrained.count(name) > 1}:
        raise ValueError(f"--pretrained names {', '.join(sorted(twice))} twice")
    named = {name: arch_of(name) or arch for name in pretrained if name not in BASELINES}
    usual = arch or next(filter(None, named.values()), None)
    found = []
    for name, short in zip(pretrained, _short_names(pretrained), strict=True):
        own = named.get(name, None if name in PARAMETER_FREE else usual)
        if own is None and name not in PARAMETER_FREE:
            raise ValueError(f"nothing names the architecture of {name}; say it with --arch, such as --arch resnet18")
        text = f"{name} {own} {in_chans} {seed}" if name in BASELINES else f"{_file_digest(name)} {own}"
        found.append(BackboneSpec(short, name, own, hashlib.sha256(text.encode()).hexdigest()))
    return found


def _short_names(pretrained):
    """A name for each: the baseline's, the run's folder, or the file's; more of the path where that is not enough."""
    parts = [Path(name).resolve().with_suffix("").parts if name not in BASELINES else (name,) for name in pretrained]
    parts = [part[1:] if len(part) > 1 else part for part in parts]
    shown = [part[-2:-1] if part[-1] in _USUAL and len(part) > 1 else part[-1:] for part in parts]
    for length in range(2, max(map(len, parts)) + 1):
        many = {name for name in shown if shown.count(name) > 1}
        shown = [part[-length:] if name in many else name for name, part in zip(shown, parts, strict=True)]
    names = ["-".join(part) for part in shown]
    return [f"{name}-{n + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def _file_digest(path):
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _chunked(file)


def _chunked(file):  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def dataset_digest(dataset, batch_size=1024):
    """sha256 of a data set's labels, places, normalization and pixels; of image files the names, sizes and dates."""
    digest = hashlib.sha256(json.dumps([len(dataset), list(dataset.mean), list(dataset.std)]).encode())
    for numbers in (dataset.labels, dataset.location_ids):
        digest.update(np.ascontiguousarray(np.asarray(numbers, np.int64)).tobytes())
    for begin in range(0, len(dataset), batch_size):
        digest.update(dataset.content_bytes(range(begin, min(begin + batch_size, len(dataset)))))
    return digest.hexdigest()


class FeatureCache:
    """Features on disk, ``<folder>/<name>_<checkpoint>_<data>_<size>px_<dtype>.npy`` and what they are in a ``.json``.

    Args:
        folder: made where missing. size: side of the view in pixels. device: that extracts.
        batch_size: images at a time. dtype: of the file; figures are made from what the file holds.
        in_chans, seed: of the baselines.
    """

    def __init__(self, folder, size, device, batch_size=256, dtype="float32", in_chans=3, seed=0):
        self.folder, self.size, self.device, self.batch_size = Path(folder), size, device, batch_size
        self.dtype, self.in_chans, self.seed, self._backbone = dtype, in_chans, seed, (None, None)

    def get(self, source, dataset, data_digest):
        """Features of a data set: read, or extracted and kept; says which.

        Returns:
            float32 tensor (n, F) on the device.

        Raises:
            ValueError: the features are not finite. OSError: the folder cannot be written.
        """
        name = f"{source.name}_{source.digest[:16]}_{data_digest[:16]}_{self.size}px_{self.dtype}"
        path = self.folder / f"{name}.npy"
        found = _read(path, len(dataset), self.dtype)
        if found is None:
            found = self._extract(source, dataset).cpu().numpy().astype(self.dtype)
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{source.pretrained}: {(~np.isfinite(found)).any(1).sum()} of {len(found)} features are not "
                    f"finite as {self.dtype}; a run that diverged?"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = {"pretrained": source.pretrained, "arch": source.arch, "digest": source.digest}
            facts |= {"data_digest": data_digest, "image_size": self.size, "dtype": self.dtype, "shape": found.shape}
            write_json(path.with_suffix(".json"), facts)
            _write(path, found)
            log(f"  {found.shape[0]} x {found.shape[1]} features extracted and kept as {self.dtype}: {path}")
        else:
            log(f"  {found.shape[0]} x {found.shape[1]} features of an earlier start: {path}")
        return torch.from_numpy(found).to(self.device).float()

    def _extract(self, source, dataset):
        if self._backbone[0] != source.digest:
            backbone, info = load_backbone(source.pretrained, source.arch, self.in_chans, self.seed)
            check_channels(info["in_chans"], dataset, source.name)
            log(f"  {info['report']}")
            # convolutions on a CPU and bf16 ones on a GPU are faster with the channels innermost
            backbone = backbone.to(self.device, memory_format=torch.channels_last)
            self._backbone = (source.digest, (backbone, info))
        backbone, info = self._backbone[1]
        mean, std = info["mean"] or dataset.mean, info["std"] or dataset.std
        return features.extract_features(
            backbone, dataset, self.size, mean, std, self.device, batch_size=self.batch_size
        )


def _read(path, rows, dtype):
    """Kept features; None where there are none, or where something else lies there."""
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        log(f"  {path} cannot be read ({error}); extracting again")
        return None
    return found if found.ndim == 2 and len(found) == rows and found.dtype == dtype else None


def _write(path, array):
    """Write beside ``path``, then rename."""

    def save(beside):
        with beside.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())

    files.atomic_write(path, save)
