"""Backbones as ONNX: one file for runtimes without Python, images in, pooled features out."""

import copy
import inspect
import io
import warnings

import torch

from vicreg.exporters import verify

OPSET = 17  # every operation of timm's backbones, and runtimes since 2022
_INPUT, _OUTPUT = "images", "features"


def encode(backbone, in_chans, metadata, image_size=None):
    """A backbone as the bytes of an ONNX file.

    Args:
        backbone: module (n, in_chans, H, W) -> (n, F). metadata: dict of strings, for ``metadata_props``.
        image_size: side of the images; None leaves it open, which networks that know their grid of patches (vision
            transformers) do not bear.

    Returns:
        bytes. Input ``images`` (batch, C, H, W), output ``features`` (batch, F); the batch is open.

    Raises:
        ValueError: the package onnx is missing, or torch cannot translate the network.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f"ONNX files need the package onnx ({error}): pip install onnx onnxruntime") from error
    model = copy.deepcopy(backbone).cpu().eval()
    if image_size and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=image_size)  # position embeddings are resampled once, here
    images = verify.sample_images(in_chans, image_size or verify.natural_size(backbone))
    axes = {_INPUT: {0: "batch"}, _OUTPUT: {0: "batch"}}
    if not image_size:
        axes[_INPUT] |= {2: "height", 3: "width"}
    # The TorchScript exporter is the only one that torch 2.4 and today's torch share, and needs no onnxscript.
    chosen = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing; what it gets wrong the comparison of features shows
        try:
            torch.onnx.export(
                model, (images,), written, input_names=[_INPUT], output_names=[_OUTPUT], dynamic_axes=axes,
                opset_version=OPSET, **chosen,
            )  # fmt: skip
        except (RuntimeError, AssertionError, ValueError) as error:  # torch.onnx.errors are RuntimeErrors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"torch cannot write this network as ONNX: {reason}") from error
    graph = onnx.load_from_string(written.getvalue())
    onnx.helper.set_model_props(graph, metadata)
    return graph.SerializeToString()


def sample_batches(in_chans, image_size, size):
    """Images to compare on: two numbers of them, and two sizes where the size is open.

    Args:
        in_chans: channels. image_size: of ``encode``. size: the side that the network was made for.
    """
    if image_size:
        return [verify.sample_images(in_chans, image_size, count, seed=count) for count in (2, 3)]
    return [verify.sample_images(in_chans, size, 2), verify.sample_images(in_chans, size * 3 // 2, 3, seed=1)]


def read_features(path, batches):
    """Show batches of images to a file with onnxruntime, on the CPU.

    Args:
        path: of an ONNX file. batches: list of float32 (n, C, H, W).

    Returns:
        list of tensors (n, F), one a batch.
    """
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # an error is raised as well
    session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0]) for images in batches]


def recipe(path):
    """Lines of Python that use a file."""
    return [
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{path}", providers=["CPUExecutionProvider"])',
        f'features = session.run(None, {{"{_INPUT}": images}})[0]  # float32 array (n, channels, H, W)',
    ]
