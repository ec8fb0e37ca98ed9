"""What ``embed.py`` does with a backbone: write a table of embeddings, or a feature map."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicreg.common import cli
from vicreg.common.logger import log
from vicreg.data.base import InputSpec, LabeledDataset
from vicreg.data.image_dataset import decode_size
from vicreg.data.images import check_levels, open_reader
from vicreg.data.raster_bands import resolve_bands
from vicreg.data.rasters import TIFF
from vicreg.eval.features import build_input_spec, embed_images, format_input_spec
from vicreg.inference.embeddings import embed, open_images, open_patches, write_table
from vicreg.inference.feature_map import write_feature_map
from vicreg.inference.image_files import check_outputs, raise_failures
from vicreg.models.backbones import IMAGENET_MEAN, IMAGENET_STD, check_channels, feature_dim, load_backbone
from vicreg.models.input_size import check_input_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Settings of ``embed.py``; see its ``--help``."""

    out: Path
    pretrained: str
    arch: str | None = None
    in_chans: int | None = None
    weight_bands: Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | None = None
    batch_size: int = 64
    seed: int = 0
    csv_dir: Path | None = None
    data_dir: Path | None = None
    image: Path | None = None
    bands: Sequence[int] | None = None
    levels: tuple[float, float] | None = None
    patch_size: int = 224
    stride: int | None = None
    components: int = 3

    def __post_init__(self) -> None:
        suffixes = TIFF if self.image else (".parquet",)
        if self.out.suffix.lower() not in suffixes:
            raise ValueError(f"--out {self.out}: the {'feature map' if self.image else 'table'} ends in {suffixes[0]}")
        if not self.pretrained or not (self.csv_dir or self.data_dir or self.image):
            raise ValueError("--pretrained and one of --csv-dir, --data-dir and --image are needed, or --knn")
        cli.check_positive(self, "image_size", "batch_size", "patch_size", "stride", "in_chans")
        if self.components < 0:
            raise ValueError(f"--components {self.components}: 0 or more are needed")
        if self.stride and self.stride > self.patch_size:
            raise ValueError(f"--stride {self.stride} leaves gaps between windows of --patch-size {self.patch_size}")
        check_levels(self.levels)


class EmbeddingJob:
    """A backbone and what is to be embedded with it.

    Args:
        config: Settings.
        device: Device to compute on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The settings do not fit the backbone.
    """

    def __init__(self, config: EmbeddingConfig, device: torch.device):
        self.config, self.device = config, device
        backbone, self.info = load_backbone(
            config.pretrained, config.arch, config.in_chans, config.seed, config.mean, config.std, config.weight_bands
        )
        log(self.info["report"])
        self.backbone = backbone.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bands = resolve_bands(config.bands, self.info["in_chans"])
        self.levels: Any = config.levels or self.info.get("levels")

    def map_raster(self) -> None:
        """Write the feature map of ``--image``."""
        config = self.config
        assert config.image is not None
        if not config.image.is_file():
            raise FileNotFoundError(f"no raster at {config.image}")
        check_outputs([config.image], lambda _: [config.out])
        spec = self._checked(InputSpec(config.image_size or config.patch_size, *self._normalization()))

        def embed_windows(windows: np.ndarray) -> np.ndarray:
            return embed_images(self.backbone, torch.from_numpy(windows), spec, self.device).float().cpu().numpy()

        stride = config.stride or max(1, config.patch_size // 2)
        with open_reader(config.image, bands=self.bands, levels=self.levels, deep=True) as reader:
            result = write_feature_map(
                config.out, reader, embed_windows, config.patch_size, stride, config.components, config.seed,
                config.batch_size, self._record(spec),
            )  # fmt: skip
        explained = "".join(f" {share:.1%}" for share in result["explained_variance"])
        rows, columns = result["shape"]
        log(f"{config.out}: {columns} x {rows} cells of {stride} pixels, {result['bands']} bands"
            + (f" (variance explained:{explained})" if explained else ""))  # fmt: skip

    def write_table(self) -> None:
        """Write the table of ``--csv-dir`` or ``--data-dir``."""
        config, failures = self.config, dict[int, str]()
        dataset: LabeledDataset
        if config.csv_dir:
            dataset, columns = open_patches(config.csv_dir)
            check_channels(self.info["in_chans"], dataset, config.pretrained)
        else:
            assert config.data_dir is not None
            self._normalization()
            side, channels = decode_size(config.image_size), self.info["in_chans"]
            dataset, columns = images, _ = open_images(config.data_dir, side, channels, self.bands, self.levels)
            failures = images.failures
        spec = build_input_spec(self.info, dataset, config.image_size)
        chunks = embed(self.backbone, dataset, self._checked(spec), self.device, config.batch_size, failures)
        size = feature_dim(self.backbone)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        count = write_table(config.out, columns, chunks, size, self._record(spec))
        log(f"{config.out}: {count} rows, embeddings of {size} values")
        raise_failures([failures[index] for index in sorted(failures)], len(dataset))

    def _normalization(self) -> tuple[list[float], list[float]]:
        """Return mean and std of the weights; ImageNet's are assumed for three channels if they record none."""
        mean, std = self.info["mean"], self.info["std"]
        if mean is None or std is None:
            if self.info["in_chans"] != 3:
                raise ValueError(f"{self.config.pretrained} records no mean and std; name them with --mean and --std")
            mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
            self.info["mean"], self.info["std"], self.info["normalization"] = mean, std, "ImageNet's, assumed"
        return mean, std

    def _checked(self, spec: InputSpec) -> InputSpec:
        check_input_size(self.backbone, self.info["in_chans"], spec.size, self.info["arch"])
        log(format_input_spec(spec, self.info))
        return spec

    def _record(self, spec: InputSpec) -> dict[str, Any]:
        """Return how the embeddings are made, for the metadata of the file."""
        return {
            "pretrained": str(self.config.pretrained), "arch": self.info["arch"], "image_size": spec.size,
            "mean": list(spec.mean), "std": list(spec.std), "levels": self.levels and list(self.levels),
            "bands": self.bands if isinstance(self.bands, int) else self.bands and list(self.bands),
        }  # fmt: skip
