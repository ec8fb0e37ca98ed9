"""Weighted k-nearest-neighbor classification on cosine similarity (Wu et al. 2018)."""

import torch


def knn_predict(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    queries: torch.Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> torch.Tensor:
    """Rank classes by weighted nearest neighbors (Wu et al. 2018, section 3.4): votes weigh exp(cosine / temperature).

    Args:
        train: Features of the training samples (n, F).
        train_labels: int64 (n,).
        queries: Features of the queries (m, F).
        num_classes: Number of classes.
        k: Number of neighbors; fewer if there are fewer training samples.
        temperature: Temperature of the votes.
        chunk: Number of queries at a time.

    Returns:
        int64 (m, num_classes): the classes of each query, the likeliest first, then -1 for classes without a vote.
    """
    cosine, neighbors = nearest_neighbors(train, queries, k, chunk)
    return weighted_vote(cosine, train_labels[neighbors], num_classes, temperature)


def nearest_neighbors(
    train: torch.Tensor, queries: torch.Tensor, k: int, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest training samples of each query by cosine similarity.

    Args:
        train: Features of the training samples (n, F).
        queries: Features of the queries (m, F).
        k: Number of neighbors; fewer if n is smaller.
        chunk: Number of queries at a time.

    Returns:
        Cosines (m, k) in descending order, and int64 indices (m, k) of the training samples.
    """
    train = torch.nn.functional.normalize(train.float(), dim=1)
    queries = torch.nn.functional.normalize(queries.float(), dim=1)
    nearest = [(part @ train.T).topk(min(k, len(train)), dim=1) for part in queries.split(chunk)]
    return torch.cat([part.values for part in nearest]), torch.cat([part.indices for part in nearest])


def weighted_vote(
    cosine: torch.Tensor, labels: torch.Tensor, num_classes: int, temperature: float = 0.07
) -> torch.Tensor:
    """Rank classes by the votes of neighbors, each of weight exp(cosine / temperature).

    Args:
        cosine: Cosine of each neighbor (m, k).
        labels: Class of each neighbor, int64 (m, k).
        num_classes: Number of classes.
        temperature: Temperature of the votes.

    Returns:
        int64 (m, num_classes): classes in descending order of their votes, the smaller index first if they are equal;
        -1 in place of classes without a vote.
    """
    votes = torch.zeros(len(cosine), num_classes, device=cosine.device)
    votes.scatter_add_(1, labels, torch.exp((cosine - 1) / temperature))
    ordered = votes.sort(dim=1, descending=True, stable=True)
    return ordered.indices.masked_fill(ordered.values == 0, -1)
