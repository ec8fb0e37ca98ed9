"""How good a classifier is on the validation samples: accuracies, recall of each class, and the confusion matrix."""

import numpy as np
import torch

from vicreg import distributed
from vicreg.eval import features, metrics


def per_class_metrics(logits, labels, classes):
    """Figures of logits or probabilities: those of ``classification_metrics``, and precision, recall, F1 and support
    of each class.
    """
    from sklearn.metrics import precision_recall_fscore_support

    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    columns = precision_recall_fscore_support(labels, ranked[:, 0], labels=range(len(classes)), zero_division=0.0)
    found = classification_metrics(ranked, labels, classes)
    found["per_class"] = {
        name: {"precision": round(p, 6), "recall": round(r, 6), "f1": round(f, 6), "support": int(n)}
        for name, p, r, f, n in zip(classes, *(column.tolist() for column in columns), strict=True)
    }
    found["macro_f1"] = round(float(columns[2].mean()), 6)
    return found


def per_class_table(per_class):
    """Precision, recall, F1 and samples of each class in columns, for a terminal."""
    width = max(len("class"), *map(len, per_class))
    lines = [f"{'class':{width}}  precision  recall      F1  samples"]
    for name, row in per_class.items():
        lines.append(
            f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    return "\n".join(lines)


@torch.no_grad()
def evaluate_classifier(model, dataset, look):
    """Judge a classifier on the center crop of every sample; the processes share the work.

    Args:
        model: ``vicreg.models.heads.Classifier`` with one head. dataset: with ``images``, ``labels``, ``classes``.
        look: dict of ``size, mean, std, device``.

    Returns:
        dict of ``classification_metrics``.
    """
    distributed.broadcast_buffers(model.backbone)
    found = features.extract_features(model.backbone, dataset, **look)
    logits = torch.cat([model.heads(part)[:, 0] for part in found.split(4096)])
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    return classification_metrics(ranked, dataset.labels.cpu(), dataset.classes)


def classification_metrics(ranked, labels, classes):
    """Figures of a ranking.

    Args:
        ranked: int (n, guesses), the likeliest first. labels: (n,). classes: names.

    Returns:
        dict of plain values: ``top1``, ``top5``, ``balanced_accuracy`` (mean recall of the classes that there are
        samples of), ``recall`` (by class name; None without samples), ``confusion`` (rows: true, columns: guessed).
    """
    from sklearn.metrics import confusion_matrix, recall_score

    truth, guess = labels.numpy(), ranked[:, 0].numpy()
    present = np.unique(truth)
    recall = recall_score(truth, guess, labels=present, average=None, zero_division=0.0)
    by_class = dict.fromkeys(classes)
    by_class |= {classes[label]: round(float(value), 6) for label, value in zip(present, recall, strict=True)}
    return {
        **{name: round(value, 6) for name, value in metrics.accuracy(ranked, labels).items()},
        "balanced_accuracy": round(float(recall.mean()), 6),
        "recall": by_class,
        "confusion": confusion_matrix(truth, guess, labels=range(len(classes))).tolist(),
    }
