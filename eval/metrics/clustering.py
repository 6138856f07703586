"""How good clusters are, with true classes (purity, NMI) and without (silhouette).

    >>> clustering_scores(vectors, clusters, classes)

Purity rises with the number of clusters and is 1 when each item has its own: read it beside NMI and the numbers of
clusters. The silhouette of raw high-dimensional embeddings is low even for good clusters; compare it within a model.
Sources: Manning, Raghavan & Schütze, Introduction to Information Retrieval, 2008, section 16.3 (purity, NMI);
Rousseeuw, Silhouettes, 1987. Silhouette and NMI (arithmetic mean of the entropies) are scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite

Labels = NDArray[Any]


def purity(clusters: Labels, classes: Labels) -> float:
    """Share of items that belong to the commonest class of their cluster: 1/N Σ_k max_j |cluster_k ∩ class_j|.

    nan without items.
    """
    _check(clusters, classes)
    if not len(clusters):
        return float("nan")
    cluster, of = (np.unique(labels, return_inverse=True)[1] for labels in (clusters, classes))
    width = of.max() + 1
    cells, counts = np.unique(cluster * width + of, return_counts=True)
    commonest = np.zeros(cluster.max() + 1, np.int64)
    np.maximum.at(commonest, cells // width, counts)
    return float(commonest.sum() / len(clusters))


def nmi(clusters: Labels, classes: Labels) -> float:
    """Normalised mutual information, 0 … 1: I(cluster; class) / mean of their entropies. nan without items."""
    from sklearn.metrics import normalized_mutual_info_score

    _check(clusters, classes)
    return float(normalized_mutual_info_score(classes, clusters)) if len(clusters) else float("nan")


def silhouette(
    vectors: NDArray[Any], clusters: Labels, metric: str = "cosine", sample: int | None = 10_000, seed: int = 0
) -> float:
    """Mean of (b - a) / max(a, b), a: mean distance to the own cluster, b: to the nearest other; -1 … 1.

    Args:
        vectors: (N, D).
        clusters: (N,).
        metric: of scikit-learn's distances.
        sample: items drawn when there are more, because time grows with their square; None: all.
        seed: of the draw.

    Returns: nan where it is not defined: one cluster only, or as many as items (drawn).
    """
    from sklearn.metrics import silhouette_score

    vectors = finite(vectors, "embeddings")
    _check(clusters, vectors)
    if sample is not None and len(vectors) > sample:
        drawn = np.random.default_rng(seed).choice(len(vectors), sample, replace=False)
        vectors, clusters = vectors[drawn], np.asarray(clusters)[drawn]
    if not 2 <= len(np.unique(clusters)) < len(vectors):
        return float("nan")
    return float(silhouette_score(vectors, clusters, metric=metric))


def clustering_scores(vectors: NDArray[Any], clusters: Labels, classes: Labels) -> dict[str, float]:
    """Silhouette, NMI and purity, and how many clusters and classes there are."""
    return {
        "silhouette": silhouette(vectors, clusters),
        "nmi": nmi(clusters, classes),
        "purity": purity(clusters, classes),
        "clusters": len(np.unique(clusters)),
        "classes": len(np.unique(classes)),
    }


def _check(clusters: Labels, others: Labels) -> None:
    if len(clusters) != len(others):
        raise ValueError(f"expected one cluster per item, got {len(clusters)} for {len(others)}")
