"""Retrieval between texts, pictures and products, in three protocols that published numbers use.

    python -m eval retrieval --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip

| task                | query          | gallery          | relevant: `own`                                           |
|---------------------|----------------|------------------|-----------------------------------------------------------|
| text_to_image       | a caption      | all pictures     | those of its product, and those with an equal caption     |
| image_to_text       | a picture      | unique captions  | those of its product                                      |
| image_to_image      | a picture      | all but itself   | other pictures of its product                             |
| category_to_product | a category     | products         | those of the category                                     |

`own` (the default) asks every caption of every product, every picture and every category, and has every metric of
`eval.metrics.retrieval` at k = 1, 5, 10. A product's vector is normalise(.9 · image + .1 · text): the mean of its
pictures and its caption *without the category*, which else would hold the answer.

`marqo`: unique texts are the queries, at most 2,000 drawn with the seed; pictures, never products, are the gallery, and
those with the query's text (or category) are relevant; a document is normalise(.9 · image + .1 · its whole text), which
may name the category asked for; the first 10 are kept, so MRR is MRR@10; recall is the share of relevant items found
(BEIR), `recall_avg` the mean of recall@1 and @10. Their own queries come with their data, as a list.

`clip-benchmark`: picture i and caption i are a pair, nothing else is relevant; recall is any-hit (`hit@k` here). An
equal caption of another picture is a wrong answer that no model can tell from the right one. Theirs then wins or loses
by the order of `torch.topk`; here ties go against the model, so with repeated captions these numbers are low.

torchmetrics and open_clip's trainer count pairs as CLIP_benchmark does; trec_eval and BEIR break ties by the documents'
names. Here, ties count against the model everywhere (`eval.metrics.ranking`).

Intervals resample products, captions or categories: what the queries of a task are of (`units`). Baselines: chance
(exact), the most frequent answer of train first, 16x16 pixels and colours (picture to picture), an untuned model. The
result's scores are called TASK:METRIC; `queries` tells the rank of the first relevant item of every query (0: below the
last k), `examples` some lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.baselines import by_distance, colour_histograms, thumbnails
from eval.metrics.chance import expected_values
from eval.metrics.retrieval import retrieval_values
from eval.metrics.search import Found, top_k
from eval.protocol import errors_of, note, open_untuned, train_rows
from eval.retrieval_answers import Embedded, answer, check, examples, most_frequent, relevant_of, texts_of, ties
from eval.retrieval_tasks import TASKS, Pictures, Task, marqo_tasks, own_tasks, pair_tasks, read_pictures
from eval.settings import DEFAULTS, Settings
from eval.subject import Subject, embed_images, embed_texts, head, mean_scores, open_subject
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

PROTOCOLS = {"own": (1, 5, 10), "marqo": (1, 10), "clip-benchmark": (1, 5, 10)}
"""Protocol → its k."""
MARQO_QUERIES = 2000
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Asked:
    """The tasks, the pictures that they are about, and what was left out."""

    tasks: dict[str, Task]
    shown: Dataset
    ks: tuple[int, ...]
    left_out: dict[str, str]


def run_retrieval(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    settings: Settings = DEFAULTS,
    *,
    protocol: str = "own",
    tasks: Sequence[str] = (),
    ks: Sequence[int] = (),
    category: str | None = None,
    image_weight: float = 0.9,
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue, split: as `eval.subject.open_subject`.
        settings: their seed also draws Marqo's queries.
        protocol: a key of `PROTOCOLS`.
        tasks: some of `TASKS`; none: those of the protocol that this split can be asked.
        ks: none: the protocol's.
        category: the column or attribute group of categories; None: the first of `retrieval_tasks.CATEGORIES`.
        image_weight: of a product's pictures against its caption.

    Raises:
        UserError: the input is not usable, fewer than k candidates, or no query has a relevant item.
    """
    target = settings.target
    _check_options(protocol, tasks, ks, image_weight)
    subject = open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    reference = open_untuned(settings.untuned, subject)
    if not tasks and any(one is not None and not one.reads_text for one in (subject.model, reference)):
        tasks = ("image_to_image",)  # the others ask or find words
    pictures = read_pictures(subject.pictures, subject.model.captions, category)
    images = embed_images(subject.model, subject.pictures, **settings.embedding)
    asked = _asked(subject, pictures.take(images.rows), images.rows, protocol, tasks, ks, image_weight, settings.seed)
    found = _found(subject.model, asked, images.vectors)
    values = {name: _values(f.ranking, asked.ks, protocol) for name, f in found.items()}
    result = _result(subject, asked, found, values, protocol, settings)
    result["counts"]["without_caption"] = sum(not text for text in pictures.texts)
    result["counts"]["unreadable"], result["skipped"] = len(images.skipped), [list(map(str, s)) for s in images.skipped]
    if settings.baselines:
        result["baselines"] = _baselines(subject, asked, found, protocol, category, settings)
    if reference is not None:
        other = embed_images(reference, asked.shown, **settings.embedding)
        theirs = _found(reference, asked, other.vectors)
        scores = _scores(asked, {n: _values(f.ranking, asked.ks, protocol) for n, f in theirs.items()}, settings)
        result.setdefault("baselines", {"left_out": {}})["untuned"] = scores
    options = {"protocol": protocol, "task": list(tasks), "k": list(ks), "category": category}
    note(result, subject, options | {"image-weight": image_weight} | settings.options, target)
    return result


def _check_options(protocol: str, tasks: Sequence[str], ks: Sequence[int], image_weight: float) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"no retrieval protocol {protocol!r}; {nearest(protocol, PROTOCOLS)}")
    if wrong := [task for task in tasks if task not in TASKS]:
        raise UserError(f"no retrieval task {wrong[0]!r}; {nearest(wrong[0], TASKS)}")
    if min(ks, default=1) < 1:
        raise UserError(f"expected k of at least 1, got {min(ks)}")
    if not 0 <= image_weight <= 1:
        raise UserError(f"expected an image weight in 0 … 1, got {image_weight}")


def _asked(
    subject: Subject,
    shown: Pictures,
    rows: NDArray[Any],
    protocol: str,
    names: Sequence[str],
    ks: Sequence[int],
    image_weight: float,
    seed: int,
) -> Asked:
    """The tasks that can be asked; one that was named and cannot be is an error."""
    makers = {"own": own_tasks, "marqo": marqo_tasks}
    known = makers[protocol](shown, image_weight) if protocol in makers else pair_tasks(shown)
    if absent := [name for name in names if name not in known]:
        raise UserError(f"protocol {protocol} has no task {absent[0]}; it has {', '.join(known)}")
    chosen, tasks, left_out = tuple(sorted({*ks} or PROTOCOLS[protocol])), {}, {}
    for name in names or known:
        task = known[name]()
        if not names and (not task.units or not (relevant_of(task) > 0).any()):
            left_out[name] = "no query has a relevant item" if task.units else f"the pictures have no {task.unit}"
            continue
        check(name, task, chosen)
        tasks[name] = task.sampled(MARQO_QUERIES, seed) if protocol == "marqo" else task
    if not tasks:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UserError(f"nothing can be retrieved in split {subject.split!r}: {reasons}; evaluate another split")
    return Asked(tasks, subject.pictures.select([int(row) for row in rows]), chosen, left_out)


def _found(model: Any, asked: Asked, pictures: NDArray[Any]) -> dict[str, Found]:
    texts = texts_of(list(asked.tasks.values()))
    vectors = embed_texts(model, texts) if texts else np.zeros((0, pictures.shape[1]), np.float32)
    embedded = Embedded(pictures, {text: i for i, text in enumerate(texts)}, vectors)
    with errors_of(model.name):
        return {name: answer(task, embedded, max(asked.ks)) for name, task in asked.tasks.items()}


def _values(ranking: Any, ks: Sequence[int], protocol: str) -> Values:
    return _of_protocol(retrieval_values(ranking, ks), ks, protocol)


def _of_protocol(values: Values, ks: Sequence[int], protocol: str) -> Values:
    """The metrics that a protocol reports."""
    if protocol == "clip-benchmark":
        return {f"hit@{k}": values[f"hit@{k}"] for k in ks}
    if protocol == "marqo":
        kept = {name: v for name, v in values.items() if not name.startswith(("hit", "paper_map"))}
        return kept | {"recall_avg": np.mean([values[f"recall@{k}"] for k in ks], axis=0)}
    return values


def _scores(asked: Asked, values: dict[str, Values], settings: Settings) -> dict[str, Any]:
    """Every task's scores, called TASK:METRIC."""
    scores: dict[str, Any] = {}
    for name, of_task in values.items():
        found = mean_scores(of_task, asked.tasks[name].units, *settings.resampling)
        scores |= {f"{name}:{metric}": score for metric, score in found.items()}
    return scores


def _result(
    subject: Subject,
    asked: Asked,
    found: dict[str, Found],
    values: dict[str, Values],
    protocol: str,
    settings: Settings,
) -> dict[str, Any]:
    counts: dict[str, Any] = {"pictures": len(asked.shown), "products": len(set(asked.shown["item"][:]))}
    counts["tasks"] = {
        name: {
            "queries": len(task.units),
            "without_relevant": int((found[name].ranking.total == 0).sum()),
            "gallery": len(task.gallery.names),
            "ties": ties(found[name]),
        }
        for name, task in asked.tasks.items()
    }
    result = head("retrieval", subject, counts, *settings.resampling) | {"variant": protocol, "k": list(asked.ks)}
    result["units"] = {name: task.unit for name, task in asked.tasks.items()}
    result["tasks_left_out"] = asked.left_out
    if subject.split not in ("train", "all"):
        trained = {subject.whole["item"][row] for row in train_rows(subject)}
        result["products_in_train"] = len(trained & set(asked.shown["item"][:]))
    result["metrics"] = _scores(asked, values, settings)
    result["queries"] = {
        name: {"unit": task.units, "first": found[name].ranking.first.tolist()} for name, task in asked.tasks.items()
    }
    result["examples"] = {name: examples(task, found[name]) for name, task in asked.tasks.items()}
    return result


def _baselines(
    subject: Subject,
    asked: Asked,
    found: dict[str, Found],
    protocol: str,
    category: str | None,
    settings: Settings,
) -> dict[str, Any]:
    """Chance, frequency, pixels and colours, each on the tasks that it can answer."""
    ks, left_out = asked.ks, {}
    values: dict[str, dict[str, Values]] = {"chance": {}, "most_frequent": {}, "pixels": {}, "histogram": {}}
    train = subject.whole.select(train_rows(subject))
    known = read_pictures(train, subject.model.captions, category) if len(train) else Pictures([], [], [], [], [])
    for name, task in asked.tasks.items():
        ranking = found[name].ranking
        values["chance"][name] = _of_protocol(expected_values(ranking.total, ranking.candidates, ks), ks, protocol)
        frequent = Counter(filter(None, known.categories if name == "category_to_product" else known.texts))
        if (popular := most_frequent(task, frequent, max(ks))) is not None:
            values["most_frequent"][name] = _values(popular.ranking, ks, protocol)
    if not values["most_frequent"]:
        left_out["most_frequent"] = "there is no train split to count in"
    if (pictures := asked.tasks.get("image_to_image")) is not None:
        for name, (queries, gallery) in looks(asked.shown).items():
            nearby = top_k(queries, gallery, max(ks), pictures.relevance, pictures.exclude)
            values[name]["image_to_image"] = _values(nearby.ranking, ks, protocol)
    else:
        left_out |= dict.fromkeys(("pixels", "histogram"), "they find pictures by pictures only")
    scores = {name: _scores(asked, of_tasks, settings) for name, of_tasks in values.items() if of_tasks}
    return scores | {"left_out": left_out}


def looks(shown: Dataset) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Pictures without a model, as queries and as gallery: "pixels" and "histogram"."""
    rows = np.arange(len(shown))
    small, read = thumbnails(shown, rows)
    colours, seen = colour_histograms(shown, rows)
    assert len(read) == len(seen) == len(rows), "the model read pictures that cannot be read"
    return {"pixels": by_distance(small), "histogram": (colours, colours)}


def tables(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What is printed: a table for each task, without the metrics that repeat others."""
    kept = [name.split(":", 1)[1] for name in result["metrics"] if not name.split(":", 1)[1].startswith("paper_map")]
    kept = list(dict.fromkeys(name for name in kept if name not in ("precision@1", "mrr@1", "ndcg@1", "map@1")))
    counts = result["counts"]["tasks"]
    return {
        f"{task} ({result['variant']}): {counts[task]['queries']} queries among {counts[task]['gallery']}": {
            f"{task}:{metric}": metric for metric in kept
        }
        for task in result["units"]
    }


def remarks(result: dict[str, Any]) -> list[str]:
    """What to know of the numbers."""
    counts = result["counts"]
    lines = [f"{task} was not asked: {why}" for task, why in result["tasks_left_out"].items()]
    for task, of_task in counts["tasks"].items():
        if of_task["without_relevant"]:
            lines.append(f"{task}: {of_task['without_relevant']} queries have no relevant item and were left out")
        if of_task["ties"]:
            lines.append(f"{task}: {of_task['ties']} queries had tied best items, settled against the model")
    if counts["unreadable"]:
        lines.append(f"{counts['unreadable']} pictures could not be read; `skipped` in --json FILE names them")
    if counts["without_caption"]:
        lines.append(f"{counts['without_caption']} pictures have no caption")
    if result.get("products_in_train"):
        lines.append(f"{result['products_in_train']} products are in the train split too: these scores are too good")
    return lines
