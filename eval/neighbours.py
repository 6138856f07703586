"""What a picture shares with its nearest pictures: the scores of `eval.backbones`, before any model is named.

    values = neighbours(vectors, vectors, read_labels(pictures), (5, 10))          # score → (N,), nan: does not ask

    product:hit@k          another picture of its product is among the k nearest
    product:map@k          average precision of those, cut at k (trec_eval's map_cut)
    category:agreement@k   the share of the k nearest pictures *of other products* that are of its category
    category:map@k         the mean of P@1 … P@k of the same (`paper_average_precision`): agreement high up counts more
    GROUP:agreement@k      the same share for the value of an attribute; candidates are pictures that have one
    attributes:agreement@k the mean over the groups that the picture has a value of

Pictures of the own product are no candidates for agreement: they would be found first and agree in everything. A
picture whose value no other product has, asks nothing. Ties stand against the model. Several values agree when all do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.chance import expected_values
from eval.metrics.means import known_mean, share
from eval.metrics.ranking import ranking_of_flags
from eval.metrics.relevance import Relevance
from eval.metrics.retrieval import average_precision, hit_at, paper_average_precision
from eval.metrics.search import top_k
from eval.retrieval_tasks import category_source
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Values = dict[str, NDArray[np.float64]]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Labels:
    """What N pictures are: their products, and for "category" and each group a value, "" where unknown."""

    items: NDArray[np.str_]
    groups: dict[str, NDArray[np.str_]]

    def take(self, rows: NDArray[Any]) -> Labels:
        """These pictures only."""
        return Labels(self.items[rows], {group: of[rows] for group, of in self.groups.items()})


def read_labels(pictures: Dataset, category: str | None = None, groups: Sequence[str] = ()) -> Labels:
    """The products, categories and attributes of all pictures.

    Raises:
        UserError: an unknown category or group.
    """
    from fclip.catalogue.schema import groups_of

    known = groups_of(pictures)
    if absent := [group for group in groups if group not in known]:
        raise UserError(f"no attribute group {absent[0]!r} in this catalogue; {nearest(absent[0], known)}")
    source = category_source(pictures, category)
    attributes = [cell or {} for cell in pictures["attributes"][:]]
    labels = {group: _column([of.get(group) for of in attributes]) for group in groups or known if group != source}
    if source is not None:
        column = source == "category" and "category" in pictures.features
        found = pictures["category"][:] if column else [of.get(source) for of in attributes]
        labels = {"category": _column(found)} | {group: of for group, of in labels.items() if group != "category"}
    return Labels(np.array(pictures["item"][:], str), {group: of for group, of in labels.items() if (of != "").any()})


def _column(values: Sequence[Any]) -> NDArray[np.str_]:
    """Several values are one label: they agree when all do."""
    return np.array(["; ".join(sorted(v)) if isinstance(v, (list, tuple)) else v or "" for v in values], str)


def check(shown: Labels, ks: Sequence[int]) -> None:
    """Raises UserError where a picture has fewer than k candidates."""
    if min(ks) < 1:
        raise UserError(f"expected k of at least 1, got {min(ks)}")
    for group, labels in {"": shown.items, **shown.groups}.items():
        items = shown.items[labels != ""]
        fewest = len(items) - int(np.unique(items, return_counts=True)[1].max(initial=0))
        if fewest < max(ks):
            of = f" that have {group}" if group else ""
            raise UserError(f"a picture has only {fewest} of other products{of} beside it, fewer than k = {max(ks)}; "
                            f"pass --k {max(fewest, 1)} or less, or take a larger split")  # fmt: skip


def neighbours(queries: Floats, gallery: Floats, shown: Labels, ks: Sequence[int]) -> Values:
    """Every score (N,) of every picture, nan where it does not ask.

    Args:
        queries, gallery: (N, D) the same pictures; two arrays because `by_distance` needs two.
    """
    rows, own = np.arange(len(shown.items)), Relevance.of_labels(shown.items, shown.items)
    values: Values = {}
    if (own.total > 1).any():
        ranking = top_k(queries, gallery, max(ks), own, rows).ranking
        values |= {f"product:hit@{k}": hit_at(ranking, k) for k in ks}
        values |= {f"product:map@{k}": average_precision(ranking, k) for k in ks}
    for group, labels in shown.groups.items():
        flags, total = _agreeing(queries, gallery, labels, shown.items, max(ks))
        values |= _agreement(group, flags, total, ks)
    return _with_mean(values, shown, ks)


def _agreeing(
    queries: Floats, gallery: Floats, labels: NDArray[Any], items: NDArray[Any], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N, k) do the nearest pictures of other products agree? and (N,) how many could; 0 for unknown values."""
    known = np.flatnonzero(labels != "")
    of, product = labels[known], items[known]
    most = int(np.unique(product, return_counts=True)[1].max()) - 1  # that may stand in front of the others
    depth = min(k + most, len(known) - 1)
    found = top_k(queries[known], gallery[known], depth, Relevance.of_labels(of, of), np.arange(len(known)))
    other = product[found.item] != product[:, None]
    keep = np.argsort(~other, axis=1, kind="stable")[:, :k]
    flags, total = np.zeros((len(labels), k)), np.zeros(len(labels), np.int64)
    flags[known] = np.take_along_axis(found.relevant, keep, 1)
    total[known] = _others_alike(of, product)
    return flags, total


def _others_alike(labels: NDArray[Any], items: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) pictures of other products with the same label."""
    _, alike, count = np.unique(labels, return_inverse=True, return_counts=True)
    _, product = np.unique(items, return_inverse=True)
    _, both, siblings = np.unique(np.stack([alike, product]), axis=1, return_inverse=True, return_counts=True)
    return count[alike] - siblings[both.ravel()]


def _agreement(group: str, flags: NDArray[np.float64], total: NDArray[np.int64], ks: Sequence[int]) -> Values:
    ranking = ranking_of_flags(flags > 0, total)
    values = {f"{group}:agreement@{k}": np.where(total > 0, flags[:, :k].mean(1), np.nan) for k in ks}
    if group == "category":
        values |= {f"category:map@{k}": paper_average_precision(ranking, k) for k in ks}
    return values


def _with_mean(values: Values, shown: Labels, ks: Sequence[int]) -> Values:
    groups = [group for group in shown.groups if group != "category"]
    if not groups:
        return values
    means = {k: known_mean(np.stack([values[f"{group}:agreement@{k}"] for group in groups]).T) for k in ks}
    return values | {f"attributes:agreement@{k}": np.asarray(mean) for k, mean in means.items()}


def chance(shown: Labels, ks: Sequence[int]) -> Values:
    """The expectation over all orders of the candidates; of agreement at any k the share of candidates that agree."""
    n, values = len(shown.items), {}
    _, product, size = np.unique(shown.items, return_inverse=True, return_counts=True)
    if (size > 1).any():
        expected = expected_values(size[product] - 1, np.full(n, n - 1), ks)
        values = {f"product:{name}@{k}": expected[f"{name}@{k}"] for name in ("hit", "map") for k in ks}
    for group, labels in shown.groups.items():
        known, shares = np.flatnonzero(labels != ""), np.full(n, np.nan)
        alike = _others_alike(labels[known], shown.items[known])
        _, of, siblings = np.unique(shown.items[known], return_inverse=True, return_counts=True)
        shares[known] = np.where(alike > 0, share(alike, len(known) - siblings[of]), np.nan)
        names = ["agreement", *(["map"] if group == "category" else [])]
        values |= {f"{group}:{name}@{k}": shares for name in names for k in ks}
    return _with_mean(values, shown, ks)
