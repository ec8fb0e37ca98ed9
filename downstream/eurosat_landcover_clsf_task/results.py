"""Write the results of a finished run: metrics, figures, and the backbone."""

from pathlib import Path
from typing import Any

import torch

from downstream.eurosat_landcover_clsf_task.config import TASK, EurosatConfig
from downstream.eurosat_landcover_clsf_task.dataset import EurosatSplit, Scenes
from downstream.eurosat_landcover_clsf_task.inference import predict_logits, predict_tta
from vicreg.common.checkpoint_io import BACKBONE_FILE
from vicreg.common.config import to_dict
from vicreg.common.logger import log
from vicreg.common.plots import plot_confusion_matrix, save_predictions
from vicreg.common.random_streams import rng
from vicreg.common.results import RESULT_FILE, write_result
from vicreg.data.base import InputSpec
from vicreg.data.leakage import format_overlap, overlap
from vicreg.engine.checkpoint import save_backbone
from vicreg.eval.classification import per_class_metrics, per_class_table, prediction_details
from vicreg.eval.metrics import hits
from vicreg.models.heads import Classifier

METRICS = ("top1", "top5", "balanced_accuracy", "macro_f1")
EXAMPLES = 20  # random samples, and as many of the most confident mistakes


def write_results(
    config: EurosatConfig,
    model: Classifier,
    split: EurosatSplit,
    spec: InputSpec,
    bf16: bool,
    last: dict[str, Any],
    best: dict[str, Any],
    backbone_info: dict[str, Any],
    more: dict[str, Any],
) -> None:
    """Write ``confusion.png``, ``examples.png``, ``result.json`` and ``trained_model.pth``, and log the metrics.

    ``last`` and ``best`` are the metrics of these epochs, ``backbone_info`` is the record of ``build_backbone``, and
    ``more`` are plain values for ``result.json``.
    """
    folder, val = Path(config.exp_dir), split.val
    result = {name: last[name] for name in METRICS} | {f"best_{name}": best[name] for name in (*METRICS, "epoch")}
    if config.tta:
        metrics = per_class_metrics(predict_tta(model, val, spec, bf16), val.labels, val.classes)
        result |= {f"tta_{name}": metrics[name] for name in METRICS}
    result |= more | {"arch": backbone_info["arch"], "source": backbone_info["source"]}
    result |= {"protocol": f"{TASK} {'linear' if config.frozen else 'finetune'}", "val_samples": len(val)}
    result |= {"overlap": overlap(split.train, val), "classes": val.classes, "last": last, "best": best}
    result |= {"task": "classification", "dataset": val.name, "config": to_dict(config)}
    result["selected_on_validation"] = [f"best_{name}" for name in METRICS]
    log(f"validation after the last epoch\n{per_class_table(last['per_class'])}")
    log(format_overlap(result["overlap"]))
    plot_confusion_matrix(folder / "confusion.png", last["confusion"], val.classes)
    probabilities = predict_logits(model, val, spec, bf16).softmax(1).cpu()
    _plot_examples(folder / "examples.png", val, probabilities, config.seed)
    ranked = probabilities.topk(min(5, len(val.classes)), dim=1).indices
    write_result(folder / RESULT_FILE, result | prediction_details(ranked, hits(ranked, val.labels), val))
    trained = "" if config.frozen else f", then {config.data_dir.name}, {config.epochs} epochs"
    info = {**backbone_info, "source": f"{backbone_info['source']}{trained}"}
    save_backbone(folder / BACKBONE_FILE, model.backbone, **info)
    tta = f"  (with test-time augmentation {result['tta_top1']:.4f})" if config.tta else ""
    log(
        f"top-1 {last['top1']:.4f}{tta}  top-5 {last['top5']:.4f}"
        f"  (best top-1 {best['top1']:.4f} in epoch {best['epoch']}); {folder / RESULT_FILE}"
    )


def _plot_examples(path: Path, scenes: Scenes, probabilities: torch.Tensor, seed: int) -> None:
    """Plot predictions of random scenes, then the most confident mistakes, from probabilities (n, classes)."""
    confidence, predicted = probabilities.max(1)
    order = torch.from_numpy(rng(seed, "example_images").permutation(len(scenes)))
    wrong = torch.nonzero(predicted != scenes.labels)[:, 0]
    wrong = wrong[confidence[wrong].argsort(descending=True)][:EXAMPLES]
    chosen = torch.cat([order[:EXAMPLES], wrong])
    names = [[scenes.classes[label] for label in labels[chosen]] for labels in (scenes.labels, predicted)]
    count = min(EXAMPLES, len(scenes))
    title = f"{count} random validation images, then the most confident mistakes ({len(wrong)} shown)"
    save_predictions(path, scenes.display_rgb(chosen), *names, confidence[chosen].tolist(), title)
