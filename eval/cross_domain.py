"""From catalogue photographs to pictures of another kind: what a model keeps on, say, phone photographs.

    python -m eval cross-domain --checkpoint runs/mine/best --catalogue data/catalogue --split val \
        --other data/clothing/metadata.csv --other-map item=sender_id --other-split val --mapping classes.yaml

The mapping says which of their values is which of ours; what it does not name is left out, counted and listed:

    articleType:            # our attribute group
      from: label           # their group; the same name when left out
      values:
        T-Shirt: Tshirts    # theirs: ours
        Pants: Trousers

Both splits are measured on the same classes, those that the mapping names, with the same prompts and among the same
candidate captions, so that what differs is the pictures:

    zero-shot accuracy   the class whose prompts' mean is nearest: `GROUP@1` over pictures, `GROUP_macro@1` over classes
    text and attribute SFA   of captions that state the mapped groups only

A picture of ours that belongs to no mapped class counts in neither; a value that training never saw is refused.
The result is that of `eval.subject.head` and: other {catalogue, split}, mapping, counts {own, other}, unmapped
{group: {value: pictures}}, classes, metrics {own: scores, other: scores}, gap {score: own − other, with an interval:
the two are resampled apart}, per_class {group: {class: {own, other, pictures}}}, baselines {own, other: {chance,
most_frequent}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.class_mapping import Rule, check_mapping, commonest, only_value, read_mapping, unmapped
from eval.classes import class_vectors
from eval.labels import Codebook, Labels, candidates, label
from eval.metrics.classification import per_class, top_k_accuracy
from eval.metrics.means import known_mean, share
from eval.metrics.search import TIE
from eval.metrics.surfacing import UNKNOWN, Ints, reflected, surface
from eval.metrics.uncertainty import interval, ratio_samples
from eval.prompts import sentences
from eval.scores import LEVEL, Answers, score
from eval.settings import DEFAULTS, Settings
from eval.subject import command, embed_images, embed_texts, head, open_subject, write_result
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

Array = NDArray[np.float64]
DOMAINS = ("own", "other")


@dataclass(frozen=True)
class Domain:
    """The pictures of one domain that have a mapped value, with those values alone."""

    labels: Labels
    vectors: NDArray[np.float32]  # (N, D)
    unreadable: int


def run_cross_domain(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    other: str | Path,
    mapping: str | Path,
    other_split: str = "test",
    settings: Settings = DEFAULTS,
    *,
    other_columns: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures a checkpoint on both kinds of pictures; the result's layout is in the module's docstring.

    Args:
        checkpoint, catalogue, split: as `eval.subject.open_subject`, the own kind.
        other, other_split: the catalogue of the other kind.
        mapping: a YAML file, see the module's docstring.
        settings: without an untuned model.
        other_columns: as `fclip catalogue --map`, for a table: "item=sender_id".
        prompts: sentences with {} for the value, averaged; those of the model's captions when empty.

    Raises:
        UserError: the mapping names what is in neither catalogue or was never seen in training, or a checkpoint,
            catalogue, split or output is not usable.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split
    from fclip.catalogue.table import columns_from_pairs

    target = settings.target
    rules = read_mapping(mapping)
    columns = columns_from_pairs(other_columns) if other_columns else None
    try:
        theirs = select_split(open_catalogue(other, columns=columns), other_split)
    except UserError as error:
        raise UserError(f"the other catalogue, {other}: {error}") from None
    subject = open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    subject.model.require_text()
    check_mapping(rules, subject.whole, theirs, str(mapping))
    own_rules = {group: Rule(group, {value: value for value in rule.classes}) for group, rule in rules.items()}
    book: Codebook = {}
    tables = {"own": (subject.pictures, own_rules), "other": (theirs, rules)}
    domains = {name: _domain(subject.model, *table, book, settings, name) for name, table in tables.items()}
    named = {group: _classes(subject.model, group, rule, prompts) for group, rule in rules.items()}
    captions = _captions(subject.model, domains)
    measured = {
        name: _measured(subject.model, domain, rules, named, captions, book) for name, domain in domains.items()
    }
    samples = {name: of.samples(settings.bootstrap, settings.seed + n) for n, (name, of) in enumerate(measured.items())}
    counts = {name: _counts(domain, tables[name][0]) for name, domain in domains.items()}
    result = head("cross-domain", subject, counts, *settings.resampling)
    result |= {"other": {"catalogue": str(other), "split": other_split}, "mapping": str(mapping)}
    result |= {
        "unmapped": {group: unmapped(theirs, rule) for group, rule in rules.items()},
        "classes": {group: rule.classes for group, rule in rules.items()},
        "metrics": {name: _named(of.names, of.ratios(), samples[name]) for name, of in measured.items()},
        "gap": _named(measured["own"].names, measured["own"].ratios() - measured["other"].ratios(),
                      samples["own"] - samples["other"]),
        "per_class": {group: _per_class(measured, group) for group in rules},
    }  # fmt: skip
    if settings.baselines:
        frequent = {group: commonest(subject.whole, own_rules[group]) for group in rules}
        result["baselines"] = {name: _baselines(of, frequent) for name, of in measured.items()}
    options: dict[str, Any] = {"checkpoint": checkpoint, "catalogue": subject.catalogue, "split": split, "other": other}
    options |= {"other-split": other_split, "other-map": list(other_columns), "mapping": mapping}
    options |= {"prompt": list(prompts)} | settings.options | {"json": settings.out}
    result["command"] = command("cross-domain", options)
    write_result(target, result)
    return result


def _domain(
    model: Model,
    pictures: Dataset,
    rules: Mapping[str, Rule],
    book: Codebook,
    settings: Settings,
    name: str,
) -> Domain:
    """Embeds the pictures that have a mapped value."""
    from datasets import Dataset

    def ours(cell: Mapping[str, Any]) -> dict[str, str | None]:
        return {group: rule.values.get(only_value(cell[rule.theirs]) or "") for group, rule in rules.items()}

    facts = pictures.select_columns(["id", "item", "attributes"])[:]
    mapped = [ours(cell) for cell in facts["attributes"]]
    labels = label(model.captions, Dataset.from_dict({**facts, "attributes": mapped}), book)
    if not labels.ids:
        known = ", ".join(rules)
        raise UserError(f"no picture of the {name} kind has a mapped value that captions of model {model.name} state; "
                        f"they name {', '.join(model.captions.groups)}, the mapping {known}")  # fmt: skip
    images = embed_images(model, pictures.select(labels.rows), **settings.embedding)
    return Domain(labels.take(np.asarray(images.rows, np.int64)), images.vectors, len(images.skipped))


def _classes(model: Model, group: str, rule: Rule, prompts: Sequence[str]) -> NDArray[np.float32]:
    """(C, D) unit vectors of a group's classes."""
    said = {value: sentences(group, value, model.captions, prompts) for value in rule.classes}
    return np.stack([*class_vectors(model, said).values()]).astype(np.float32)


def _captions(model: Model, domains: Mapping[str, Domain]) -> tuple[list[str], NDArray[np.float32], Ints]:
    """The captions of both kinds, their vectors (M, D) and the attributes that they state (M, G)."""
    together = [text for domain in domains.values() for text in domain.labels.texts]
    texts, own = candidates(together)
    codes = reflected(own, np.concatenate([domain.labels.codes for domain in domains.values()]), len(texts))
    return texts, np.asarray(embed_texts(model, texts), np.float32), codes


@dataclass(frozen=True)
class _Measured:
    """Answers on one domain: SFA, and by group whether the class was right (N,) and which it is (N,)."""

    answers: Answers
    right: dict[str, Array]  # nan where the group has no mapped value
    classes: dict[str, NDArray[np.int64]]
    n_classes: dict[str, int]

    @property
    def names(self) -> list[str]:
        single = [f"{group}{way}@1" for group in self.right for way in ("", "_macro")]
        return [*single, "text_sfa", "attribute_sfa", "attribute_sfa_macro"]

    def ratios(self) -> Array:
        part, whole = self._sums()
        return self._with_macro(share(part.sum(0), whole.sum(0))[None], self.answers.ratios()[None])[0]

    def samples(self, resamples: int, seed: int) -> Array:
        drawn = ratio_samples(*self._sums(), self.answers.items, resamples, seed)
        return self._with_macro(drawn, self.answers.samples(resamples, seed))

    def _sums(self) -> tuple[Array, Array]:
        """Per group one column over all classes, then one for each class."""
        part, whole = [], []
        for group, right in self.right.items():
            for of in (self.classes[group] >= 0, *(self.classes[group] == c for c in range(self.n_classes[group]))):
                part.append(np.where(of, np.nan_to_num(right), 0))
                whole.append(of.astype(np.float64))
        return np.stack(part, 1), np.stack(whole, 1)

    def _with_macro(self, ratios: Array, surfaced: Array) -> Array:
        columns, start = [], 0
        for n in self.n_classes.values():
            columns += [ratios[:, start], known_mean(ratios[:, start + 1 : start + 1 + n])]
            start += 1 + n
        wanted = [self.answers.names.index(name) for name in self.names[2 * len(self.right) :]]
        return np.column_stack([*columns, *surfaced[:, wanted].T])


def _measured(
    model: Model,
    domain: Domain,
    rules: Mapping[str, Rule],
    named: Mapping[str, NDArray[np.float32]],
    captions: tuple[list[str], NDArray[np.float32], Ints],
    book: Codebook,
) -> _Measured:
    labels, (texts, vectors, codes) = domain.labels, captions
    place = {text: n for n, text in enumerate(texts)}
    own = np.array([place[text] for text in labels.texts])
    try:
        shown = surface(domain.vectors, vectors, own, labels.codes, codes)
    except ValueError as error:
        raise UserError(f"model {model.name}: {error}") from None
    answers = Answers(labels.groups, labels.items, shown.correct, shown.hits, labels.codes != UNKNOWN, {})
    right, classes = {}, {}
    for group, rule in rules.items():
        if group not in labels.groups:
            raise UserError(f"captions of model {model.name} do not state {group}, which the mapping names; they state "
                            f"{', '.join(labels.groups)}")  # fmt: skip
        number = {book.get((group, value)): n for n, value in enumerate(rule.classes)}
        column = labels.codes[:, labels.groups.index(group)]
        classes[group] = np.array([number.get(code, -1) if code != UNKNOWN else -1 for code in column], np.int64)
        right[group] = top_k_accuracy(domain.vectors @ named[group].T, classes[group], 1, TIE)
    return _Measured(answers, right, classes, {group: len(rule.classes) for group, rule in rules.items()})


def _named(names: Sequence[str], values: Array, samples: Array) -> dict[str, Any]:
    low, high = interval(samples, LEVEL)
    return {name: score(*row) for name, *row in zip(names, values, low, high, strict=True)}


def _per_class(measured: Mapping[str, _Measured], group: str) -> list[dict[str, Any]]:
    """One entry a class, in the order of the result's `classes`."""
    n = measured["own"].n_classes[group]
    entries: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, of in measured.items():
        accuracy = per_class(of.right[group], of.classes[group], n)
        for c, entry in enumerate(entries):
            entry[name] = score(accuracy[c])["value"]
            entry[f"{name}_pictures"] = int((of.classes[group] == c).sum())
    return entries


def _baselines(of: _Measured, frequent: Mapping[str, int | None]) -> dict[str, Any]:
    found: dict[str, Any] = {"chance": {}, "most_frequent": {}}
    for group, n in of.n_classes.items():
        found["chance"][f"{group}@1"] = found["chance"][f"{group}_macro@1"] = score(1 / n)
        labels, always = of.classes[group], frequent[group]
        if always is not None:
            right = np.where(labels >= 0, labels == always, np.nan)
            found["most_frequent"][f"{group}@1"] = score(known_mean(right))
            found["most_frequent"][f"{group}_macro@1"] = score(known_mean(per_class(right, labels, n)))
    return found


def _counts(domain: Domain, pictures: Dataset) -> dict[str, int]:
    return {
        "pictures": len(domain.labels.ids),
        "products": len(set(domain.labels.items)),
        "left_out": len(pictures) - len(domain.labels.ids),
        "unreadable": domain.unreadable,
    }
