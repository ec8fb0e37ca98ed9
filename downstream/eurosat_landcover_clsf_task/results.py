"""What a finished run leaves: figures of each class, pictures, and the backbone."""

import numpy as np
import torch

from downstream.eurosat_landcover_clsf_task.inference import logits_of, predict_tta
from vicreg.common import checkpoint_io
from vicreg.common.cli import to_serializable
from vicreg.common.files import write_json
from vicreg.common.logger import log
from vicreg.common.plots import plot_confusion_matrix, save_predictions
from vicreg.data.leakage import format_overlap, overlap
from vicreg.engine import checkpoint
from vicreg.eval.classification import per_class_metrics, per_class_table

SHOWN = ("top1", "top5", "balanced_accuracy", "macro_f1")
EXAMPLES = 20  # samples at random, and as many of the surest mistakes


def conclude(args, model, train, val, look, bf16, last, best, about, more):
    """Write ``result.json``, ``confusion.png``, ``examples.png`` and, last, ``trained_model.pth``; say what came out.

    Args:
        args: of the script. model: ``Classifier`` after the last step. train, val: ``Scenes``.
        look, bf16: see ``looking.extract``. last, best: figures of the last and the best epoch.
        about: what the checkpoints say. more: plain values for the result.
    """
    result = {name: last[name] for name in SHOWN} | {f"best_{name}": best[name] for name in (*SHOWN, "epoch")}
    if args.tta:
        together = per_class_metrics(predict_tta(model, val, look, bf16), val.labels, val.classes)
        result |= {f"tta_{name}": together[name] for name in SHOWN}
    result |= more | {"val_samples": len(val), "overlap": overlap(train, val), "classes": train.classes}
    result |= {"last": last, "best": best, "args": to_serializable(vars(args))}
    log(f"validation after the last epoch\n{per_class_table(last['per_class'])}")
    log(format_overlap(result["overlap"]))
    plot_confusion_matrix(args.exp_dir / "confusion.png", last["confusion"], train.classes)
    draw_examples(args, model, val, look, bf16)
    write_json(args.exp_dir / "result.json", result)
    checkpoint.save_backbone(args.exp_dir / checkpoint_io.BACKBONE_FILE, model.backbone, **described(args, about))
    tta = f"  (over eight positions {result['tta_top1']:.4f})" if args.tta else ""
    log(
        f"top-1 {last['top1']:.4f}{tta}  top-5 {last['top5']:.4f}"
        f"  (best top-1 {best['top1']:.4f} in epoch {best['epoch']}); {args.exp_dir / 'result.json'}"
    )


def described(args, about):
    """What ``trained_model.pth`` says of itself."""
    frozen = args.weights != "finetune"
    source = f"{about['backbone']['source']}{'' if frozen else f', then {args.data_dir.name}, {args.epochs} epochs'}"
    return about["backbone"] | {"source": source}


def draw_examples(args, model, val, look, bf16):
    """Draw what the model makes of some validation images (``examples.png``)."""
    shares = logits_of(model, val, look, bf16).softmax(1).cpu()
    sure, guess = shares.max(1)
    order = torch.from_numpy(np.random.default_rng([args.seed, 3]).permutation(len(val)))
    wrong = torch.nonzero(guess != val.labels)[:, 0]
    wrong = wrong[sure[wrong].argsort(descending=True)][:EXAMPLES]
    chosen = torch.cat([order[:EXAMPLES], wrong])
    names = [[val.classes[label] for label in labels[chosen]] for labels in (val.labels, guess)]
    title = f"{min(EXAMPLES, len(val))} validation images at random, then the surest mistakes ({len(wrong)} shown)"
    save_predictions(args.exp_dir / "examples.png", val.images(chosen), *names, sure[chosen].tolist(), title)
