"""t-SNE maps of features, by the library that is faster for their number."""

import os
from importlib.util import find_spec

import numpy as np

_LARGE_MAP = 10_000  # samples from which openTSNE is faster than scikit-learn
_SAME = 1e-6  # largest difference of unit vectors that rounding to float32 explains


def tsne(features: np.ndarray, library: str | None = None) -> np.ndarray:
    """Compute a t-SNE map (van der Maaten & Hinton 2008) of L2-normalized features.

    Args:
        features: Shape (N, F), N > 2.
        library: ``"openTSNE"`` or ``"scikit-learn"``; None: openTSNE where it is installed and N is large enough for it
            to be faster.

    Returns:
        Positions, shape (N, 2); all zero if the features have one direction.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    points = normalize(features)
    if np.ptp(points, axis=0).max() < _SAME:  # a collapsed network, which ends scikit-learn in a segmentation fault
        return np.zeros((len(points), 2), np.float32)
    if min(points.shape) > 50:  # faster, with nearly the same neighbors
        points = PCA(50, random_state=0).fit_transform(points)
    perplexity, init = min(30, (len(points) - 1) / 3), "pca" if min(points.shape) > 1 else "random"
    if library == "openTSNE" or (library is None and len(points) > _LARGE_MAP and find_spec("openTSNE")):
        import openTSNE

        method = openTSNE.TSNE(perplexity=perplexity, initialization=init, random_state=0, n_jobs=os.cpu_count())
        return np.asarray(method.fit(points))
    from sklearn.manifold import TSNE

    return TSNE(init=init, perplexity=perplexity, random_state=0).fit_transform(points)
