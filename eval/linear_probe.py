"""A linear probe: multinomial logistic regression with an L2 penalty, for many strengths of it in little time.

    scores, strength = linear_scores(train_vectors, test_vectors, pairs, held_out)

minimises, over weights W (D, C) and intercepts b (C,) that are not penalised, scikit-learn's objective

    Σ −log softmax(xW + b)[own class] + ‖W‖² / 2C

by SciPy's L-BFGS on other variables: features are turned to their principal axes, and each weight is divided by the
root of its second derivative where all pictures are answered with the classes' frequencies. The minimum is the same,
the way to it a fraction of the iterations, and a stop that is worth its name: scikit-learn's L-BFGS at its own
tolerance can be far from it for rare classes. Matrices are float32, sums float64.

The strengths C are a path from the simplest model, each begun where the last ended; it ends where the held-out accuracy
has fallen by more than its standard error.

Sources: Radford et al., CLIP, 2021, section 3.2 (the probe); Friedman, Hastie & Tibshirani 2010 (warm-started paths).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.attribute_groups import Group, hits

STRENGTHS = tuple(10.0**e for e in range(-4, 2))
TOLERANCE, ITERATIONS = 1e-4, 500
MOST_VALUES = 1000  # of a group: beyond, a probe is another problem
Floats = NDArray[np.floating[Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Axes:
    """What turns D features to their principal axes, of a size that does not depend on the model."""

    mean: Floats  # (D,)
    turn: Array  # (D, D)

    @classmethod
    def of(cls, learnt: Floats) -> Axes:
        """Centres and divides by one number, so that C means the same for every model."""
        mean = learnt.mean(0)
        centred = learnt - mean
        scale = max(float(centred.std()), 1e-9)
        return cls(mean, np.linalg.eigh(np.asarray(centred.T @ centred, np.float64))[1] / scale)

    def __call__(self, vectors: Floats) -> NDArray[np.float32]:
        """(N, D) features."""
        return ((vectors - self.mean) @ self.turn).astype(np.float32)


def linear_scores(
    learnt: Floats, tested: Floats, train: Group, held_out: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    """(N, C) log-probabilities of the tested pictures, and the C that was chosen.

    A value without train pictures is below all others.

    Args:
        learnt, tested: embeddings (T, D) and (N, D).
        train: pairs of the T pictures.
        held_out: (T,) train pictures that choose C.
    """
    axes = Axes.of(learnt)
    features, asked = axes(learnt), axes(tested)
    scores = np.full((len(tested), len(train.values)), -1e9)
    strength, start = _choose(features, train, held_out)
    seen, code = np.unique(train.code, return_inverse=True)
    if len(seen) < 2:  # nothing to fit
        scores[:, seen] = 0
        return scores, strength
    kept = None if start is None or start.shape[1] != len(seen) else start
    scores[:, seen] = log_probabilities(asked, fit(features[train.row], code, strength, kept, TOLERANCE / 3))
    return np.maximum(scores, -1e9), strength


def _choose(features: NDArray[np.float32], train: Group, held_out: NDArray[np.bool_]) -> tuple[float, Array | None]:
    """The best strength on the pictures that are held out, of equally good ones the smallest; and its weights."""
    aside = held_out[train.row]
    seen, code = np.unique(train.code[~aside], return_inverse=True)
    chosen, weights, best = STRENGTHS[len(STRENGTHS) // 2], None, -1.0
    if not aside.any() or len(seen) < 2:
        return chosen, None
    check = Group(train.name, train.values, train.row[aside], train.code[aside])
    rows, last = np.unique(check.row), None
    asked = Group(check.name, check.values, np.searchsorted(rows, check.row), check.code)
    known = features[train.row[~aside]]
    for strength in STRENGTHS:
        last = fit(known, code, strength, last)
        scores = np.full((len(rows), len(train.values)), -1e9)
        scores[:, seen] = log_probabilities(features[rows], last)
        right = float(hits(np.maximum(scores, -1e9), asked, 0.0)[1].mean())
        if right > best:
            chosen, weights, best = strength, last, right
        elif right < best - np.sqrt(best * (1 - best) / len(asked.row)):
            break
    return chosen, weights


def fit(
    features: NDArray[np.float32], code: NDArray[Any], strength: float, start: Array | None = None,
    tolerance: float = TOLERANCE,
) -> Array:  # fmt: skip
    """Weights (D + 1, C), the intercepts last.

    Args:
        features: (P, D) on their principal axes; on others the minimum is the same and takes longer.
        code: (P,) classes 0 … C-1, each at least once.
        strength: scikit-learn's C.
        start: weights to begin with.
        tolerance: largest entry of the gradient at the end.
    """
    from scipy.optimize import minimize

    n, penalty = len(code), 1 / (strength * len(code))
    share = np.bincount(code) / n
    spread = share * (1 - share)
    curvature = np.vstack([np.outer((features.astype(np.float64) ** 2).mean(0), spread) + penalty, spread])
    unit = 1 / np.sqrt(curvature)
    if start is None:
        start = np.zeros(unit.shape)
        start[-1] = np.log(share)

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(unit.shape) * unit
        loss, gradient = cross_entropy(features, code, weights)
        gradient[:-1] += penalty * weights[:-1]
        return loss + penalty / 2 * float((weights[:-1] ** 2).sum()), (gradient * unit).ravel()

    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 1e-12}
    found = minimize(objective, (start / unit).ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x.reshape(unit.shape) * unit)


def cross_entropy(features: NDArray[np.float32], code: NDArray[Any], weights: Array) -> tuple[float, Array]:
    """Its mean over P pairs, and the gradient (D + 1, C)."""
    rows = np.arange(len(code))
    scores = _linear(features, weights)
    scores -= scores.max(1, keepdims=True)
    own = scores[rows, code].astype(np.float64)
    total = np.exp(scores, out=scores).sum(1)
    scores /= total[:, None]
    scores[rows, code] -= 1
    gradient = np.vstack([features.T @ scores, scores.sum(0, dtype=np.float64)]) / len(code)
    return float((np.log(total.astype(np.float64)) - own).mean()), gradient.astype(np.float64)


def log_probabilities(features: NDArray[np.float32], weights: Array) -> Array:
    """(N, C) of (N, D)."""
    from scipy.special import log_softmax

    return np.asarray(log_softmax(_linear(features, weights).astype(np.float64), axis=1))


def _linear(features: NDArray[np.float32], weights: Array) -> NDArray[np.float32]:
    narrow = weights.astype(np.float32)
    return features @ narrow[:-1] + narrow[-1]
