"""A folder in timm's format for the Hugging Face Hub: model.safetensors, config.json, and a model card."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vicreg.common import files, provenance
from vicreg.common.checkpoint_io import BACKBONE_FILE, MODEL_FILE
from vicreg.common.json_files import read_json
from vicreg.exporters import safetensors_file, verify
from vicreg.exporters.detectron2 import Info, plain_name
from vicreg.models.backbones import feature_dim

FILES = ("model.safetensors", "config.json", "README.md")
_METRICS = re.compile(r"(best_)?top\d+|knn\d+_top\d+|\w*(accuracy|miou|nmi|ari|rank)", re.IGNORECASE)


def config(backbone: nn.Module, info: Info) -> dict[str, Any]:
    """Return ``config.json``: the architecture without a classifier, its input and its normalization."""
    base: Any = getattr(backbone, "pretrained_cfg", None) or {}
    channels = info["in_chans"]
    size = list(base.get("input_size", (3, 224, 224)))[1:]
    pretrained_cfg = {
        "tag": "vicreg",
        "custom_load": False,
        "input_size": [channels, *size],
        "fixed_input_size": bool(base.get("fixed_input_size")),
        "interpolation": base.get("interpolation", "bilinear"),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(info["mean"]),
        "std": list(info["std"]),
        "num_classes": 0,
        "pool_size": base.get("pool_size"),
        "first_conv": base.get("first_conv") if channels == 3 else None,  # timm adapts it from 3 channels otherwise
        "classifier": base.get("classifier"),
    }
    model_args = {"num_classes": 0} | ({} if channels == 3 else {"in_chans": channels})
    about = {"architecture": plain_name(info), "num_classes": 0, "num_features": feature_dim(backbone)}
    return {**about, "model_args": model_args, "pretrained_cfg": pretrained_cfg}


def model_card(
    info: Info, num_features: int, pretrained: str | Path, license: str | None = None, results: Sequence[Path] = ()
) -> str:
    """Write the model card: data, command, metrics and normalization.

    Args:
        info: Second value of ``load_backbone``.
        num_features: Size of the features.
        pretrained: File of the weights; the files of a run beside it tell its data and command.
        license: Identifier for the Hub, such as ``cc-by-4.0``.
        results: Files ``result.json`` of evaluations.

    Raises:
        FileNotFoundError: There is no such file of results.
        ValueError: The license is no identifier, or a file holds no results.
    """
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", license):
        raise ValueError(f"--license {license}: an identifier of the Hub expected, such as cc-by-4.0, mit or other")
    header = [
        "library_name: timm",
        "pipeline_tag: image-feature-extraction",
        *([f"license: {license}"] * bool(license)),
    ]
    header += ["tags:", *(f"- {tag}" for tag in ("timm", "image-feature-extraction", "self-supervised", "vicreg"))]
    run = _run_of(pretrained)
    mean, std = (", ".join(f"{value:.6g}" for value in info[key]) for key in ("mean", "std"))
    lines = ["---", *header, "---", f"# {info['arch']} backbone", ""]
    lines += [f"- **Weights**: {files.printable(info['source'], '')}", f"- **Features**: {num_features}, pooled"]
    if source := run.get("plan", {}).get("source"):
        lines.append(f"- **Data**: {files.printable(source, '')}")
    lines += [f"- **Input**: {info['in_chans']} channels, pixels in [0, 1], normalized with mean [{mean}], std [{std}]"]
    if info.get("levels"):
        pairs = info["levels"] if isinstance(info["levels"][0], (list, tuple)) else [info["levels"]]
        ranges = ", ".join(f"{low:g} to {high:g}" for low, high in pairs)
        lines.append(f"- **Levels**: pixel values {ranges} are 0 to 1" + " (by band)" * (len(pairs) > 1))
    if command := run.get("command"):
        lines += ["", "## Training", "", "```bash", files.printable(command, ""), "```"]
    if results:
        lines += ["", "## Evaluation", "", "| evaluation | metric | value |", "|---|---|---|"]
        for path in results:
            name, metrics = _read_results(path)
            lines += [f"| {name} | {metric} | {value:.4g} |" for metric, value in metrics.items()]
    lines += ["", "## Use", "", "```python", "import timm", ""]
    lines += ['model = timm.create_model("hf-hub:<repository>", pretrained=True).eval()', "```"]
    return "\n".join(lines) + "\n"


def _run_of(pretrained: str | Path) -> dict[str, Any]:
    """Read ``config.json`` of the run that wrote a file of weights, with its ``command``; empty if there is none."""
    path = Path(pretrained).with_name("config.json")
    if Path(pretrained).name not in (BACKBONE_FILE, MODEL_FILE) or not path.is_file():
        return {}
    run = read_json(path)
    if not (isinstance(run, dict) and isinstance(run.get("plan"), dict)):
        return {}
    sessions = provenance.read(path.parent).get("sessions")
    return run | ({"command": sessions[-1].get("command")} if sessions else {})


def _read_results(path: Path) -> tuple[str, dict[str, float]]:
    """Return the name of an evaluation and its metrics."""
    try:
        result = read_json(path)
        metrics = {key: value for key, value in result.items() if _METRICS.fullmatch(key)}
        metrics = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"--results {path}: not a result.json of an evaluation ({error})") from error
    if not metrics:
        raise ValueError(f"--results {path}: no metrics such as top1 in it")
    return files.printable(result.get("protocol") or path.parent.name, "").replace("|", "/"), metrics


def save(path: str | Path, backbone: nn.Module, info: Info, card: str) -> str:
    """Write the folder once timm has loaded it and computed the same features.

    Args:
        path: The folder; an earlier export there is replaced.
        backbone: First value of ``load_backbone``.
        info: Second value of ``load_backbone``.
        card: The model card.

    Returns:
        One line on what was verified.

    Raises:
        ValueError: Mean and std are not known, ``path`` is no folder for it, or features differ.
        OSError: The folder cannot be written.
    """
    path = check_folder(path)
    if not info["mean"] or not info["std"]:
        raise ValueError("--to hf records mean and std, which these weights do not tell; name them: --mean and --std")
    images = verify.sample_images(info["in_chans"], verify.natural_size(backbone))
    contents = {
        "model.safetensors": safetensors_file.encode(backbone, info),
        "config.json": json.dumps(config(backbone, info), indent=2).encode() + b"\n",
        "README.md": card.encode(),
    }
    with files.partial_folder(path) as partial:
        for name, content in contents.items():
            files.write_bytes(partial / name, content, lambda tmp_path: None)
        report = verify.verify(
            partial, "timm", verify.pooled(backbone, images),
            lambda folder: verify.pooled(timm.create_model(f"local-dir:{folder}", pretrained=True), images),
        )  # fmt: skip
        for name in FILES:
            os.replace(partial / name, path / name)
    return report


def check_folder(path: str | Path) -> Path:
    """Return the output folder; raise ValueError or OSError if files of another kind would be replaced there."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; --to hf writes a folder")
    if path.is_dir() and any((path / name).exists() for name in FILES):
        try:
            ours = "pretrained_cfg" in read_json(path / "config.json")
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise ValueError(f"{path} holds a {' or '.join(FILES)} of something else; choose another folder")
    if not path.exists():
        files.check_writable(path)
    return path


def recipe(path: str | Path) -> list[str]:
    """Return lines of Python that load the folder."""
    return ["import timm", f'model = timm.create_model("local-dir:{path}", pretrained=True)']


def push(folder: str | Path, repository: str) -> str:
    """Upload an exported folder to the Hugging Face Hub.

    Args:
        folder: The folder.
        repository: Name of the repository, ``user/name``; created if it is missing.

    Returns:
        Address of the repository.

    Raises:
        ValueError: The package is missing, or the Hub cannot be reached or refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError("--push needs the package huggingface_hub: pip install huggingface_hub") from error
    try:
        api = HfApi()
        url = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=str(folder), allow_patterns=list(FILES), commit_message="Add model"
        )
    except Exception as error:  # huggingface_hub raises exceptions of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"--push {repository}: not uploaded ({reason}); {folder} is complete. It needs the network and a token "
            "that may write: hf auth login, or HF_TOKEN"
        ) from error
    return str(url)
