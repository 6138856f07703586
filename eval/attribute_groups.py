"""Attribute values as classes: which there are, which picture has which, and accuracy by group with intervals.

Every known (picture, value) is one question, a *pair*: is the value among the k best of its group? Other true values of
the picture do not stand against it. Where a group has one value a picture this is top-k accuracy.

    top1            share of all pairs, over the groups (micro)
    top1_macro      mean of the groups
    top1:colour     of one group
    balanced:colour the mean of the classes' top-1 recall; classes without pictures are left out, of resamples too

Top-3 is measured where a group has more than three values, elsewhere it would always be right. A group of one value is
no question and left out. Ties stand against the model (`eval.metrics.classification`). Intervals resample products.

    >>> groups = read_groups(whole, part)
    >>> scores = accuracy_scores({g.name: hits(scores_of[g.name], g) for g in groups}, groups, items)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eval.metrics.classification import per_class, top_k_accuracy
from eval.metrics.means import known_mean, share
from eval.metrics.search import TIE
from eval.metrics.uncertainty import cluster_ids, interval, ratio_samples, resampled_sums
from eval.metrics.vectors import slices
from eval.scores import LEVEL, Score, score
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Ints = NDArray[np.integer[Any]]
Array = NDArray[np.float64]
KS = (1, 3)
CELLS = 1 << 20  # scores in memory at once


class Scores(Protocol):
    """(N, C) scores of pictures: an array, or what computes the rows that it is asked for."""

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """(n, C) of these pictures."""
        ...


@dataclass(frozen=True)
class Group:
    """An attribute group with C values, and the P pairs of some pictures."""

    name: str
    values: tuple[str, ...]  # (C,) sorted
    row: Ints  # (P,) picture of each pair, ascending
    code: Ints  # (P,) its value

    @property
    def ks(self) -> tuple[int, ...]:
        """1, and 3 where that is a question."""
        return tuple(k for k in KS if k == 1 or k < len(self.values))

    def counts(self) -> Ints:
        """(C,) pairs of each value."""
        return np.bincount(self.code, minlength=len(self.values))

    def unseen(self, train: Group) -> list[str]:
        """The values of these pictures that no train picture has."""
        return [self.values[c] for c in np.flatnonzero((self.counts() > 0) & (train.counts() == 0))]


def vocabulary(whole: Dataset, only: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Group → its values in the whole catalogue, sorted; groups of fewer than two are not there.

    Args:
        only: these groups; none: all.

    Raises:
        UserError: there is no such group, it has fewer than two values, or no group has two.
    """
    from fclip.catalogue.schema import check_groups

    check_groups(whole, only)
    found: dict[str, set[str]] = {name: set() for name in only or whole.features["attributes"]}
    for cell in whole["attributes"]:
        for name, values in found.items():
            values |= set(values_of(cell.get(name)))
    known = {name: tuple(sorted(values)) for name, values in found.items() if len(values) > 1}
    if poor := [name for name in only if name not in known]:
        raise UserError(f"attribute group {poor[0]!r} has fewer than two values; there is nothing to tell apart")
    if not known:
        raise UserError(f"none of {len(found)} attribute groups has two values; there is nothing to tell apart")
    return known


def values_of(value: Any) -> list[str]:
    """One, several or no values as a list."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return sorted({v for v in values if v})


def read_groups(part: Dataset, known: Mapping[str, Sequence[str]]) -> dict[str, Group]:
    """The pairs of some pictures, group by group."""
    place = {name: {value: code for code, value in enumerate(values)} for name, values in known.items()}
    pairs: dict[str, list[tuple[int, int]]] = {name: [] for name in known}
    for row, cell in enumerate(part["attributes"]):
        for name, found in pairs.items():
            found += [(row, place[name][value]) for value in values_of((cell or {}).get(name))]
    columns = {name: np.array(found, np.int64).reshape(-1, 2) for name, found in pairs.items()}
    return {name: Group(name, tuple(known[name]), found[:, 0], found[:, 1]) for name, found in columns.items()}


def hits(scores: Scores, group: Group, tie: float = TIE, cells: int = CELLS) -> dict[int, Array]:
    """k → (P,) is the value of each pair among the k best? 1 or 0.

    Args:
        scores: (N, C) of the pictures, higher is better.
        tie: scores this close are equal.
        cells: scores in memory at once; changes the memory, never what is found.
    """
    found: dict[int, list[Array]] = {k: [np.zeros(0)] for k in group.ks}
    for rivals, code in _rivals(scores, group, cells):
        for k in group.ks:
            found[k].append(top_k_accuracy(rivals, code, k, tie))
    return {k: np.concatenate(parts) for k, parts in found.items()}


def chance_hits(group: Group) -> dict[int, Array]:
    """As `hits`, the expectation of a random order."""
    others = np.bincount(group.row, minlength=1)[group.row] - 1
    return {k: np.minimum(1, k / (len(group.values) - others)) for k in group.ks}


def confusion(scores: Scores, group: Group, tie: float = TIE, cells: int = CELLS) -> NDArray[np.int64]:
    """(C, C) pairs by true value and answer; of tied answers a wrong one. Arguments as `hits`."""
    table = np.zeros((len(group.values),) * 2, np.int64)
    for rivals, code in _rivals(scores, group, cells):
        own = np.arange(len(rivals)), code
        rivals[own] = np.nextafter(rivals[own] - tie, -np.inf)
        np.add.at(table, (code, rivals.argmax(1)), 1)
    return table


def accuracy_scores(
    answers: Mapping[str, Mapping[int, Array]],
    groups: Mapping[str, Group],
    items: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """The scores of the module's docstring.

    Args:
        answers: group → k → (P,) as `hits` gives them.
        items: (N,) products of the pictures.
    """
    products = cluster_ids(items)
    scores: dict[str, Score] = {}
    for k in KS:
        names = [name for name in answers if k in answers[name] and len(groups[name].row)]
        if not names:
            continue
        part, whole = np.zeros((2, products.max(initial=-1) + 1, len(names)))
        for column, name in enumerate(names):
            unit = products[groups[name].row]
            part[:, column] = np.bincount(unit, answers[name][k], len(part))
            whole[:, column] = np.bincount(unit, minlength=len(part))
        # The sums of all groups are the last column: their ratio is micro.
        part, whole = (np.column_stack([sums, sums.sum(1)]) for sums in (part, whole))
        samples = _with_macro(ratio_samples(part, whole, range(len(part)), resamples, seed))
        values = _with_macro(share(part.sum(0), whole.sum(0))[None])[0]
        titles = [f"top{k}:{name}" for name in names] + [f"top{k}", f"top{k}_macro"]
        rows = dict(zip(titles, zip(values, *interval(samples, LEVEL), strict=True), strict=True))
        scores |= {title: score(*rows[title]) for title in [*titles[-2:], *titles[:-2]]}
    for name, found in answers.items():
        scores[f"balanced:{name}"] = _balanced(found[1], groups[name], products, resamples, seed)
    return scores


def _balanced(right: Array, group: Group, products: Ints, resamples: int, seed: int) -> Score:
    """The mean of the classes' recall; a class that a resample lacks is left out of that resample's mean."""
    from scipy.sparse import csr_array

    value, n = known_mean(per_class(right, group.code, len(group.values))), int(products.max(initial=-1)) + 1
    if n < 2:  # one product tells nothing about others
        return score(value)
    where = products[group.row], group.code
    found, asked = (csr_array((of, where), (n, len(group.values))) for of in (right, np.ones(len(right))))
    part, whole = (resampled_sums(sums, resamples, seed) for sums in (found, asked))
    low, high = interval(known_mean(share(part, whole))[:, None], LEVEL)
    return score(value, low[0], high[0])


def class_recall(found: Mapping[int, Array], group: Group) -> dict[str, dict[str, Any]]:
    """Value → its top-1 recall and number of pictures; values without any are there too, without a recall."""
    recall = per_class(found[1], group.code, len(group.values))
    return {
        value: {"recall": score(of_class)["value"], "pictures": int(count)}
        for value, of_class, count in zip(group.values, recall, group.counts(), strict=True)
    }


def tables(result: Mapping[str, Any], heads: Sequence[str]) -> dict[str, dict[str, str]]:
    """What is printed of zero-shot prediction and probes: a table for each head, "linear:"; "" where there is one."""
    counts, names = result["counts"], ["top1", "top1_macro", "top3", "top3_macro"]
    names += [f"{score}:{group}" for group in result["groups"] for score in ("top1", "top3", "balanced")]
    title = f"{result['protocol']} on {counts['pictures']} pictures, {counts['products']} products"
    return {f"{title} {head.rstrip(':')}".rstrip(): {f"{head}{name}": name for name in names} for head in heads}


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What to know of the numbers; names the values that training never saw."""
    lines = [f"{g}: never in the train split: {', '.join(values)}" for g, values in result["unseen"].items()]
    lines += [f"{g} was left out: {why}" for g, why in result.get("groups_left_out", {}).items()]
    said = {
        "pictures could not be read; `skipped` in --json FILE names them": result["counts"]["unreadable"],
        "products are in the train split too: these scores are too good": result.get("products_in_train", 0),
    }
    return lines + [f"{number} {text}" for text, number in said.items() if number]


def _rivals(scores: Scores, group: Group, cells: int) -> Iterator[tuple[Array, Ints]]:
    """(p, C) scores of some pairs' pictures, other truths of the picture below everything; and their values (p,)."""
    step = max(1, cells // len(group.values))
    for part in slices(len(group.row), step):
        row, code = group.row[part], group.code[part]
        yield _without_other_truths(scores, group, row, code), code


def _without_other_truths(scores: Scores, group: Group, row: Ints, code: Ints) -> Array:
    """(p, C) the scores of each pair's picture, other true values of the same picture below everything."""
    rivals = np.asarray(scores[row], np.float64).copy()
    floor = rivals.min(initial=0) - 1
    first, last = np.searchsorted(group.row, row), np.searchsorted(group.row, row, side="right")
    for place in np.flatnonzero(last - first > 1):
        others = group.code[first[place] : last[place]]
        rivals[place, others[others != code[place]]] = floor
    return rivals


def _with_macro(ratios: Array) -> Array:
    return np.column_stack([ratios, known_mean(ratios[:, :-1])])
