"""The paper's model selection (section 6.1): cosine similarity, text and attribute surfacing accuracy of a checkpoint.

    python -m eval surfacing --checkpoint runs/plain --catalogue data/catalogue --split val --json plain.json

The definitions are in `eval.metrics.surfacing`. The result is plain JSON; a score is {"value", "low", "high"}:

    schema, protocol, model {name, fingerprint}, groups, bootstrap {resamples, seed, level, unit}
    counts     pictures, products, captions, ties, without_caption, unreadable, mixed_captions, known {group: number}
    skipped    [[id, reason]] of unreadable pictures
    metrics    cosine, text_sfa, attribute_sfa, attribute_sfa_macro, attribute_sfa_by_group {group: score},
               recall_at_1/5/10 (picture to caption), caption_hit_at_1/5/10 (caption to any of its pictures)
    captions_sha256   of all pictures' captions: tells whether two results are about the same texts
    pictures   one entry per evaluated picture: id, item, cosine, rank (of the own caption),
               attributes {group: a string, one character per picture: 1 agrees, 0 does not, - unknown}
    first      id, image and text embeddings of the first 50 pictures, for the paper's figures 5 and 6
    baselines  {chance, most_frequent, pixels: metrics}; left_out {name: why}      (only `run_surfacing`)
    checkpoint, catalogue, split, command, products_in_train                       (only `run_surfacing`)

Pictures whose caption is empty or that cannot be read are left out and counted. A caption hit's interval is null: its
unit is the caption, not the product.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.baselines import Prediction, answered_with, chance, most_frequent, nearest_pixels, thumbnails
from eval.labels import Codebook, Labels, candidates, label
from eval.metrics.surfacing import UNKNOWN, Ints, Surfaced, recall_at, reflected, surface
from eval.scores import LEVEL, Answers, score, scores
from eval.subject import embed_images, embed_texts, write_result
from fclip.errors import UserError
from fclip.files import writable
from fclip.processes import on_device

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = 1
FIRST = 50  # datapoints of the paper's figures 5 and 6
RECALL = (1, 5, 10)


@dataclass(frozen=True)
class Measured:
    """A model's answers on N pictures of a split with M unique captions."""

    labels: Labels
    own: Ints  # (N,) place of each picture's caption among the unique ones
    caption_codes: Ints  # (M, G)
    surfaced: Surfaced
    skipped: list[list[str]]
    first: dict[str, Any]
    book: Codebook = field(repr=False)


def evaluate_surfacing(
    model: Any,
    catalogue: Dataset,
    *,
    progress: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measures a model on a split; the layout is in the module's docstring.

    Args:
        model: as `fclip.checkpoint.load_checkpoint` returns it.
        catalogue: the split itself.
        progress: show a progress bar.
        bootstrap: resamples of the products for the intervals; 0 for none, as in every epoch of training.
        seed: of the resamples.
        batch_size: pictures embedded at once.

    Raises:
        UserError: no picture has a caption or can be read, or the embeddings are not finite.
    """
    return result_of(model, measure(model, catalogue, progress, batch_size), bootstrap, seed)


def run_surfacing(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    out: str | Path | None = None,
    baselines: bool = True,
    *,
    catalogue_format: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> dict[str, Any]:
    """Loads, measures, adds the baselines, writes the JSON; returns it.

    Args:
        checkpoint: a checkpoint's folder, or what else `fclip.pretrained.open_model` knows: "fashionclip".
        catalogue: one or several catalogues.
        split: train, val, test or all.
        out: the JSON file; written beside and renamed. None writes nothing.
        baselines: measure chance, the most frequent caption and pixels too.
        catalogue_format: of the catalogues, recognised when None.
        bootstrap, seed, batch_size, progress: as `evaluate_surfacing`.

    Raises:
        UserError: as `evaluate_surfacing`, or the checkpoint, catalogue, split or output is not usable.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.kinds import word_groups
    from fclip.catalogue.schema import select_split
    from fclip.pretrained import open_model

    paths = [str(catalogue)] if isinstance(catalogue, (str, Path)) else [str(path) for path in catalogue]
    target = None if out is None else writable(out)
    whole = open_catalogue(paths[0] if len(paths) == 1 else paths, format=catalogue_format)
    select_split(whole, split)  # a mistyped split is told before the model is loaded
    model = open_model(checkpoint, word_groups(whole))
    model.require_text()
    settings: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size, "progress": progress}
    result = surfacing_of(model, whole, split, baselines, **settings)
    options = {"bootstrap": bootstrap, "seed": seed, "batch-size": batch_size} | {
        "format": catalogue_format,
        "json": out,
    }
    result |= {"checkpoint": str(checkpoint), "catalogue": paths, "split": split}
    result["command"] = _command(checkpoint, paths, split, baselines, options)
    write_result(target, result)
    return result


def surfacing_of(
    model: Any,
    whole: Dataset,
    split: str,
    baselines: bool = True,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """As `run_surfacing`, of a model and a catalogue that are open already."""
    from fclip.catalogue.schema import select_split

    part = select_split(whole, split)
    measured = measure(on_device(model), part, progress, batch_size)
    result = result_of(model, measured, bootstrap, seed)
    train = whole.select([row for row, name in enumerate(whole["split"]) if name == "train"])
    if split not in ("train", "all"):
        result["products_in_train"] = len(set(train["item"]) & set(measured.labels.items))
    if baselines:
        examples = label(model.captions, train, measured.book)
        result["baselines"] = measure_baselines(measured, part, train, examples, split, bootstrap, seed)
    return result


def measure(model: Any, catalogue: Dataset, progress: bool = False, batch_size: int = 64) -> Measured:
    """Embeds the pictures and the unique captions of a split and looks for the nearest caption of each picture."""
    book: Codebook = {}
    labels = label(model.captions, catalogue, book)
    if not labels.ids:
        raise UserError(
            f"no caption for any of {len(catalogue)} pictures: the captions of model {model.name} name "
            f"{', '.join(labels.groups)}, the catalogue has {', '.join(catalogue.features['attributes'])}; "
            "evaluate on a catalogue with these attributes"
        )
    # The whole split, also what has no caption: other protocols want the same vectors, and find them kept.
    images = embed_images(model, catalogue, batch_size=batch_size, progress=progress)
    captioned = set(labels.ids)
    skipped = [[str(name), str(reason)] for name, reason in images.skipped if str(name) in captioned]
    labels = labels.take(np.flatnonzero(np.isin(labels.rows, images.rows)))
    if not labels.ids:
        raise UserError(f"none of {len(skipped)} pictures could be read; the first: {skipped[0][1]}")
    captions, own = candidates(labels.texts)
    texts = embed_texts(model, captions)
    keep = np.isin(images.rows, labels.rows)
    vectors = images.vectors if keep.all() else images.vectors[keep]
    try:
        return answer(labels, own, vectors, texts, skipped, book)
    except ValueError as error:
        raise UserError(f"model {model.name}: {error}") from None


def answer(
    labels: Labels, own: Ints, images: NDArray[Any], texts: NDArray[Any], skipped: list[list[str]], book: Codebook
) -> Measured:
    """Looks for the nearest caption of each picture.

    Args:
        labels: of N pictures, coded with `book`.
        own: (N,) each picture's caption.
        images: (N, D) unit vectors of the pictures.
        texts: (M, D) of the unique captions.
        skipped: pictures that could not be read.

    Raises:
        ValueError: the embeddings are not finite.
    """
    codes = reflected(own, labels.codes, len(texts))
    surfaced = surface(images, texts, own, labels.codes, codes)
    first = {"id": labels.ids[:FIRST], "image": _rounded(images[:FIRST]), "text": _rounded(texts[own[:FIRST]])}
    return Measured(labels, own, codes, surfaced, skipped, first, book)


def measure_baselines(
    measured: Measured, part: Dataset, train: Dataset, examples: Labels, split: str, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Scores of chance, the most frequent caption and pixels on the pictures that the model was measured on.

    Args:
        measured: the model's answers on `part`.
        train: the train pictures, maybe none; `examples` are their labels, coded with `measured.book`.
        split: that of `part`; where it holds the train pictures, pixels would find each picture itself.
    """
    labels, left_out = measured.labels, {}
    answers = {"chance": chance(labels.codes, measured.caption_codes)}
    source = examples if examples.ids else labels
    always = np.full(len(labels.ids), most_frequent(source))
    answers["most_frequent"] = answered_with(labels, source, always)
    if split in ("train", "all"):
        left_out["pixels"] = "the train pictures are among those evaluated: each would find itself"
    else:
        gallery, read = thumbnails(train, examples.rows)
        queries, asked = thumbnails(part, labels.rows)
        assert len(asked) == len(labels.ids), "the model read pictures that cannot be read"
        if not len(read):
            left_out["pixels"] = "there is no train split with captions and readable pictures to look in"
        else:
            answers["pixels"] = answered_with(labels, examples, read[nearest_pixels(queries, gallery)])
    results = {name: scores(_answers(labels, answer), bootstrap, seed) for name, answer in answers.items()}
    return results | {"left_out": left_out}


def _command(checkpoint: object, paths: list[str], split: str, baselines: bool, options: dict[str, Any]) -> str:
    pairs = [("checkpoint", checkpoint), *(("catalogue", path) for path in paths), ("split", split), *options.items()]
    pairs = [(name, value) for name, value in pairs if value is not None]
    words = [str(word) for name, value in pairs for word in (f"--{name}", value)]
    return shlex.join(["python", "-m", "eval", "surfacing", *words, *([] if baselines else ["--no-baselines"])])


def result_of(model: Any, measured: Measured, bootstrap: int, seed: int) -> dict[str, Any]:
    """The JSON, but for baselines."""
    labels, surfaced = measured.labels, measured.surfaced
    means = {"cosine": surfaced.cosine} | {f"recall_at_{k}": surfaced.rank <= k for k in RECALL}
    metrics = scores(_answers(labels, Prediction(surfaced.correct, surfaced.hits), means), bootstrap, seed)
    metrics |= {f"caption_hit_at_{k}": score(recall_at(surfaced.caption_rank, k)) for k in RECALL}
    return {
        "schema": SCHEMA,
        "protocol": "surfacing",
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "groups": list(labels.groups),
        "counts": _counts(measured),
        "skipped": measured.skipped,
        "bootstrap": {"resamples": bootstrap, "seed": seed, "level": LEVEL, "unit": "product"},
        "metrics": metrics,
        "captions_sha256": hashlib.sha256("\n".join(labels.texts).encode()).hexdigest(),
        "pictures": _pictures(labels, surfaced),
        "first": measured.first,
    }


def _counts(measured: Measured) -> dict[str, Any]:
    labels, stated = measured.labels, measured.caption_codes[measured.own]
    known = labels.codes != UNKNOWN
    return {
        "pictures": len(labels.ids),
        "products": len(set(labels.items)),
        "captions": len(measured.caption_codes),
        "ties": int(measured.surfaced.tied.sum()),
        "without_caption": labels.without,
        "unreadable": len(measured.skipped),
        # captions that stand for pictures with different values of a group: two values that the template writes alike
        "mixed_captions": len(np.unique(measured.own[((labels.codes != stated) & known).any(1)])),
        "known": dict(zip(labels.groups, known.sum(0).tolist(), strict=True)),
    }


def _pictures(labels: Labels, surfaced: Surfaced) -> dict[str, Any]:
    marks = np.where(labels.codes == UNKNOWN, "-", np.where(surfaced.hits, "1", "0"))
    return {
        "id": labels.ids,
        "item": labels.items,
        "cosine": _rounded(surfaced.cosine),
        "rank": surfaced.rank.tolist(),
        "attributes": {group: "".join(column) for group, column in zip(labels.groups, marks.T, strict=True)},
    }


def _answers(labels: Labels, said: Prediction, means: dict[str, NDArray[Any]] | None = None) -> Answers:
    known = labels.codes != UNKNOWN
    return Answers(labels.groups, labels.items, said.correct, said.hits, known, means or {})


def _rounded(values: NDArray[Any]) -> list[Any]:
    return np.asarray(values, np.float64).round(5).tolist()
