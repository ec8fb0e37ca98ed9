"""Weighted k-nearest-neighbor classification (Wu et al. 2018)."""

import torch


def knn_predict(train, train_labels, queries, classes, k=20, temperature=0.07, chunk=1024):
    """Weighted nearest neighbors on the cosine (Wu et al. 2018, section 3.4): votes weigh exp(cosine / T).

    Args:
        train: (n, F) features. train_labels: (n,). queries: (m, F). classes: how many there are.
        k: neighbors; fewer where there are fewer training samples. chunk: queries at a time.

    Returns:
        int64 (m, classes): classes of each query, the likeliest first.
    """
    cosine, found = nearest_neighbors(train, queries, k, chunk)
    return weighted_vote(cosine, train_labels[found], classes, temperature)


def nearest_neighbors(train, queries, k, chunk=1024):
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


def weighted_vote(cosine, labels, classes, temperature=0.07):
    """Rank classes by neighbors' votes of weight exp(cosine / T): cosines and labels (m, k) -> (m, classes)."""
    votes = torch.zeros(len(cosine), classes, device=cosine.device)
    votes.scatter_add_(1, labels, torch.exp((cosine - 1) / temperature))
    return votes.argsort(dim=1, descending=True, stable=True)
