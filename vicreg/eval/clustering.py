"""What classes k-means finds in features without labels, matched with the labels afterwards."""

import numpy as np

_MINI_BATCH_ABOVE = 50_000  # samples


def kmeans(features, k, seed=0):
    """Cluster features on the unit sphere.

    Args:
        features: array (n, F). k: clusters, at most n. seed: of the beginnings; the best of ten is kept (of three, in
            mini-batches, above 50,000 samples).

    Returns:
        int array (n,), the cluster of each sample.

    Raises:
        ValueError: fewer samples than clusters.
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


def match_clusters(clusters, labels):
    """Name each cluster after one class, no class twice, so that most samples come out right (Hungarian method).

    Args:
        clusters, labels: int (n,).

    Returns:
        int64 (n,): the class of each sample's cluster; -1 where there are more clusters than classes and it has none.
    """
    from scipy.optimize import linear_sum_assignment

    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    classes, label = np.unique(np.asarray(labels), return_inverse=True)
    together = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(together, (cluster, label), 1)
    rows, columns = linear_sum_assignment(together, maximize=True)
    named = np.full(len(names), -1, np.int64)
    named[rows] = classes[columns]
    return named[cluster]


def clustering_metrics(clusters, labels):
    """How clusters and classes agree, whatever the clusters are called.

    Returns:
        dict of floats ``nmi`` (normalized mutual information, arithmetic mean) and ``ari`` (adjusted Rand index).
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }
