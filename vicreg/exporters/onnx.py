"""ONNX: images to pooled features in one file, for runtimes without Python."""

import copy
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicreg.exporters import verify

OPSET = 17  # has every operation of timm's backbones; in runtimes since 2022
_INPUT, _OUTPUT = "images", "features"


def encode(backbone: nn.Module, in_chans: int, metadata: dict[str, str], image_size: int | None = None) -> bytes:
    """Return a backbone as the bytes of an ONNX file.

    Args:
        backbone: Module from images (n, in_chans, H, W) to features (n, F).
        in_chans: Number of input channels.
        metadata: Written as ``metadata_props``.
        image_size: Side of the images; None for any, which vision transformers do not support.

    Returns:
        ONNX file with the input ``images`` (batch, C, H, W) and the output ``features`` (batch, F), for any batch size.

    Raises:
        ValueError: The package onnx is missing, or torch cannot convert the network.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f"ONNX files need the package onnx ({error}): pip install onnx onnxruntime") from error
    model: Any = copy.deepcopy(backbone).cpu().eval()
    if image_size and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=image_size)  # resamples the position embeddings
    images = verify.sample_images(in_chans, image_size or verify.natural_size(backbone))
    axes = {_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}}
    if not image_size:
        axes[_INPUT] |= {2: "height", 3: "width"}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing; the comparison of features finds errors
        try:
            torch.onnx.export(
                model, (images,), buffer, input_names=[_INPUT], output_names=[_OUTPUT], dynamic_axes=axes,
                opset_version=OPSET, dynamo=False,  # the TorchScript exporter, which needs no onnxscript
            )  # fmt: skip
        except (RuntimeError, AssertionError, ValueError) as error:  # torch.onnx.errors are RuntimeErrors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"torch cannot write this network as ONNX: {reason}") from error
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(graph, metadata)
    return graph.SerializeToString()


def sample_batches(in_chans: int, image_size: int | None, size: int) -> list[torch.Tensor]:
    """Return images to compare on: two batch sizes, and ``size`` and a larger size unless ``image_size`` is fixed."""
    if image_size:
        return [verify.sample_images(in_chans, image_size, count, seed=count) for count in (2, 3)]
    return [verify.sample_images(in_chans, size, 2), verify.sample_images(in_chans, size * 3 // 2, 3, seed=1)]


def read_features(path: Path, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Compute features (n, F) of batches of images (n, C, H, W) with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0]) for images in batches]


def recipe(path: str | Path) -> list[str]:
    """Return lines of Python that run the file."""
    return [
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{path}", providers=["CPUExecutionProvider"])',
        f'features = session.run(None, {{"{_INPUT}": images}})[0]  # float32 array (n, channels, H, W)',
    ]
