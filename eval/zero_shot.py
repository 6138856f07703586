"""Zero-shot attribute prediction: the value whose prompts are nearest to the picture.

    python -m eval zero-shot --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip

A value is a class; its vector is the normalised mean of the normalised embeddings of its prompts (`eval.prompts`; CLIP,
section 3.1.4), its score the cosine to the picture. Candidates are all values of the group in the whole catalogue, also
those that no train picture has: these are named (`unseen`). Accuracies: `eval.attribute_groups`. Published zero-shot
numbers differ by their prompts more than by anything else: an untuned model is therefore asked with the same ones.

CLIP_benchmark's zeroshot_classification is the same for one group with one value a picture, but breaks ties by the
order of the classes; its `mean_per_class_recall` is `balanced:GROUP` here.

Baselines: chance (exact); the most frequent values of train (of the split itself where there is no train split); the
values of the train pictures that are nearest in 16x16 pixels or in colours, a value as near as the nearest picture that
has it; the first prompt alone; an untuned model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.attribute_groups import (
    Group,
    Scores,
    accuracy_scores,
    chance_hits,
    class_recall,
    confusion,
    hits,
    read_groups,
    vocabulary,
)
from eval.baselines import by_distance, colour_histograms, thumbnails
from eval.classes import ClassCosines, class_vectors
from eval.metrics.vectors import UnitRows, slices, unit_rows
from eval.prompts import prompts, templates_with
from eval.protocol import errors_of, note, open_untuned, train_rows
from eval.settings import DEFAULTS, Settings
from eval.subject import Subject, embed_images, head, open_subject
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ScoresOf = Callable[[Group], Scores]
"""Group → (N, C), higher is better."""
WIDEST = 60  # values up to which a group's confusion matrix is told


def run_zero_shot(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    settings: Settings = DEFAULTS,
    *,
    groups: Sequence[str] = (),
    templates: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue, split: as `eval.subject.open_subject`.
        settings: the untuned model is asked with the same prompts.
        groups: attribute groups; none: all with two values or more.
        templates: as `eval.prompts.templates_with` takes them.

    Raises:
        UserError: the input is not usable, or nothing is known of the split's pictures.
    """
    target, known_templates = settings.target, templates_with(templates)
    subject = open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    subject.model.require_text()
    reference, known = open_untuned(settings.untuned, subject), vocabulary(subject.whole, groups)
    images = embed_images(subject.model, subject.pictures, **settings.embedding)
    shown = subject.pictures.select([int(row) for row in images.rows])
    asked = known_groups(shown, known, split)
    said = {
        (g.name, v): prompts(g.name, v, subject.model.captions, known_templates)
        for g in asked.values()
        for v in g.values
    }
    with errors_of(subject.model.name):
        pictures = unit_rows(images.vectors, "image")
    scores = by_prompts(subject.model, pictures, said)
    answers = {name: hits(scores(group), group) for name, group in asked.items()}
    items = [str(item) for item in shown["item"][:]]
    result = head("zero-shot", subject, counts_of(asked, items, len(images.skipped)), *settings.resampling)
    result |= {"groups": list(asked), "skipped": [list(map(str, s)) for s in images.skipped]}
    result["prompts"] = {name: {v: said[name, v] for v in group.values} for name, group in asked.items()}
    train = read_groups(subject.whole.select(train_rows(subject)), known)
    result["unseen"] = unseen(asked, train)
    result["metrics"] = accuracy_scores(answers, asked, items, *settings.resampling)
    result["per_class"] = {name: class_recall(answers[name], group) for name, group in asked.items()}
    result["confusion"] = {name: confusion_of(scores(group), group) for name, group in asked.items()}
    others: dict[str, ScoresOf] = {}
    if settings.baselines:
        others["single_prompt"] = by_prompts(subject.model, pictures, {key: p[:1] for key, p in said.items()})
    if reference is not None:
        theirs = embed_images(reference, shown, **settings.embedding)
        with errors_of(reference.name):
            others["untuned"] = by_prompts(reference, unit_rows(theirs.vectors, "image"), said)
    measured = baseline_answers(subject, shown, asked, train) if settings.baselines else ({}, {})
    beside = measured[0] | {
        name: {g: hits(of(group), group) for g, group in asked.items()} for name, of in others.items()
    }
    found = {name: accuracy_scores(of, asked, items, *settings.resampling) for name, of in beside.items()}
    if found:
        result["baselines"] = found | {"left_out": measured[1]}
    options = {"group": list(groups), "prompt": list(templates)} | settings.options
    note(result, subject, options, target)
    return result


def known_groups(shown: Dataset, known: Mapping[str, Sequence[str]], split: str) -> dict[str, Group]:
    """The groups of which something is known on these pictures.

    Raises:
        UserError: nothing is.
    """
    found = {name: group for name, group in read_groups(shown, known).items() if len(group.row)}
    if not found:
        raise UserError(f"no attribute of {', '.join(known)} is known of the pictures of split {split!r}")
    return found


def by_prompts(model: Any, pictures: UnitRows, said: Mapping[tuple[str, str], Sequence[str]]) -> ScoresOf:
    """Cosines of pictures to the classes of a group, a part of the pictures at a time.

    Args:
        said: (group, value) → prompts.
    """
    vectors = class_vectors(model, said)
    return lambda group: ClassCosines(pictures, np.stack([vectors[group.name, value] for value in group.values]))


def counts_of(asked: Mapping[str, Group], items: Sequence[str], unreadable: int) -> dict[str, Any]:
    """Pictures, products, known values of each group, values of each group, unreadable pictures."""
    return {
        "pictures": len(items),
        "products": len(set(items)),
        "known": {name: len(np.unique(group.row)) for name, group in asked.items()},
        "values": {name: len(group.values) for name, group in asked.items()},
        "pairs": sum(len(group.row) for group in asked.values()),
        "unreadable": unreadable,
    }


def unseen(asked: Mapping[str, Group], train: Mapping[str, Group]) -> dict[str, list[str]]:
    """Group → values of the tested pictures that no train picture has, where there are any."""
    found = {name: group.unseen(train[name]) for name, group in asked.items()}
    return {name: values for name, values in found.items() if values}


def confusion_of(scores: Scores, group: Group) -> dict[str, Any]:
    """The values and the matrix (true, answered), or why it is not told."""
    if len(group.values) > WIDEST:
        return {"left_out": f"{len(group.values)} values are more than {WIDEST}"}
    return {"values": list(group.values), "counts": confusion(scores, group).tolist()}


def baseline_answers(
    subject: Subject, shown: Dataset, asked: Mapping[str, Group], train: Mapping[str, Group]
) -> tuple[dict[str, dict[str, dict[int, NDArray[np.float64]]]], dict[str, str]]:
    """Baseline → group → hits, of those that need no model; and why some are left out."""
    learnt = {name: train[name] if len(train[name].row) else group for name, group in asked.items()}
    n = len(shown)
    found = {
        "chance": {name: chance_hits(group) for name, group in asked.items()},
        "most_frequent": {
            name: hits(np.broadcast_to(learnt[name].counts(), (n, len(group.values))), group, 0.0)
            for name, group in asked.items()
        },
    }
    if subject.split in ("train", "all"):
        return found, dict.fromkeys(("pixels", "histogram"), "each train picture would find itself")
    if not any(len(train[name].row) for name in asked):
        return found, dict.fromkeys(("pixels", "histogram"), "there is no train split with attributes to look in")
    examples = subject.whole.select(train_rows(subject))
    for name, (queries, gallery, read) in _looks(shown, examples).items():
        found[name] = {}
        for group in asked.values():
            of_class = nearest_of_class(queries, gallery, _readable(train[group.name], read, len(examples)))
            found[name][group.name] = hits(of_class, group, 0.0)
    return found, {}


def nearest_of_class(queries: NDArray[Any], gallery: NDArray[Any], group: Group, cells: int = 1 << 23) -> NDArray[Any]:
    """(N, C) the similarity of the nearest gallery picture of each class; below all others where it has none.

    Args:
        queries, gallery: (N, D), (T, D); similar is what has a large dot product.
        group: the pairs of the gallery.
        cells: similarities in memory at once.
    """
    order = np.argsort(group.code, kind="stable")
    starts = np.searchsorted(group.code[order], np.arange(len(group.values)))
    filled = np.flatnonzero(group.counts())
    best = np.full((len(queries), len(group.values)), -np.inf, np.float32)
    for part in slices(len(queries) if len(filled) else 0, max(1, cells // max(len(order), 1))):
        near = queries[part] @ gallery.T
        best[part, filled] = np.maximum.reduceat(near[:, group.row[order]], starts[filled], axis=1)
    least = best[np.isfinite(best)].min(initial=0) - 1
    return np.where(np.isfinite(best), best, least)


def _looks(shown: Dataset, examples: Dataset) -> dict[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """ "pixels" and "histogram" of the pictures, those of the train pictures, and which of these could be read."""
    rows, learnt = np.arange(len(shown)), np.arange(len(examples))
    (small, _), (gallery, read) = thumbnails(shown, rows), thumbnails(examples, learnt)
    together = by_distance(np.concatenate([small, gallery]))
    (colours, _), (others, seen) = colour_histograms(shown, rows), colour_histograms(examples, learnt)
    pixels = together[0][: len(small)], together[1][len(small) :], read
    return {"pixels": pixels, "histogram": (colours, others, seen)}


def _readable(group: Group, read: NDArray[Any], n: int) -> Group:
    """The pairs of the pictures that could be read, of n, counted by their place among those."""
    place = np.full(n, -1)
    place[read] = np.arange(len(read))
    keep = place[group.row] >= 0
    return Group(group.name, group.values, place[group.row[keep]], group.code[keep])
