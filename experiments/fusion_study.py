"""Which fusion of a photograph and words finds the changed product, and how much should the words weigh?

    python -m experiments.fusion_study --checkpoint runs/catalogue_cpu/best --catalogue '$FCLIP_DATA/catalogue'

A question is one photograph of a product and words for one attribute that should be another: a black women's watch
and "white". Relevant are the products that have all other attributes of the photograph's and this one. Every fusion of
`fclip.queries.fusion` answers at every weight of a grid, by the functions that the recommender answers with, over the
whole split, one picture for each product; the photograph's own product is no candidate. Each fusion's weight is chosen
by MAP@k on one half of the products and reported on the other, beside words alone and the photograph alone. Leaves
OUT/table.md, OUT/results.json and OUT/weights.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import numpy as np
import typer

from fclip.errors import UserError, run_program
from fclip.queries.defaults import TEXT_SHARE

if TYPE_CHECKING:
    from eval.subject import Subject
    from fclip.queries.fusion import Background

SHARES = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9)
ALONE = {"photograph alone": 0.0, "words alone": 1.0}
MINIMUM = 10  # questions below which no weight is chosen
Array = np.ndarray
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Gallery:
    """The pictures of a split that can be read.

    Attributes:
        vectors: unit (M, D).
        products: (M,) number of each picture's product, from 0.
        names: of the products.
        values: (M, G) of the groups; "" where unknown.
    """

    vectors: Array
    products: Array
    names: Sequence[str]
    values: Array


@dataclass(frozen=True)
class Questions:
    """Q photographs with a changed attribute.

    Attributes:
        photo: (Q,) the picture.
        group, value: (Q,) what changes, and to what.
        relevant: (Q, M).
        words: value of (group, value) → its unit vector.
    """

    photo: Array
    group: Array
    value: Array
    relevant: Array


@dataclass(frozen=True)
class Answered:
    """Hits and average precisions (Q,) of all questions for one fusion and weight."""

    hit: Array
    ap: Array


Results = dict[str, dict[float, Answered]]  # fusion → share of words → answers


@app.command()
def study(
    checkpoint: Annotated[str, typer.Option(metavar="FOLDER", help="A checkpoint, or a name of `fclip models`.")],
    catalogue: Annotated[list[str], typer.Option(metavar="PATH", help="May be repeated.")],
    split: Annotated[str, typer.Option(help="What is asked about and answers.")] = "val",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For table, numbers and picture.")] = Path("runs/fusion"),
    groups: Annotated[
        str, typer.Option(help="Attributes, with commas: each is changed in turn while the others stay.")
    ] = "gender,articleType,baseColour",
    k: Annotated[int, typer.Option(min=1, help="Answers that are looked at.")] = 10,
    questions: Annotated[int, typer.Option(help="The most for each attribute.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the choice of questions and of the bootstrap.")] = 0,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap over products.")] = 1000,
) -> None:
    """Ask with a photograph and a changed attribute, by every fusion and weight, and compare.

    \b
    python -m experiments.fusion_study --checkpoint runs/demo/best --catalogue runs/demo/catalogue \\
        --groups category,colour,pattern --split all
    """
    from eval.subject import open_subject
    from experiments.fusion_study_report import write_report
    from fclip.catalogue.schema import check_groups
    from fclip.machine import tune_cpu
    from fclip.queries.fusion import Background

    tune_cpu()
    subject = open_subject(checkpoint, catalogue, split)
    changed = groups.split(",")
    check_groups(subject.whole, changed)
    gallery = open_gallery(subject, changed)
    asked = make_questions(gallery, changed, questions, seed)
    background = Background(gallery.vectors.mean(0), gallery.vectors)
    results = answer_all(gallery, asked, embed_words(subject, asked), background, k)
    settings = {"checkpoint": checkpoint, "split": split, "groups": groups, "k": k, "seed": seed}
    write_report(out, results, asked, gallery, settings, resamples, seed)
    print((out / "table.md").read_text())


def open_gallery(subject: Subject, groups: Sequence[str]) -> Gallery:
    """Embeds the split."""
    from eval.encoding import embed_images

    embedded = embed_images(subject.model, subject.pictures)
    pictures = subject.pictures.select(embedded.rows)
    names, products = np.unique(pictures["item"][:], return_inverse=True)
    values = [[str(known.get(group) or "") for group in groups] for known in pictures["attributes"][:]]
    return Gallery(embedded.vectors, products, names.tolist(), np.array(values))


def make_questions(gallery: Gallery, groups: Sequence[str], limit: int, seed: int) -> Questions:
    """For every product one photograph, and for every group another value that a product alike otherwise has.

    Raises:
        UserError: too few such products to choose a weight.
    """
    rng, found = np.random.default_rng(seed), []
    photos = np.unique(gallery.products[order := rng.permutation(len(gallery.products))], return_index=True)[1]
    for place, group in enumerate(groups):
        of_group = [
            (photo, group, str(rng.choice(values)))
            for photo in rng.permutation(order[photos])
            if len(values := sorted({*gallery.values[_alike(gallery, photo, place), place]} - {""}))
        ]
        found += [(photo, place, group, value) for photo, group, value in of_group[:limit]]
    if len(found) < MINIMUM:
        raise UserError(
            f"expected products that differ in one of {', '.join(groups)} alone, found {len(found)} questions; "
            "name other --groups or a larger --split"
        )
    relevant = [_alike(gallery, photo, place) & (gallery.values[:, place] == v) for photo, place, _, v in found]
    photo, _, group, value = zip(*found, strict=True)
    return Questions(np.array(photo), np.array(group), np.array(value), np.array(relevant))


def _alike(gallery: Gallery, photo: int, place: int) -> Array:
    """(M,) pictures of other products that have all attributes of this one but the one at `place`."""
    own = gallery.values[photo]
    if "" in own:
        return np.zeros(len(gallery.products), bool)
    others = np.arange(len(own)) != place
    same = (gallery.values[:, others] == own[others]).all(1) & (gallery.values[:, place] != own[place])
    return same & (gallery.products != gallery.products[photo])


def embed_words(subject: Subject, asked: Questions) -> Array:
    """(Q, D) the caption that states the changed attribute alone, or the bare value where none does."""
    from eval.encoding import embed_texts

    captions = subject.model.captions
    words = [
        captions.render({group: value}) or value.lower() for group, value in zip(asked.group, asked.value, strict=True)
    ]
    distinct, place = np.unique(words, return_inverse=True)
    return embed_texts(subject.model, distinct.tolist())[place]


def answer_all(gallery: Gallery, asked: Questions, words: Array, background: Background, k: int) -> Results:
    """Every fusion at every weight, and each part alone."""
    from tqdm.auto import tqdm

    results: Results = {name: {} for name in (*TEXT_SHARE, *ALONE)}
    runs = [(name, share) for name in TEXT_SHARE for share in SHARES]
    runs += ALONE.items()
    for name, share in tqdm(runs, desc="fusions", disable=None):
        fusion = name if name in TEXT_SHARE else "mean"
        results[name][share] = answer(gallery, asked, words, background, fusion, share, k)
    return results


def answer(
    gallery: Gallery, asked: Questions, words: Array, background: Background, fusion: str, share: float, k: int
) -> Answered:
    """All questions by one fusion, words having this share."""
    from eval.metrics.ranking import ranking_of_flags
    from eval.metrics.retrieval import average_precision, hit_at
    from fclip.queries.fusion import Parts, fuse

    flags, weights = [], {"text": share, "image": 1 - share, "item": 0.0}
    for photo, text, relevant in zip(asked.photo, words, asked.relevant, strict=True):
        parts = Parts(np.stack([text, gallery.vectors[photo]]), ("text", "image"), weights)
        scores = fuse(fusion, parts, gallery.vectors, background).scores
        shown = best_pictures(scores, gallery.products, gallery.products[photo])
        flags.append(relevant[shown[:k]])
    total = [len(np.unique(gallery.products[relevant])) for relevant in asked.relevant]
    ranking = ranking_of_flags(np.array(flags), np.array(total), len(gallery.names) - 1)
    return Answered(hit_at(ranking, k), average_precision(ranking, k))


def best_pictures(scores: Array, products: Array, hidden: int) -> Array:
    """The best picture of every product but the hidden one, the best product first."""
    order = np.argsort(-scores, kind="stable")
    order = order[products[order] != hidden]
    return order[np.sort(np.unique(products[order], return_index=True)[1])]


def tuning_half(gallery: Gallery, asked: Questions) -> Array:
    """(Q,) whether a question's product belongs to the half that weights are chosen on: by its name, for good."""
    half = np.array([crc32(str(name).encode()) % 2 == 0 for name in gallery.names])
    return half[gallery.products[asked.photo]]


def chosen_shares(results: Results, tuning: Array) -> Mapping[str, float]:
    """Fusion → the share of words with the best mean average precision on these questions."""
    return {name: max(by, key=lambda share: by[share].ap[tuning].mean()) for name, by in results.items()}


def main(argv: Sequence[str] | None = None) -> Any:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.fusion_study")


if __name__ == "__main__":
    main()
