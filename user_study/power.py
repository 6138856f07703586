"""How many participants show a difference of a given size? Simulated before the study is run.

    python -m user_study power --systems 4 --worths 2.75,1,1,1 --participants 20,40,60

Simulated participants rank by Plackett and Luce: of the systems that are left each takes system i next with probability
w_i / Σ w. Two systems of worths 2.75 and 1 alone: the first is preferred in 2.75 / 3.75 = 73 % of cases. A study of P
participants is simulated many times; its power is the share of times that a test finds what is there:

    friedman    that the systems differ at all
    nemenyi     that the best beats the second best, by mean ranks
    wilcoxon    the same by participants' differences, corrected by Holm over all pairs

A test that points the wrong way has not found it. With equal worths the first column is the error of the first kind.

Source: the tests of `user_study.statistics`; Plackett-Luce sampling by Gumbel noise: Yellott, The relationship between
Luce's choice axiom, Thurstone's theory of comparative judgment, and the double exponential distribution, 1977.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, wilcoxon

from eval.metrics.significance import holm
from user_study.statistics import critical_difference

Array = NDArray[np.float64]
WANTED = 0.8
"""The power that is usually asked for."""
STEP = 100
"""Studies simulated at once."""


@dataclass(frozen=True)
class Power:
    """What a study of so many participants finds."""

    participants: int
    critical_difference: float  # Nemenyi's, in ranks
    friedman: float
    nemenyi: float
    wilcoxon: float
    mean_ranks: Array  # (S,) expected

    def error(self, trials: int) -> float:
        """Half the width of the widest 95 % interval of the three shares."""
        return max(1.96 * (p * (1 - p) / trials) ** 0.5 for p in (self.friedman, self.nemenyi, self.wilcoxon))


def simulate_ranks(worths: Sequence[float], participants: int, studies: int, rng: np.random.Generator) -> Array:
    """(studies, participants, S) ranks by Plackett-Luce, 1 the best."""
    utility = np.log(np.asarray(worths, np.float64)) + rng.gumbel(size=(studies, participants, len(worths)))
    return ((-utility).argsort(-1).argsort(-1) + 1).astype(np.float64)


def power(
    worths: Sequence[float],
    participants: int,
    trials: int = 2000,
    seed: int = 0,
    alpha: float = 0.05,
    done: Callable[[int], None] = lambda _: None,
) -> Power:
    """Simulates studies.

    Args:
        worths: of the systems, in any unit; the best is tested against the second best, the first of equals.
        done: told after every step how many studies are simulated.

    Raises:
        ValueError: fewer than two systems or participants, or a worth that is not above 0.
    """
    if len(worths) < 2 or participants < 2 or not all(0 < worth < float("inf") for worth in worths):
        raise ValueError(f"expected two worths above 0 and two participants, or more; got {worths}, {participants}")
    rng, found, ranks = np.random.default_rng(seed), np.zeros(3), np.zeros(len(worths))
    for start in range(0, trials, STEP):
        studies = simulate_ranks(worths, participants, min(STEP, trials - start), rng)
        found += detections(studies, worths, alpha).sum(0)
        ranks += studies.mean(1).sum(0)
        done(len(studies))
    whole, nemenyi, pairs = (found / trials).tolist()
    apart = critical_difference(participants, len(worths), alpha)
    return Power(participants, apart, whole, nemenyi, pairs, ranks / trials)


def detections(studies: Array, worths: Sequence[float], alpha: float) -> NDArray[np.bool_]:
    """(studies, 3) what Friedman, Nemenyi and Wilcoxon with Holm find in each study.

    Args:
        studies: (studies, participants, S) ranks without ties.
    """
    _, n, systems = studies.shape
    best, second = np.argsort(-np.asarray(worths, np.float64), kind="stable")[:2].tolist()
    means = studies.mean(1)
    statistic = 12 * n / (systems * (systems + 1)) * ((means - (systems + 1) / 2) ** 2).sum(1)
    ahead = means[:, second] - means[:, best]
    pairs = list(combinations(range(systems), 2))
    differences = np.stack([studies[:, :, a] - studies[:, :, b] for a, b in pairs], 2)
    p = wilcoxon(differences, axis=1, method="asymptotic").pvalue
    own = pairs.index((min(best, second), max(best, second)))
    corrected = np.array([holm(row)[own] for row in p])
    return np.column_stack(
        [
            statistic > chi2.ppf(1 - alpha, systems - 1),
            ahead > critical_difference(n, systems, alpha),
            (corrected <= alpha) & (ahead > 0),
        ]
    )


def enough(found: Sequence[Power], name: str, wanted: float = WANTED) -> int | None:
    """The fewest of the simulated numbers of participants from which on a test's power is as wanted; None: none is."""
    rows = sorted(found, key=lambda row: row.participants)
    short = [i for i, row in enumerate(rows) if getattr(row, name) < wanted]
    after = rows[max(short, default=-1) + 1 :]
    return after[0].participants if after else None
