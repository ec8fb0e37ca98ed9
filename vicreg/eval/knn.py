"""Weighted k-nearest-neighbor classification on cosine similarity (Wu et al. 2018)."""

import torch

_BLOCK = 16_384  # training samples compared at a time


def knn_predict(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    queries: torch.Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> torch.Tensor:
    """Rank classes by weighted nearest neighbors (Wu et al. 2018, section 3.4): votes weigh exp(cosine / temperature).

    Args:
        train: Features of the training samples (n, F).
        train_labels: int64 (n,).
        queries: Features of the queries (m, F).
        num_classes: Number of classes.
        k: Number of neighbors; fewer if there are fewer training samples.
        temperature: Temperature of the votes.

    Returns:
        int64 (m, num_classes): the classes of each query, the likeliest first, then -1 for classes without a vote.
    """
    cosine, neighbors = nearest_neighbors(train, queries, k)
    return weighted_vote(cosine, train_labels[neighbors], num_classes, temperature)


def nearest_neighbors(
    train: torch.Tensor, queries: torch.Tensor, k: int, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest training samples of each query by cosine similarity.

    The training samples are compared in blocks, so that the memory beside the features does not depend on their number.

    Args:
        train: Features of the training samples (n, F).
        queries: Features of the queries (m, F).
        k: Number of neighbors; fewer if n is smaller.
        chunk: Number of queries at a time.

    Returns:
        Cosines (m, k) in descending order, and int64 indices (m, k) of the training samples.
    """

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows.float(), dim=1)

    k, parts = min(k, len(train)), []
    for part in map(unit, queries.split(chunk)):
        cosine, index = part.new_empty(len(part), 0), train.new_empty(len(part), 0, dtype=torch.long)
        for start in range(0, len(train), _BLOCK):
            block = (part @ unit(train[start : start + _BLOCK]).T).topk(min(k, len(train) - start, _BLOCK), dim=1)
            joined = torch.cat([cosine, block.values], 1).topk(min(k, cosine.shape[1] + block.values.shape[1]), dim=1)
            index = torch.cat([index, block.indices + start], 1).gather(1, joined.indices)
            cosine = joined.values
        parts.append((cosine, index))
    return torch.cat([cosine for cosine, _ in parts]), torch.cat([index for _, index in parts])


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
