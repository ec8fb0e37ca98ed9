"""What frozen features are worth: extraction, weighted kNN, and figures that show a collapse."""

import math

import torch
from tqdm import tqdm

from vicreg.augmentations import PLAIN, already_cut, apply, draw, normalise
from vicreg.distributed import gather_rows, is_main, rank, world_size


@torch.no_grad()
def extract(backbone, dataset, size, mean, std, device, indices=None, batch_size=256, view=PLAIN, random=None):
    """Features of a labelled data set; the processes share the work.

    Args:
        backbone: module (n, C, size, size) -> (n, F); in eval mode while this runs.
        dataset: has ``images(list of indices)`` -> uint8 (n, C, H, W).
        size, mean, std: of the network's input, pixels and per channel. indices: which samples, default all.
        view: how they are looked at; the plain view is the centre crop of 7/8 of the side. random: generator of a
            view that is drawn.

    Returns:
        float32 (n, F) on the device, in the order of the indices, on every process.
    """
    indices = list(range(len(dataset))) if indices is None else [int(index) for index in indices]
    share = -(-len(indices) // world_size())
    mine = indices[rank() * share : (rank() + 1) * share]
    random = random or torch.Generator().manual_seed(0)
    was_training = backbone.training
    backbone.eval()
    parts = [torch.empty(0, backbone.num_features, device=device)]
    bar = tqdm(range(0, len(mine), batch_size), "features", leave=False, disable=None if is_main() else True)
    for start in bar:  # shown on a terminal only
        part, left = mine[start : start + batch_size], view
        if view.crop != "centre" and hasattr(dataset, "cut"):  # image files: from the whole image
            seeds = torch.randint(2**63 - 1, (len(part),), generator=random)
            images, left = dataset.cut(part, seeds.tolist(), view, size), already_cut(view)
        else:
            images = dataset.images(part)
        images = images.to(device)
        numbers = draw(left, len(images), *images.shape[-2:], random)
        parts.append(backbone(normalise(apply(images, numbers, size, left.blur_kernel), mean, std)).float())
    backbone.train(was_training)
    return gather_rows(torch.cat(parts))


def knn_predict(train, train_labels, queries, classes, k=20, temperature=0.07, chunk=1024):
    """Weighted nearest neighbours on the cosine (Wu et al. 2018, section 3.4): votes weigh exp(cosine / T).

    Args:
        train: (n, F) features. train_labels: (n,). queries: (m, F). classes: how many there are.
        k: neighbours; fewer where there are fewer training samples. chunk: queries at a time.

    Returns:
        int64 (m, classes): classes of each query, the likeliest first.
    """
    cosine, found = nearest(train, queries, k, chunk)
    return vote(cosine, train_labels[found], classes, temperature)


def nearest(train, queries, k, chunk=1024):
    """The k features nearest to each query, on the cosine.

    Args:
        train: (n, F). queries: (m, F). k: fewer where n is smaller. chunk: queries at a time.

    Returns:
        cosines (m, k), the largest first, and int64 (m, k) rows of ``train``.
    """
    train = torch.nn.functional.normalize(train.float(), dim=1)
    queries = torch.nn.functional.normalize(queries.float(), dim=1)
    found = [(part @ train.T).topk(min(k, len(train)), dim=1) for part in queries.split(chunk)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def vote(cosine, labels, classes, temperature=0.07):
    """Rank classes by neighbours' votes of weight exp(cosine / T): cosines and labels (m, k) -> (m, classes)."""
    votes = torch.zeros(len(cosine), classes, device=cosine.device)
    votes.scatter_add_(1, labels, torch.exp((cosine - 1) / temperature))
    return votes.argsort(dim=1, descending=True, stable=True)


def accuracy(ranked, labels, top=(1, 5)):
    """Share of samples whose label is among the first guesses.

    Args:
        ranked: int (m, classes), likeliest first. labels: (m,). top: how many guesses count.

    Returns:
        dict such as ``{"top1": 0.5, "top5": 1.0}``.
    """
    hits = ranked == labels[:, None]
    return {f"top{n}": hits[:, :n].any(1).double().mean().item() for n in top}


@torch.no_grad()
def effective_rank(features, most=2048):
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the normalised singular values.

    Args:
        features: (n, F); at most ``most`` rows are used. 1 is a collapse, min(n, F) the most there can be; nan where
            the features are not finite.
    """
    features = features[:most].float()
    if not features.isfinite().all():
        return math.nan  # of which there is no decomposition
    values = torch.linalg.svdvals(features)
    share = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
