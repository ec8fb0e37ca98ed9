"""How good a classifier is on the validation samples: accuracies, recall of each class, and the confusion matrix."""

import numpy as np
import torch

from vicreg import distributed, features, files


@torch.no_grad()
def judge(model, dataset, look):
    """Judge a classifier on the centre crop of every sample; the processes share the work.

    Args:
        model: ``vicreg.classifier.Classifier`` with one head. dataset: with ``images``, ``labels``, ``classes``.
        look: dict of ``size, mean, std, device``.

    Returns:
        dict of ``figures``.
    """
    distributed.share_buffers(model.backbone)
    found = features.extract(model.backbone, dataset, **look)
    logits = torch.cat([model.heads(part)[:, 0] for part in found.split(4096)])
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    return figures(ranked, dataset.labels.cpu(), dataset.classes)


def figures(ranked, labels, classes):
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
        **{name: round(value, 6) for name, value in features.accuracy(ranked, labels).items()},
        "balanced_accuracy": round(float(recall.mean()), 6),
        "recall": by_class,
        "confusion": confusion_matrix(truth, guess, labels=range(len(classes))).tolist(),
    }


def draw_confusion(path, confusion, classes):
    """Draw a confusion matrix as a PNG: rows are true classes, in shares of their samples, with the class names.

    Args:
        path: where. confusion: (classes, classes) counts. classes: names.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = np.asarray(confusion)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = 4 + 0.3 * len(classes)
    figure, axis = pyplot.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(classes)), classes, rotation=90)
    axis.set_yticks(range(len(classes)), [f"{name} ({n})" for name, n in zip(classes, counts.sum(1), strict=True)])
    axis.set_xlabel("guessed")
    axis.set_ylabel("true (samples)")
    for row, column in zip(*np.nonzero(shares >= 0.01), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(picture, label="share of the true class", shrink=0.7)
    files.replace(path, lambda beside: figure.savefig(beside, dpi=100))
    pyplot.close(figure)
