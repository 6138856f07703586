"""DeepFashion's category and attribute prediction: top-k category accuracy and top-k recall of attributes by group.

    python -m eval attributes --checkpoint fashionclip --catalogue data/deepfashion --split test --json clip.json
    python -m eval attributes --predictions fashionnet.csv --catalogue data/deepfashion --split test --json theirs.json

A CLIP model is asked without training: the score of a value is the cosine of the picture and of its prompts' mean. Any
other model is measured by a file of its scores (`eval.predictions`), with the same definitions
(`eval.metrics.attributes`, `eval.metrics.classification`), so that FashionNet's numbers and ours mean the same.

Candidates are the values that occur anywhere in the catalogue, and with predictions their further columns too. So
DeepFashion's four categories without pictures are candidates only where a file scores them. A group with fewer than k
values has no top-k recall: it is left out of the "all" columns and named.

The result is that of `eval.subject.head` (or `eval.predictions.head_of_file`) and

    metrics     category@K, category_macro@K (mean of the categories), GROUP@K, all_joint@K, all_pooled@K, all_mean@K
    positives   {column: how many pictures have it}
    never_seen  values of the split that no train picture has, "group:value"
    too_small   {"@K": groups}
    baselines   chance: every order as likely as every other; most_frequent: ranked by frequency in the train split
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eval.classes import ClassCosines, class_vectors
from eval.metrics.attributes import group_hits
from eval.metrics.classification import top_k_accuracy
from eval.metrics.means import known_mean, share
from eval.metrics.search import TIE
from eval.metrics.uncertainty import interval, ratio_samples
from eval.metrics.vectors import unit_rows
from eval.predictions import Scores, head_of_file, match, read_scores
from eval.prompts import sentences
from eval.protocol import errors_of
from eval.scores import LEVEL, Score, score
from eval.settings import DEFAULTS, Settings
from eval.subject import Subject, command, embed_images, head, open_subject, write_result
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Array = NDArray[np.float64]
CATEGORY = "category"
BLOCK = 2048  # pictures scored at once
Vocabulary = dict[str, list[str]]
"""Group → values; "category" first where the catalogue has categories."""


@dataclass(frozen=True)
class Truth:
    """What N pictures show, of V values in all, in the vocabulary's order."""

    vocabulary: Vocabulary
    ids: list[str]
    items: list[str]
    positive: NDArray[np.bool_]  # (N, V)

    @property
    def columns(self) -> list[str]:
        """(V,) "group:value"."""
        return [f"{group}:{value}" for group, values in self.vocabulary.items() for value in values]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Group → its columns."""
        starts = np.cumsum([0, *map(len, self.vocabulary.values())])
        return {g: list(range(starts[n], starts[n + 1])) for n, g in enumerate(self.vocabulary)}

    def take(self, rows: NDArray[np.int64]) -> Truth:
        """These pictures only."""
        ids, items = ([column[row] for row in rows] for column in (self.ids, self.items))
        return Truth(self.vocabulary, ids, items, self.positive[rows])


def run_attributes(
    catalogue: str | Path | Sequence[str | Path],
    split: str = "test",
    settings: Settings = DEFAULTS,
    *,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    groups: Sequence[str] = (),
    prompts: Sequence[str] = (),
    ks: Sequence[int] = (3, 5),
) -> dict[str, Any]:
    """Measures a model or a file of predictions; the result's layout is in the module's docstring.

    Args:
        catalogue, split: as `eval.subject.open_subject`.
        settings: without an untuned model.
        checkpoint, predictions: exactly one of them.
        groups: attribute groups; all when empty.
        prompts: sentences with {} for the value, averaged; those of the model's captions when empty.
        ks: numbers of values taken.

    Raises:
        UserError: not one of checkpoint and predictions, an unknown group, predictions that do not match, or a
            checkpoint, catalogue, split or output that is not usable.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    if (checkpoint is None) == (predictions is None):
        raise UserError(
            "expected either --checkpoint or --predictions, got " + ("none" if checkpoint is None else "both")
        )
    if not ks or min(ks) < 1:
        raise UserError(f"expected k of at least 1, got {list(ks)}")
    target = settings.target
    subject = None if checkpoint is None else open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    if subject is not None:
        paths, whole, pictures = subject.catalogue, subject.whole, subject.pictures
    else:
        paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
        whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=settings.catalogue_format)
        pictures = select_split(whole, split)
    vocabulary = vocabulary_of(whole, groups)
    if subject is not None:
        truth, scored, skipped = _asked(subject, vocabulary, prompts, settings)
        result = head("attributes", subject, _counts(truth, skipped), *settings.resampling) | {"skipped": skipped}
    else:
        given = read_scores(str(predictions))
        truth, scored = _given(given, pictures, vocabulary, whole["id"][:])
        result = head_of_file("attributes", given.file, paths, split, _counts(truth, []), *settings.resampling)
    result |= {"metrics": measure(truth, scored, ks, *settings.resampling)} | _said(truth, whole, ks)
    if settings.baselines:
        result["baselines"] = _baselines(truth, whole, ks, *settings.resampling)
    options: dict[str, Any] = {"checkpoint": checkpoint, "predictions": predictions, "catalogue": paths, "split": split}
    options |= {"group": list(groups), "prompt": list(prompts), "k": list(ks)}
    result["command"] = command("attributes", options | settings.options | {"json": settings.out})
    write_result(target, result)
    return result


def vocabulary_of(whole: Dataset, groups: Sequence[str] = ()) -> Vocabulary:
    """The values of every group, whatever the split, in alphabetical order.

    Raises:
        UserError: an unknown group, or there is nothing to predict.
    """
    from fclip.catalogue.schema import check_groups, groups_of

    check_groups(whole, [group for group in groups if group != CATEGORY])
    wanted = list(groups) or list(dict.fromkeys([CATEGORY, *groups_of(whole)]))
    found = {group: _distinct(whole, group) for group in wanted if group in (*groups_of(whole), *whole.column_names)}
    found = {group: values for group, values in found.items() if values}
    if not found:
        raise UserError(f"the catalogue states no value of {', '.join(wanted)}; measure on one that does")
    return found


def _column(pictures: Dataset, group: str) -> pa.Array:
    """The values of a group, text or lists of text; the column "category" goes before a group of that name."""
    own = group == CATEGORY and CATEGORY in pictures.column_names
    table = pictures.select_columns([CATEGORY if own else "attributes"]).with_format("arrow")[:]
    chunk = table.column(0).combine_chunks()
    return chunk if own else chunk.field(group)


def _distinct(pictures: Dataset, group: str) -> list[str]:
    column = _column(pictures, group)
    values = column.flatten() if pa.types.is_list(column.type) else column
    return sorted(value for value in pc.unique(values).to_pylist() if value)


def read_truth(pictures: Dataset, vocabulary: Vocabulary) -> Truth:
    """What the pictures of a split show."""
    parts = []
    for group, values in vocabulary.items():
        if group != CATEGORY and group not in pictures.features["attributes"]:
            parts.append(np.zeros((len(pictures), len(values)), bool))
            continue
        column = _column(pictures, group)
        several = pa.types.is_list(column.type)
        row = pc.list_parent_indices(column).to_numpy() if several else np.arange(len(column))
        flat = column.flatten() if several else column
        code = pc.fill_null(pc.index_in(flat, value_set=pa.array(values, flat.type)), -1).to_numpy(zero_copy_only=False)
        part = np.zeros((len(pictures), len(values)), bool)
        part[row[code >= 0], code[code >= 0]] = True
        parts.append(part)
    ids, items = (list(map(str, pictures[name][:])) for name in ("id", "item"))
    return Truth(vocabulary, ids, items, np.concatenate(parts, axis=1))


Scored = Callable[[slice], Array]
"""Pictures (n) → their scores (n, V)."""


def _asked(
    subject: Subject, vocabulary: Vocabulary, prompts: Sequence[str], settings: Settings
) -> tuple[Truth, Scored, list[list[str]]]:
    """The truth of the pictures that can be read, and the cosines of their vectors and of all values."""
    captions = subject.model.captions
    said = {(g, v): sentences(g, v, captions, prompts) for g, values in vocabulary.items() for v in values}
    classes = np.stack([*class_vectors(subject.model, said).values()])
    images = embed_images(subject.model, subject.pictures, **settings.embedding)
    with errors_of(subject.model.name):
        scores = ClassCosines(unit_rows(images.vectors, "image"), classes)
    truth = read_truth(subject.pictures, vocabulary).take(np.asarray(images.rows, np.int64))
    skipped = [[str(name), str(reason)] for name, reason in images.skipped]
    return truth, scores.__getitem__, skipped


def _given(given: Scores, pictures: Dataset, vocabulary: Vocabulary, known: Sequence[str]) -> tuple[Truth, Scored]:
    """The truth with the file's further columns as candidates, and the file's scores in that order."""
    place = {name: n for n, name in enumerate(given.columns)}
    missing = [f"{g}:{v}" for g, values in vocabulary.items() for v in values if f"{g}:{v}" not in place]
    if missing:
        first = f"{', '.join(missing[:3])}; {nearest(missing[0], given.columns[:20])}"
        raise UserError(f"{given.file}: no column for {len(missing)} values of the catalogue: {first}")
    wide = {g: [*v] for g, v in vocabulary.items()}
    for name in given.columns:
        group, _, value = name.partition(":")
        if group in wide and value not in vocabulary[group]:
            wide[group].append(value)
    truth = read_truth(pictures, wide)
    rows, order = match(given.ids, truth.ids, known, given.file), [place[name] for name in truth.columns]
    return truth, lambda part: np.asarray(given.scores[rows[part]][:, order], np.float64)


def measure(truth: Truth, scored: Scored, ks: Sequence[int], resamples: int, seed: int) -> dict[str, Score]:
    """Top-k scores with intervals over products, `BLOCK` pictures at a time."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(truth.ids), BLOCK)]
    parts = [_sums(truth, scored(part), part, ks) for part in blocks]
    names = list(parts[0])
    part, whole = (np.concatenate([np.stack([of[n][i] for n in names], 1) for of in parts]) for i in (0, 1))
    values = _with_means(names, share(part.sum(0), whole.sum(0))[None], ks)
    samples = _with_means(names, ratio_samples(part, whole, truth.items, resamples, seed), ks)
    low, high = interval(np.stack(list(samples.values()), 1), LEVEL)
    return {name: score(value[0], *ends) for (name, value), *ends in zip(values.items(), low, high, strict=True)}


def _sums(truth: Truth, scores: Array, part: slice, ks: Sequence[int]) -> dict[str, tuple[Array, Array]]:
    """Name → (n,) found and (n,) to be found, of each picture; those of single categories begin with "class:"."""
    positive, sums = truth.positive[part], {}
    groups = {group: columns for group, columns in truth.groups.items() if group != CATEGORY}
    for k in ks:
        if len(columns := truth.groups.get(CATEGORY, [])) >= k:
            mine = positive[:, columns]
            labels = np.where(mine.any(1), mine.argmax(1), -1)
            right = top_k_accuracy(scores[:, columns], labels, k, TIE)
            sums[f"{CATEGORY}@{k}"] = np.nan_to_num(right), ~np.isnan(right) + 0.0
            for c in range(len(columns)):
                sums[f"class:{c}@{k}"] = np.nan_to_num(right) * (labels == c), (labels == c) + 0.0
        large = {group: columns for group, columns in groups.items() if len(columns) >= k}
        for group, columns in large.items():
            found, of = group_hits(scores, positive, columns, k, tie=TIE)
            sums[f"{group}@{k}"] = found.astype(np.float64), of.astype(np.float64)
        if large:
            found, of = group_hits(scores, positive, [c for columns in large.values() for c in columns], k, tie=TIE)
            sums[f"all_joint@{k}"] = found.astype(np.float64), of.astype(np.float64)
            pooled = [sums[f"{group}@{k}"] for group in large]
            sums[f"all_pooled@{k}"] = np.sum([a for a, _ in pooled], 0), np.sum([b for _, b in pooled], 0)
    return sums


def _with_means(names: Sequence[str], ratios: Array, ks: Sequence[int]) -> dict[str, Array]:
    """Name → (R,) ratios, with the means over categories and over groups, without the single categories."""
    of, found = dict(zip(names, ratios.T, strict=True)), {}
    for k in ks:
        own = {name: value for name, value in of.items() if name.endswith(f"@{k}")}
        classes = [value for name, value in own.items() if name.startswith("class:")]
        own = {name: value for name, value in own.items() if not name.startswith("class:")}
        groups = [value for name, value in own.items() if not name.startswith(("all_", f"{CATEGORY}@"))]
        if classes:
            found[f"{CATEGORY}@{k}"] = own.pop(f"{CATEGORY}@{k}")
            found[f"{CATEGORY}_macro@{k}"] = known_mean(np.stack(classes, 1))
        found |= own
        if groups:
            found[f"all_mean@{k}"] = known_mean(np.stack(groups, 1))
    return found


def _said(truth: Truth, whole: Dataset, ks: Sequence[int]) -> dict[str, Any]:
    """What a reader must know of the values besides the scores."""
    number, seen = truth.positive.sum(0), _train_frequency(truth, whole)
    unseen = (
        [] if seen is None else [name for name, n, s in zip(truth.columns, number, seen, strict=True) if n and not s]
    )
    small = {f"@{k}": [group for group, columns in truth.groups.items() if len(columns) < k] for k in ks}
    positives = dict(zip(truth.columns, number.tolist(), strict=True))
    return {"positives": positives, "never_seen": unseen, "too_small": {k: v for k, v in small.items() if v}}


def _train_frequency(truth: Truth, whole: Dataset) -> NDArray[np.int64] | None:
    """(V,) how many train pictures have each value; None without a train split."""
    rows = [row for row, name in enumerate(whole["split"][:]) if name == "train"]
    return read_truth(whole.select(rows), truth.vocabulary).positive.sum(0) if rows else None


def _baselines(truth: Truth, whole: Dataset, ks: Sequence[int], resamples: int, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"chance": _chance(truth, ks)}
    seen = _train_frequency(truth, whole)
    if seen is None:
        return found | {"left_out": {"most_frequent": "there is no train split"}}
    # equally frequent values in the vocabulary's order: ties against the model are for models
    ranked = np.argsort(np.argsort(-seen, kind="stable")).astype(np.float64)
    found["most_frequent"] = measure(
        truth, lambda part: np.repeat(-ranked[None], len(truth.ids[part]), 0), ks, resamples, seed
    )
    return found | {"left_out": {}}


def _chance(truth: Truth, ks: Sequence[int]) -> dict[str, Score]:
    """The expected scores of a random order: k of n values are taken, so k / n of the positives."""
    positives, found = truth.positive.sum(0), {}
    for k in ks:
        large = {group: columns for group, columns in truth.groups.items() if len(columns) >= k}
        recall = {group: k / len(columns) for group, columns in large.items()}
        if CATEGORY in recall:
            found[f"{CATEGORY}@{k}"] = found[f"{CATEGORY}_macro@{k}"] = score(recall.pop(CATEGORY))
        if recall:
            of = np.array([positives[large[group]].sum() for group in recall], np.float64)
            rates = np.array(list(recall.values()))
            found |= {f"{group}@{k}": score(rate) for group, rate in recall.items()}
            found[f"all_joint@{k}"] = score(k / sum(len(large[group]) for group in recall))
            found[f"all_pooled@{k}"] = score(float(share((rates * of).sum(), of.sum())))
            found[f"all_mean@{k}"] = score(known_mean(np.where(of > 0, rates, np.nan)))
    return found


def _counts(truth: Truth, skipped: Sequence[Any]) -> dict[str, Any]:
    return {
        "pictures": len(truth.ids),
        "products": len(set(truth.items)),
        "unreadable": len(skipped),
        "values": {group: len(values) for group, values in truth.vocabulary.items()},
    }
