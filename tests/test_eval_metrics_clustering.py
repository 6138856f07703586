"""Clustering scores against loops that say the definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.clustering import clustering_scores, nmi, purity, silhouette

labellings = st.lists(st.tuples(st.integers(0, 3), st.integers(5, 8)), min_size=1, max_size=20)


def entropy(labels):
    return -sum(n / len(labels) * np.log(n / len(labels)) for n in Counter(labels).values())


@settings(max_examples=40, deadline=None)
@given(labellings, st.permutations(range(4)))
def test_purity_and_nmi_agree_with_their_definitions_whatever_clusters_are_called(pairs, names):
    clusters, classes = map(list, zip(*pairs, strict=True))
    within = [Counter(c for k, c in pairs if k == cluster) for cluster in set(clusters)]
    expected = sum(max(counts.values()) for counts in within) / len(pairs)
    renamed = np.array(names)[clusters]
    assert purity(np.array(clusters), np.array(classes)) == purity(renamed, np.array(classes)) == expected
    shared, mean = entropy(clusters) + entropy(classes) - entropy(pairs), (entropy(clusters) + entropy(classes)) / 2
    assert nmi(renamed, np.array(classes)) == pytest.approx(shared / mean if mean else 1, abs=1e-9)


def test_silhouette_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    vectors, clusters = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    vectors[clusters == 1] += 2
    clusters[0] = 9  # a cluster of one counts 0
    distances, values = np.linalg.norm(vectors[:, None] - vectors, axis=2), []
    for i in range(40):
        members = {c: (clusters == c) & (np.arange(40) != i) for c in (0, 1, 2, 9)}
        mean = {c: distances[i, rows].mean() for c, rows in members.items() if rows.any()}
        own, other = mean.get(clusters[i]), min(d for c, d in mean.items() if c != clusters[i])
        values.append(0 if own is None else (other - own) / max(own, other))
    assert silhouette(vectors, clusters, "euclidean") == pytest.approx(np.mean(values))
    drawn = silhouette(vectors, clusters, "euclidean", sample=35, seed=1)
    assert drawn == silhouette(vectors, clusters, "euclidean", sample=35, seed=1) != np.mean(values)


def test_what_is_not_defined_is_nan_or_an_error():
    vectors = np.eye(4)
    assert np.isnan(silhouette(vectors, np.zeros(4)))
    assert np.isnan(silhouette(vectors, np.arange(4)))
    assert np.isnan([purity([], []), nmi([], [])]).all()
    with pytest.raises(ValueError, match="one cluster per item"):
        purity([0], [0, 1])
    with pytest.raises(ValueError, match="finite"):
        silhouette(vectors * np.nan, np.zeros(4))


def test_all_scores_at_once():
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1], 10)
    vectors = np.eye(8)[classes] + 0.01 * rng.normal(size=(20, 8))
    scores = clustering_scores(vectors, np.array(["b", "a"])[classes], classes)
    assert (scores["nmi"], scores["purity"], scores["clusters"], scores["classes"]) == (pytest.approx(1), 1, 2, 2)
    assert 0.95 < scores["silhouette"] <= 1
