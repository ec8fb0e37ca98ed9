"""An alarm for the two ways in which a self-supervised network stops telling images apart."""

LEAST_STD = 0.05  # of the embeddings; VICReg wants 1, and a floored run stays near 0.5
LEAST_RANK = 0.01  # of the representation, as a share of the rank it could have
ADVICE = (
    "Most often the rate is too high for this batch: lower --base-lr, or train with a larger --batch-size; a larger "
    "--std-coeff pushes against it, too strong an --augment (or a --sim-coeff) towards it"
)


def find_collapse(embedding_std, effective_rank, samples, features):
    """Say what has collapsed.

    Args:
        embedding_std: mean standard deviation of the embeddings over a batch (D numbers, averaged).
        effective_rank: of the representation, RankMe (Garrido et al. 2023). samples, features: the matrix it is of.

    Returns:
        a message, or None.
    """
    if embedding_std < LEAST_STD:
        found = f"the embeddings hardly differ any more (standard deviation {embedding_std:.3g}, below {LEAST_STD:g})"
    elif effective_rank < (least := max(2.0, LEAST_RANK * min(samples, features))):
        found = f"the representation has shrunk to {effective_rank:.1f} effective dimensions (below {least:.1f})"
    else:
        return None
    return f"warning: collapse: {found}. {ADVICE}"
