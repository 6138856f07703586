"""Do the systems differ, and which from which? Rank tests over participants.

    friedman          do they differ at all? With Kendall's W: 0 nobody agrees with anybody, 1 all rank alike
    nemenyi           which pairs differ, from the mean ranks; critical_difference: how far apart they must be
    wilcoxon_holm     which pairs differ, from the participants' differences, corrected by Holm

Values are (P, S), participants by systems; a participant with a nan is left out, so that all systems are compared on
the same people. All are two-sided. Nemenyi is cautious, Wilcoxon with Holm finds more; neither looks at the other.

    >>> found = friedman(measured.values["rank"], more_is_better=False)
    >>> found.p, found.w, found.mean_ranks

Sources: Friedman, The use of ranks, 1937; Kendall & Babington Smith, The problem of m rankings, 1939; Nemenyi,
Distribution-free multiple comparisons, 1963; Wilcoxon, Individual comparisons by ranking methods, 1945; as recommended
by Demšar, Statistical comparisons of classifiers over multiple data sets, 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

from eval.metrics.significance import holm

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Friedman:
    """The test over all systems; nan where it cannot be computed."""

    participants: int  # who judged every system
    chi2: float
    p: float
    w: float  # Kendall's, 0 … 1
    mean_ranks: Array  # (S,) 1 is the best; ties share the mean of their places


def complete(values: Array) -> Array:
    """(n, S) the participants without nan."""
    return values[~np.isnan(values).any(1)]


def friedman(values: Array, more_is_better: bool) -> Friedman:
    """Friedman's test, corrected for ties; with two systems it is the sign test's approximation.

    Undefined, nan, below two participants or two systems, and when every participant finds all alike.
    """
    known = complete(values) * (-1 if more_is_better else 1)
    n, systems = known.shape
    mean_ranks = rankdata(known, axis=1).mean(0) if n else np.full(systems, math.nan)
    if n < 2 or systems < 2 or (known == known[:, :1]).all():
        return Friedman(n, math.nan, math.nan, math.nan, mean_ranks)
    if systems == 2:
        return _of_two(known, mean_ranks)
    chi2, p = friedmanchisquare(*known.T)
    return Friedman(n, float(chi2), float(p), float(chi2) / (n * (systems - 1)), mean_ranks)


def critical_difference(participants: int, systems: int, alpha: float = 0.05) -> float:
    """How far apart two mean ranks must be for Nemenyi's test."""
    q = studentized_range.ppf(1 - alpha, systems, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(systems * (systems + 1) / (6 * participants)))


def nemenyi(values: Array, more_is_better: bool) -> Array:
    """(S, S) p-values of all pairs, 1 on the diagonal; nan below two participants."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    known = complete(values) * (-1 if more_is_better else 1)
    if len(known) < 2:
        return np.full((values.shape[1],) * 2, math.nan)
    return np.asarray(posthoc_nemenyi_friedman(known), np.float64)


def wilcoxon_holm(values: Array) -> Array:
    """(S, S) p-values of all pairs, Holm over the pairs, 1 on the diagonal; nan below two participants.

    Participants who find two systems alike are left out of that pair, as Wilcoxon did; the p-value is exact where
    nobody is and no differences are tied, else normal (or, below 14 participants, over all signs: scipy's choice).
    """
    known, systems = complete(values), values.shape[1]
    pairs = list(combinations(range(systems), 2))
    p = np.array([_wilcoxon(known[:, a] - known[:, b]) for a, b in pairs])
    table = np.eye(systems)
    for (a, b), corrected in zip(pairs, holm(p), strict=True):
        table[a, b] = table[b, a] = corrected
    return table


def _wilcoxon(differences: Array) -> float:
    if len(differences) < 2:
        return math.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _of_two(known: Array, mean_ranks: Array) -> Friedman:
    """Friedman's formula with the correction for ties, written out."""
    from scipy.stats import chi2 as distribution

    signs = np.sign(known[:, 0] - known[:, 1])
    decided = int((signs != 0).sum())
    chi2 = float(signs.sum() ** 2 / decided)
    return Friedman(len(known), chi2, float(distribution.sf(chi2, 1)), chi2 / len(known), mean_ranks)
