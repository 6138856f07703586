"""Surfacing accuracy against severity: what noise, blur, a crop or a turn costs a model.

    python -m eval robustness --checkpoint runs/plain --catalogue data/catalogue --split test --json plain.json
    python -m eval robustness … --only blur --only rotation --figure curves.png

Every picture of the split is shown as it is and with each kind of `eval.corruptions` at five severities; texts,
products and candidates stay the same, and pictures are the same for every model, so that results of two models can be
paired. Pictures with a shorter side above `size_px` are reduced to it first, at every severity, 0 too, so that an
amount in pixels means the same for all; ImageNet-C does so at 224.

The result is that of `eval.subject.head` and

    size_px            see above
    metrics            text_sfa, attribute_sfa, attribute_sfa_macro of the pictures as they are; the same with
                       "corruptions_" and "shifts_" before them: means over kinds and severities 1 … 5
    curves {kind: [point]}  severity (0 … 5), amount, the three scores, and of each the difference to severity 0:
                       "text_sfa_change", … with paired intervals
    means {kind: scores}    over severities 1 … 5
    baselines          chance
    pictures           id, item, correct {kind: [one string a severity 1 … 5, "1" where the own caption surfaced]},
                       correct_as_is
    pictures_sha256    of all pixels shown: two results with the same one are of the same pictures
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.baselines import chance
from eval.cache import cached
from eval.corruptions import CORRUPTIONS, KINDS, SEVERITIES, SHIFTS, corrupt
from eval.labels import Labels, candidates, label
from eval.metrics.surfacing import UNKNOWN, Ints, reflected, surface
from eval.metrics.uncertainty import interval
from eval.scores import LEVEL, Answers, score, scores
from eval.subject import Subject, command, embed_images, embed_texts, head, open_subject, write_result
from fclip.errors import UserError, nearest
from fclip.files import writable

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

BLOCK = 256  # pictures held decoded at once
NAMES = ("text_sfa", "attribute_sfa", "attribute_sfa_macro")
Condition = tuple[str, int]
AS_IS: Condition = ("as_is", 0)


@dataclass(frozen=True)
class Shown:
    """How N pictures were answered in each condition."""

    labels: Labels
    own: Ints  # (N,)
    caption_codes: Ints  # (M, G)
    correct: dict[Condition, NDArray[np.bool_]]  # (N,)
    hits: dict[Condition, NDArray[np.bool_]]  # (N, G)
    skipped: list[list[str]]
    sha256: str

    def answers(self, condition: Condition) -> Answers:
        """Those of one condition."""
        known = self.labels.codes != UNKNOWN
        return Answers(self.labels.groups, self.labels.items, self.correct[condition], self.hits[condition], known, {})


def run_robustness(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str = "test",
    *,
    only: Sequence[str] = (),
    size_px: int = 224,
    out: str | Path | None = None,
    figure: str | Path | None = None,
    catalogue_format: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Measures a checkpoint under corruptions and shifts; the result's layout is in the module's docstring.

    Args:
        checkpoint, catalogue, split, catalogue_format: as `eval.subject.open_subject`.
        only: kinds of `eval.corruptions`; all when empty.
        size_px: the largest shorter side of a picture.
        out: the JSON file. None writes nothing.
        figure: a picture of the curves, .png, .pdf or .svg.
        bootstrap, seed: resamples of the products, and the seed of these and of the corruptions.
        batch_size: pictures embedded at once.
        progress: show a progress bar.

    Raises:
        UserError: an unknown kind, or the checkpoint, catalogue, split or an output is not usable.
    """
    for kind in only:
        if kind not in KINDS:
            raise UserError(f"no corruption or shift {kind!r}; {nearest(kind, KINDS)}")
    targets = [None if path is None else writable(path) for path in (out, figure)]
    if targets[1] is not None:
        from eval.curves import check_ending

        check_ending(targets[1])
    subject = open_subject(checkpoint, catalogue, split, catalogue_format)
    kinds = [kind for kind in KINDS if not only or kind in only]
    shown = show(subject, kinds, size_px, seed, batch_size, progress)
    result = head("robustness", subject, _counts(shown), bootstrap, seed) | {"size_px": size_px}
    result |= summary(shown, kinds, bootstrap, seed)
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "catalogue": subject.catalogue,
        "split": split,
        "only": list(only),
    }
    options |= {"size-px": size_px, "format": catalogue_format, "bootstrap": bootstrap, "seed": seed}
    result["command"] = command("robustness", options | {"batch-size": batch_size, "json": out, "figure": figure})
    write_result(targets[0], result)
    if targets[1] is not None:
        from eval.curves import draw_curves

        draw_curves(result, targets[1])
    return result


def show(
    subject: Subject, kinds: Sequence[str], size_px: int, seed: int, batch_size: int = 64, progress: bool = False
) -> Shown:
    """Shows a model every picture in every condition.

    Raises:
        UserError: no picture has a caption or can be read, or embeddings are not finite.
    """
    from tqdm.auto import tqdm

    model, labels = subject.model, label(subject.model.captions, subject.pictures)
    if not labels.ids:
        raise UserError(f"no caption for any of {len(subject.pictures)} pictures; model {model.name} names "
                        f"{', '.join(labels.groups)}; measure on a catalogue with these attributes")  # fmt: skip
    captions, own = candidates(labels.texts)
    texts, codes = np.asarray(embed_texts(model, captions), np.float32), reflected(own, labels.codes, len(captions))
    conditions = [AS_IS, *((kind, severity) for kind in kinds for severity in range(1, SEVERITIES + 1))]
    correct: dict[Condition, list[NDArray[np.bool_]]] = {condition: [] for condition in conditions}
    hits: dict[Condition, list[NDArray[np.bool_]]] = {condition: [] for condition in conditions}
    read, skipped, seen = [], [], hashlib.sha256()
    bar = tqdm(total=len(labels.ids) * len(conditions), desc="robustness", unit="img", disable=not progress)
    for places, pictures, problems in _blocks(subject.pictures, labels, size_px):
        read += places
        skipped += problems
        for condition in conditions if places else []:
            names = [labels.ids[i] for i in places]
            made = [corrupt(p, *condition, key=name, seed=seed) for name, p in zip(names, pictures, strict=True)]
            for picture in made:
                seen.update(repr(picture.size).encode() + picture.tobytes())
            with cached(None):  # pictures that nobody asks for again
                images = embed_images(model, _dataset(names, made), batch_size=batch_size)
            try:
                found = surface(images.vectors, texts, own[places], labels.codes[places], codes)
            except ValueError as error:
                raise UserError(f"model {model.name}: {error}") from None
            correct[condition].append(found.correct)
            hits[condition].append(found.hits)
            bar.update(len(made))
    bar.close()
    if not read:
        raise UserError(f"none of {len(skipped)} pictures could be read; the first: {skipped[0][1]}")
    right, agreed = ({key: np.concatenate(parts) for key, parts in of.items()} for of in (correct, hits))
    return Shown(labels.take(np.array(read)), own[read], codes, right, agreed, skipped, seen.hexdigest())


def _blocks(
    pictures: Dataset, labels: Labels, size_px: int
) -> Iterator[tuple[list[int], list[Image], list[list[str]]]]:
    """Places among the labels, pictures, and (id, reason) of those that cannot be read; `BLOCK` at a time."""
    from fclip.images import UnreadableImageError, decode

    column = pictures.select_columns(["image"])
    for start in range(0, len(labels.ids), BLOCK):
        places, decoded, problems = [], [], []
        for place in range(start, min(start + BLOCK, len(labels.ids))):
            try:
                picture = decode(column[int(labels.rows[place])]["image"])
            except UnreadableImageError as error:
                problems.append([labels.ids[place], str(error)])
                continue
            places.append(place)
            decoded.append(_reduced(picture, size_px))
        yield places, decoded, problems


def _reduced(picture: Image, size_px: int) -> Image:
    from PIL.Image import Resampling

    share = size_px / min(picture.size)
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    return picture.resize(size, Resampling.BICUBIC) if share < 1 else picture


def _dataset(names: Sequence[str], pictures: Sequence[Image]) -> Dataset:
    """A catalogue of pictures in memory, uncompressed, which is lossless and fast."""
    from datasets import Dataset, Features, Image, Value

    cells = []
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, "bmp")
        cells.append({"bytes": stream.getvalue(), "path": None})
    shape = Features({"id": Value("string"), "image": Image(decode=False)})
    return Dataset.from_dict({"id": list(names), "image": cells}, features=shape)


def summary(shown: Shown, kinds: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """Scores, curves and means with intervals; every condition resamples the same products."""
    ratios, samples = {}, {}
    for condition in shown.correct:
        answers = shown.answers(condition)
        columns = [answers.names.index(name) for name in NAMES]
        ratios[condition] = answers.ratios()[columns]
        samples[condition] = answers.samples(resamples, seed)[:, columns]

    def mean(conditions: Sequence[Condition]) -> dict[str, Any]:
        values = np.mean([ratios[c] for c in conditions], axis=0)
        return _named(values, np.mean([samples[c] for c in conditions], axis=0))

    def point(condition: Condition, kind: str) -> dict[str, Any]:
        at = {"severity": condition[1], "amount": KINDS[kind][1][condition[1] - 1] if condition[1] else None}
        change = _named(ratios[condition] - ratios[AS_IS], samples[condition] - samples[AS_IS])
        return at | mean([condition]) | {f"{name}_change": value for name, value in change.items()}

    spread = {kind: [(kind, severity) for severity in range(1, SEVERITIES + 1)] for kind in kinds}
    metrics = mean([AS_IS])
    for name, family in (("corruptions", CORRUPTIONS), ("shifts", SHIFTS)):
        if members := [condition for kind in kinds if kind in family for condition in spread[kind]]:
            metrics |= {f"{name}_{key}": value for key, value in mean(members).items()}
    return {
        "metrics": metrics,
        "curves": {kind: [point(c, kind) for c in (AS_IS, *spread[kind])] for kind in kinds},
        "means": {kind: mean(spread[kind]) for kind in kinds},
        "baselines": {"chance": _chance(shown, resamples, seed)},
        "pictures": {
            "id": shown.labels.ids,
            "item": shown.labels.items,
            "correct_as_is": _marks(shown.correct[AS_IS]),
            "correct": {kind: [_marks(shown.correct[c]) for c in spread[kind]] for kind in kinds},
        },
        "skipped": shown.skipped,
        "pictures_sha256": shown.sha256,
    }


def _named(values: NDArray[np.float64], samples: NDArray[np.float64]) -> dict[str, Any]:
    low, high = interval(samples, LEVEL)
    return {name: score(*numbers) for name, *numbers in zip(NAMES, values, low, high, strict=True)}


def _chance(shown: Shown, resamples: int, seed: int) -> dict[str, Any]:
    labels = shown.labels
    expected = chance(labels.codes, shown.caption_codes)
    answers = Answers(labels.groups, labels.items, expected.correct, expected.hits, labels.codes != UNKNOWN, {})
    return {name: value for name, value in scores(answers, resamples, seed).items() if name in NAMES}


def _marks(correct: NDArray[np.bool_]) -> str:
    return "".join("1" if one else "0" for one in correct)


def _counts(shown: Shown) -> dict[str, Any]:
    labels = shown.labels
    return {
        "pictures": len(labels.ids),
        "products": len(set(labels.items)),
        "captions": len(shown.caption_codes),
        "without_caption": labels.without,
        "unreadable": len(shown.skipped),
    }
