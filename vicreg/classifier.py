"""Linear heads on a backbone, and the labelled samples they learn from."""

import numpy as np
import torch
from torch import nn

from vicreg.augmentations import already_cut

HELD_OUT = 0.1  # of the training places, to choose the rate of a linear head


def stratified_subset(labels, share, seed):
    """Choose a share of the samples of every class, at least one of each.

    Args:
        labels: (n,) integers. share: in (0, 1]. seed: of the choice.

    Returns:
        sorted int64 array of indices.
    """
    labels = np.asarray(labels)
    random = np.random.default_rng([seed, 1])
    chosen = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def check_percent(percent):
    """Raise ValueError for a --train-percent that is none."""
    if not 1 <= percent <= 100:
        raise ValueError(f"--train-percent {percent}: a whole number from 1 to 100 is needed")


def hold_out(labels, places, share, seed):
    """Set aside whole places of every class, to choose a rate on; a class of one place keeps it.

    Args:
        labels, places: (n,) integers; samples of one place are near duplicates (the same patch in other months).
        share: of each class's places, at least one. seed: of the choice.

    Returns:
        sorted int64 array of indices.
    """
    labels, places = np.asarray(labels), np.asarray(places)
    random = np.random.default_rng([seed, 2])
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        there = random.permutation(np.unique(places[members]))
        aside = there[: max(1, round(share * len(there)))] if len(there) > 1 else []
        chosen.append(members[np.isin(places[members], aside)])
    return np.sort(np.concatenate(chosen))


class Labelled(torch.utils.data.Dataset):
    """Some samples of a labelled data set, for ``CountedBatches``: ``[(place, draw), …]`` -> (images, labels).

    Args:
        dataset: has ``images(indices)`` and ``labels``; one of image files cuts the view's crop itself (``cut``).
        indices: (n,) of the samples. view: to train on. size: its side in pixels.

    Attributes:
        view: what of the view remains to be made from the images.
    """

    def __init__(self, dataset, indices, view, size):
        self.dataset, self.indices, self._size = dataset, indices, size
        self._crop = view if hasattr(dataset, "cut") else None
        self.view = already_cut(view) if self._crop else view

    def __len__(self):
        return len(self.indices)

    def __getitems__(self, keys):
        indices = self.indices[[place for place, _ in keys]].tolist()
        if self._crop:
            images = self.dataset.cut(indices, [draw for _, draw in keys], self._crop, self._size)
        else:
            images = self.dataset.images(indices)
        return images, self.dataset.labels[indices]


class Cached(torch.utils.data.Dataset):
    """Features extracted once, several views of each sample; the sample's random number chooses the view."""

    def __init__(self, views, labels):
        self.views, self.labels = views, labels

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, keys):
        places, draws = (torch.tensor(column) for column in zip(*keys, strict=True))
        return self.views[draws % len(self.views), places], self.labels[places]


class Heads(nn.Module):
    """Linear classifiers side by side on the same features: (n, F) -> (n, heads, classes)."""

    def __init__(self, heads, num_features, classes):
        super().__init__()
        self.classes = classes
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(classes, num_features)) for _ in range(heads))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(classes)) for _ in range(heads))
        for weight in self.weight:
            nn.init.normal_(weight, std=0.01)

    def of(self, head):
        """Parameters of one head."""
        return [self.weight[head], self.bias[head]]

    def forward(self, x):
        return torch.stack([nn.functional.linear(x, w, b) for w, b in zip(self.weight, self.bias, strict=True)], 1)


class Classifier(nn.Module):
    """A backbone and its heads; a frozen backbone stays in eval mode and out of the graph."""

    def __init__(self, backbone, heads, frozen):
        super().__init__()
        self.heads, self.frozen = heads, frozen
        self.backbone = backbone.requires_grad_(not frozen)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.backbone(images)
        return self.heads(found)
