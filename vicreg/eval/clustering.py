"""K-means clustering of features, and its agreement with the class labels."""

import numpy as np

_MINI_BATCH_ABOVE = 50_000  # samples


def kmeans(features: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Cluster features (n, F) on the unit sphere, and return the cluster of each sample: integers (n,).

    The best of ten initializations is used (of three, with mini-batches, above 50,000 samples).

    Raises:
        ValueError: There are fewer samples than clusters.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.preprocessing import normalize

    if len(features) < k:
        raise ValueError(f"{len(features)} samples cannot make {k} clusters")
    points = normalize(np.asarray(features, np.float32))
    if len(points) > _MINI_BATCH_ABOVE:
        model = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096)
    else:
        model = KMeans(k, random_state=seed, n_init=10)
    return model.fit_predict(points)


def match_clusters(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Assign clusters (n,) to classes (n,), no class twice, so that most samples are correct (Hungarian method).

    Returns:
        int64 array (n,): the class of each sample's cluster; -1 for clusters beyond the number of classes.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(clusters, labels)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    assigned = np.full(len(counts), -1, np.int64)
    assigned[rows] = np.unique(labels)[columns]
    return assigned[np.unique(clusters, return_inverse=True)[1]]


def clustering_metrics(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the agreement of clusters (n,) and classes (n,), whatever the numbering of the clusters.

    Returns:
        dict of ``nmi`` (normalized mutual information, arithmetic mean) and ``ari`` (adjusted Rand index).
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }
