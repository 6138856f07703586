"""Pictures asked, pictures found, products as truth: what `eval.inshop` and `eval.consumer2shop` share.

    measured = measure_pictures(subject, queries, gallery, "inshop", (1, 20), Settings(bootstrap=0))

Of N queries against a gallery of M pictures, which never holds the query itself:

    hit@k        is a picture of the query's product among the k nearest? DeepFashion's "top-k retrieval accuracy"; many
                 papers call it recall@k
    map          average precision over the *whole* gallery, mean over queries (trec_eval's `map`)
    r_precision  the share of the R nearest that is of the product, R = its pictures in the gallery
    mrr@k        1 / rank of the first picture of the product, for the largest k

Ties stand against the model. Widely copied code (of Proxy-Anchor and after) counts `negatives > nearest positive` and
accepts fewer than k: a model that gives every picture the same vector then has R@1 = 100 %. Products that the gallery
does not hold make a query without an answer: it is left out and counted, where others count 0. Unreadable pictures are
left out and counted. Pictures are seen whole, as the model's preprocessing makes them, without boxes, landmarks, random
crops or flips; numbers from cropped pictures are of another task. Intervals resample products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.baselines import by_distance, colour_histograms, thumbnails
from eval.metrics.chance import expected_values, expected_whole
from eval.metrics.ranking import Ranking
from eval.metrics.relevance import Relevance
from eval.metrics.retrieval import average_precision, hit_at, r_precision, reciprocal_rank_at
from eval.metrics.search import Found, rank_embeddings, top_k
from eval.protocol import errors_of, open_untuned
from eval.retrieval_answers import examples, ties
from eval.retrieval_tasks import Task, Things
from eval.settings import Settings
from eval.subject import Subject, embed_images, head, mean_scores
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

KS = (1, 5, 10, 20, 30, 50)
Floats = NDArray[np.floating[Any]]
Values = dict[str, NDArray[np.float64]]


def measure_pictures(
    subject: Subject, queries: Dataset, gallery: Dataset, protocol: str, ks: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Asks every query picture for its product in the gallery.

    Args:
        queries, gallery: parts of the catalogue without a picture in common.
        ks: ranks to score at.

    Raises:
        UserError: fewer than k candidates, no query with an answer, or embeddings that are not finite.
    """
    assert not set(queries["id"][:]) & set(gallery["id"][:]), "a picture is its own answer"
    untuned, ks = open_untuned(settings.untuned, subject), tuple(sorted({*ks}))
    images = _embedded(subject.model, queries, gallery, settings)
    asked, shown = queries.select(images[0].rows), gallery.select(images[1].rows)
    task = _task(asked, shown)
    _check(protocol, task, ks)
    with errors_of(subject.model.name):
        ranking, found = _ranked(images[0].vectors, images[1].vectors, task.relevance, max(ks))
    skipped = [image.skipped for image in images]
    result = head(protocol, subject, _counts(task, ranking, found, skipped), *settings.resampling)
    result |= {"k": list(ks), "skipped": [[str(n), str(why)] for part in skipped for n, why in part]}
    result["metrics"] = _scores(_values(ranking, ks), task, settings)
    result["queries"] = {protocol: {"unit": task.units, "first": ranking.first.tolist()}}
    result["examples"] = {protocol: examples(task, found)}
    beside = _baselines(asked, shown, task, ranking, ks, settings) if settings.baselines else {}
    if untuned is not None:
        theirs = _embedded(untuned, asked, shown, settings)
        with errors_of(untuned.name):
            other = rank_embeddings(theirs[0].vectors, theirs[1].vectors, task.relevance)
        beside["untuned"] = _scores(_values(other, ks), task, settings)
    return result | ({"baselines": beside} if beside else {})


def _embedded(model: Any, queries: Dataset, gallery: Dataset, settings: Settings) -> list[Any]:
    return [embed_images(model, part, **settings.embedding) for part in (queries, gallery)]


def _task(queries: Dataset, gallery: Dataset) -> Task:
    asked, items = list(queries["item"][:]), list(gallery["item"][:])
    sides = [Things(list(part["id"][:]), pictures=np.arange(len(part))) for part in (queries, gallery)]
    return Task(sides[0], sides[1], Relevance.of_labels(asked, items), asked, "product")


def _check(protocol: str, task: Task, ks: Sequence[int]) -> None:
    if min(ks) < 1:
        raise UserError(f"expected k of at least 1, got {min(ks)}")
    if (candidates := len(task.gallery.names)) < max(ks):
        raise UserError(
            f"{protocol}: a gallery of {candidates} pictures is fewer than k = {max(ks)}; pass --k {candidates} or less"
        )
    if not (task.relevance.total > 0).any():
        raise UserError(
            f"{protocol}: none of {len(task.units)} queries has its product in the gallery; "
            "check that the partition is of this benchmark"
        )


def _ranked(queries: Floats, gallery: Floats, relevance: Relevance, k: int) -> tuple[Ranking, Found]:
    return rank_embeddings(queries, gallery, relevance), top_k(queries, gallery, max(k, 2), relevance)


def _values(ranking: Ranking, ks: Sequence[int]) -> Values:
    values = {f"hit@{k}": hit_at(ranking, k) for k in ks}
    values |= {"map": average_precision(ranking), "r_precision": r_precision(ranking)}
    return values | {f"mrr@{max(ks)}": reciprocal_rank_at(ranking, max(ks))}


def _scores(values: Values, task: Task, settings: Settings) -> dict[str, Any]:
    return dict(mean_scores(values, task.units, *settings.resampling))


def _counts(task: Task, ranking: Ranking, found: Found, skipped: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {
        "queries": len(task.units),
        "products": len(set(task.units)),
        "gallery": len(task.gallery.names),
        "without_relevant": int((ranking.total == 0).sum()),
        "ties": ties(found),
        "unreadable": len(skipped[0]) + len(skipped[1]),
        "unreadable_queries": len(skipped[0]),
    }


def _baselines(
    asked: Dataset, shown: Dataset, task: Task, ranking: Ranking, ks: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Chance, pixels and colours; a most frequent answer is none of a product that training never saw."""
    total = ranking.total
    expected = expected_values(total, ranking.candidates, ks) | expected_whole(total, ranking.candidates)
    values = {"chance": {name: expected[name] for name in _values(ranking, ks)}}
    (small, _), (candidates, _) = (thumbnails(part, np.arange(len(part))) for part in (asked, shown))
    together = by_distance(np.concatenate([small, candidates]))
    pixels = together[0][: len(small)], together[1][len(small) :]
    (colours, _), (others, _) = (colour_histograms(part, np.arange(len(part))) for part in (asked, shown))
    for name, (queries, gallery) in {"pixels": pixels, "histogram": (colours, others)}.items():
        values[name] = _values(rank_embeddings(queries, gallery, task.relevance), ks)
    left_out = {"most_frequent": "products of the test are not in train, so none of them is frequent there"}
    return {name: _scores(of, task, settings) for name, of in values.items()} | {"left_out": left_out}


def tables(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What is printed."""
    counts = result["counts"]
    title = f"{result['protocol']}: {counts['queries']} queries of {counts['products']} products among "
    return {f"{title}{counts['gallery']} pictures": {name: name for name in result["metrics"]}}


def remarks(result: dict[str, Any]) -> list[str]:
    """What to know of the numbers."""
    said = {
        "queries have no picture of their product in the gallery and were left out": "without_relevant",
        "queries had tied nearest pictures, settled against the model": "ties",
        "pictures could not be read; `skipped` in --json FILE names them": "unreadable",
    }
    return [f"{result['counts'][key]} {text}" for text, key in said.items() if result["counts"][key]]
