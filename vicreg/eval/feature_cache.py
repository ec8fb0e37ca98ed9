"""Features of frozen backbones, extracted once and cached on disk under the digests of weights, data and input."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vicreg.common import checkpoint_io, files
from vicreg.common.files import write_json
from vicreg.common.json_files import read_json
from vicreg.common.logger import log
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.eval.features import build_input_spec, check_features, extract_features, format_input_spec
from vicreg.models.backbones import (
    BASELINES,
    PARAMETER_FREE,
    BackboneInfo,
    check_channels,
    load_backbone,
    records_normalization,
    set_normalization,
)
from vicreg.models.input_size import check_input_size
from vicreg.models.timm_weights import check_arch
from vicreg.models.weight_files import read_record, weights_digest

DTYPES = ("float32", "float16")
# runs use these file names, so that their folder's name says more
_RUN_FILES = {Path(name).stem for name in (checkpoint_io.MODEL_FILE, checkpoint_io.BACKBONE_FILE)}


class BackboneSpec(NamedTuple):
    """A backbone to evaluate.

    Attributes:
        name: Name in tables and of folders.
        pretrained: Path or baseline, as for ``load_backbone``.
        arch: timm name; None for baselines without parameters.
        digest: sha256 of the file, or of what makes the baseline.
        record: What the file records, see ``weight_files.read_record``.
    """

    name: str
    pretrained: str
    arch: str | None
    digest: str
    record: dict[str, Any]


def resolve_backbones(
    pretrained: Sequence[str | Path],
    arch: str | None = None,
    in_chans: int | None = None,
    seed: int = 0,
    bands: Sequence[int] | None = None,
) -> list[BackboneSpec]:
    """Check several checkpoints and baselines before the work starts.

    Args:
        pretrained: Paths and names of ``BASELINES``.
        arch: Architecture of files that do not record it and of ``random`` and ``imagenet``; if it is None, these
            take that of the first file.
        in_chans: Number of input channels; see ``load_backbone``.
        seed: Seed of ``random``.
        bands: Input channels of files to select.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file holds no weights, a name is given twice, or an architecture is not known.
    """
    if arch is not None:
        check_arch(arch)
    paths = [str(name) for name in pretrained]
    if duplicates := {name for name in paths if paths.count(name) > 1}:
        raise ValueError(f"--pretrained names {', '.join(sorted(duplicates))} twice")
    records = {name: {} if name in BASELINES else read_record(name) for name in paths}
    default = arch or next((record["arch"] for record in records.values() if "arch" in record), None)
    specs = []
    for name, short_name in zip(paths, _short_names(paths), strict=True):
        resolved = default if name in BASELINES else records[name].get("arch", arch)
        if name in PARAMETER_FREE:
            resolved = None
        elif resolved is None:
            raise ValueError(f"nothing names the architecture of {name}; say it with --arch, such as --arch resnet18")
        if name in BASELINES:
            key = f"{name} {resolved} {in_chans or 3} {seed}"
        else:
            adapted = f" {in_chans} {bands}" if in_chans or bands else ""
            key = f"{weights_digest(name)} {resolved}{adapted}"
        specs.append(BackboneSpec(short_name, name, resolved, hashlib.sha256(key.encode()).hexdigest(), records[name]))
    return specs


def _short_names(paths: list[str]) -> list[str]:
    """Name each backbone by its baseline, its run folder or its file, with more of the path if that is ambiguous."""
    parts = [Path(path).resolve().with_suffix("").parts if path not in BASELINES else (path,) for path in paths]
    parts = [part[1:] if len(part) > 1 else part for part in parts]
    short = [part[-2:-1] if part[-1] in _RUN_FILES and len(part) > 1 else part[-1:] for part in parts]
    for length in range(2, max(map(len, parts)) + 1):
        ambiguous = {name for name in short if short.count(name) > 1}
        short = [part[-length:] if name in ambiguous else name for name, part in zip(short, parts, strict=True)]
    names = ["-".join(part) for part in short]
    return [f"{name}-{n + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def dataset_digest(dataset: LabeledDataset) -> str:
    """Compute the sha256 of a data set's labels, locations and images (of image files: names, sizes and dates)."""
    digest = hashlib.sha256(json.dumps(len(dataset)).encode())
    for numbers in (dataset.labels, dataset.location_ids):
        digest.update(np.asarray(numbers, np.int64).tobytes())
    for begin in range(0, len(dataset), 1024):
        digest.update(dataset.content_bytes(range(begin, min(begin + 1024, len(dataset)))))
    return digest.hexdigest()


class FeatureCache:
    """Features on disk: ``<folder>/<backbone>_<digest>_<size>px_<dtype>.npy``, and what they are in a ``.json``.

    Args:
        folder: Folder of the files; created if it is missing.
        train: Training set; its mean and standard deviation normalize the images of every data set if the backbone
            does not record its own.
        device: Device to extract on.
        image_size: Side of the input in pixels (default: 7/8 of the training images').
        batch_size: Number of images at a time.
        dtype: Floating-point type of the files.
        in_chans: Number of input channels; see ``load_backbone``.
        seed: Seed of ``random``.
        mean: Mean of each channel, for weights that do not record it.
        std: Standard deviation of each channel, likewise.
        bands: Input channels to select of files with other channels than the images.

    Attributes:
        image_size: Side of the input in pixels.
    """

    def __init__(
        self, folder: Path, train: LabeledDataset, device: torch.device, image_size: int | None = None,
        batch_size: int = 256, dtype: str = "float32", in_chans: int | None = None, seed: int = 0,
        mean: list[float] | None = None, std: list[float] | None = None, bands: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.batch_size, self.dtype = Path(folder), device, batch_size, dtype
        self._train, self._in_chans, self._seed, self._mean, self._std = train, in_chans, seed, mean, std
        self._bands = bands
        no_info: Any = {"mean": mean, "std": std}
        self._default_spec = build_input_spec(no_info, train, image_size)
        self.image_size = self._default_spec.size
        self._backbone: tuple[str, nn.Module, BackboneInfo] | None = None
        self._digests: dict[int, tuple[LabeledDataset, str]] = {}  # by id, which the data set here keeps valid

    def get(self, backbone: BackboneSpec, dataset: LabeledDataset) -> torch.Tensor:
        """Read or extract the features of a data set: float32 tensor (n, F) on the device.

        Raises:
            ValueError: Features are not finite.
            OSError: The folder cannot be written.
        """
        if id(dataset) not in self._digests:
            self._digests[id(dataset)] = dataset, dataset_digest(dataset)
        data_digest, spec = self._digests[id(dataset)][1], self._default_spec
        key = json.dumps([backbone.digest, data_digest, list(spec.mean), list(spec.std)])
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = self.folder / f"{backbone.name}_{digest[:32]}_{spec.size}px_{self.dtype}.npy"
        features = _read(path, len(dataset), self.dtype)
        if features is not None:
            log(f"  {features.shape[0]} x {features.shape[1]} cached features read from {path}")
            return torch.from_numpy(features).to(self.device).float()
        extracted = self._extract(backbone, dataset).to("cpu", getattr(torch, self.dtype))
        check_features(extracted, backbone.pretrained)
        features = extracted.numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {"pretrained": backbone.pretrained, "arch": backbone.arch, "digest": backbone.digest}
        record |= {"data_digest": data_digest, "image_size": spec.size, "default_mean": list(spec.mean)}
        record |= {"default_std": list(spec.std), "dtype": self.dtype, "shape": list(features.shape)}
        record["sha256"] = _digest(features)
        write_json(path.with_suffix(".json"), record)
        files.atomic_write(path, lambda tmp_path: np.save(tmp_path, features))
        log(f"  {features.shape[0]} x {features.shape[1]} features extracted and cached as {self.dtype}: {path}")
        return torch.from_numpy(features).to(self.device).float()

    def _extract(self, spec: BackboneSpec, dataset: LabeledDataset) -> torch.Tensor:
        if self._backbone is None or self._backbone[0] != spec.digest:
            is_file = spec.pretrained not in BASELINES
            backbone, info = load_backbone(spec.pretrained, spec.arch, None if is_file else self._in_chans, self._seed)
            if is_file and info["in_chans"] != dataset.num_channels and (self._in_chans or self._bands):
                backbone, info = load_backbone(spec.pretrained, spec.arch, self._in_chans, bands=self._bands)
            elif is_file and self._bands:
                log(f"  note: --weight-bands is not used for {spec.name}, which takes as many channels as the images")
            if (self._mean or self._std) and not records_normalization(info):
                set_normalization(info, self._mean, self._std)
            # convolutions on a CPU and bf16 ones on a GPU are faster with the channels last
            backbone = backbone.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._backbone = (spec.digest, backbone, info)
            check_input_size(backbone, info["in_chans"], self.image_size, spec.name)
            log(f"  {info['report']}\n  {format_input_spec(self._input_spec(info), info)}")
        _, backbone, info = self._backbone
        check_channels(info["in_chans"], dataset, spec.name)
        return extract_features(backbone, dataset, self._input_spec(info), self.device, batch_size=self.batch_size)

    def _input_spec(self, info: BackboneInfo) -> InputSpec:
        return build_input_spec(info, self._train, self.image_size)


def _read(path: Path, rows: int, dtype: str) -> np.ndarray | None:
    """Read cached features; None if there are none or the file holds something else."""
    if not path.is_file():
        return None
    try:
        features = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises SyntaxError and tokenize.TokenError too on damaged headers
        log(f"  {path} cannot be read ({error}); extracting again")
        return None
    if features.ndim != 2 or len(features) != rows or features.dtype != dtype:
        return None
    try:
        recorded = read_json(path.with_suffix(".json")).get("sha256")
    except (ValueError, OSError, AttributeError):
        recorded = "unreadable"
    if recorded not in (None, _digest(features)):  # older records have none
        log(f"  {path} is damaged: its content or its .json has changed; extracting again")
        return None
    return features


def _digest(features: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
