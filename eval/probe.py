"""What frozen embeddings hold: a linear probe and k-NN, trained on the train split, tested on another.

    python -m eval probe --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip

`linear`: multinomial logistic regression with an L2 penalty for each attribute group (`eval.linear_probe`; the minimum
is that of scikit-learn's LogisticRegression), on the unit embeddings, centred and scaled by one number, so that C means
the same for every model. C is the best of 1e-4 … 10 on a fifth of the train *products*, by top-1; of equally good ones
the smallest, that is the simplest; then all of train is fitted with it. A group of more than 1,000 values is left out.
`knn@k`: the k nearest train pictures by cosine, of those that know the group, each with one vote; equal votes: the
larger sum of cosines; top-3 only for k of 3 and more. A picture with several values of a group trains and votes for
each.

CLIP's linear probe (section 3.2) sweeps C on the validation split and does not normalise; DINO's k-NN weighs votes by
exp(cosine / .07); torchvision-style probes train by SGD with augmentation. Splits by picture instead of by product,
as in many notebooks, let a probe recognise the product.

A value that no train picture has cannot be predicted: it counts as wrong and is named (`unseen`). Scores are called
HEAD:ACCURACY, as "linear:top1", "knn@5:balanced:colour"; accuracies: `eval.attribute_groups`. Baselines as in
`eval.zero_shot`; pixels and colours are the nearest picture's values, so that `knn@1` is what they compare to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.attribute_groups import Group, accuracy_scores, class_recall, hits, read_groups, vocabulary
from eval.linear_probe import MOST_VALUES, linear_scores
from eval.metrics.search import top_k
from eval.metrics.vectors import unit_rows
from eval.protocol import errors_of, note, open_untuned, train_rows
from eval.settings import DEFAULTS, Settings
from eval.subject import embed_images, head, open_subject
from eval.zero_shot import baseline_answers, counts_of, known_groups, unseen
from fclip.errors import UserError
from fclip.processes import is_main

NEIGHBOURS = (1, 5, 20)
HELD_OUT = 5  # one in five train products chooses C
Floats = NDArray[np.floating[Any]]
Hits = dict[int, NDArray[np.float64]]


def run_probe(
    checkpoint: str | Path,
    catalogue: str | Path | Sequence[str | Path],
    split: str,
    settings: Settings = DEFAULTS,
    *,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures, writes the JSON, returns it.

    Args:
        checkpoint, catalogue, split: as `eval.subject.open_subject`; the split is the tested one.
        settings: their seed also draws the products that choose C.
        groups: attribute groups; none: all with two values or more.

    Raises:
        UserError: the input is not usable, the split is train, there is no train split, or fewer train pictures than
            neighbours.
    """
    target = settings.target
    if split in ("train", "all"):
        raise UserError(f"expected a split to test that is not trained on, got {split!r}; pass --split val or test")
    subject = open_subject(checkpoint, catalogue, split, settings.catalogue_format)
    reference, known = open_untuned(settings.untuned, subject), vocabulary(subject.whole, groups)
    known, too_many = _probed(known, groups)
    if not (rows := train_rows(subject)):
        raise UserError("a probe learns from the train split, and this catalogue has none; add one")
    learnt, tested = (
        embed_images(subject.model, p, **settings.embedding) for p in (subject.whole.select(rows), subject.pictures)
    )
    examples = subject.whole.select([rows[i] for i in learnt.rows])
    shown = subject.pictures.select([int(row) for row in tested.rows])
    train, asked = read_groups(examples, known), known_groups(shown, known, split)
    items, products = list(shown["item"][:]), list(examples["item"][:])
    answers, chosen = probe(subject.model.name, learnt.vectors, tested.vectors, train, asked, products, settings)
    result = head("probe", subject, counts_of(asked, items, len(tested.skipped)), *settings.resampling)
    result["counts"] |= {"train_pictures": len(examples), "train_unreadable": len(learnt.skipped)}
    result |= {"groups": list(asked), "skipped": [list(map(str, s)) for s in [*learnt.skipped, *tested.skipped]]}
    result |= {"chosen_c": chosen, "unseen": unseen(asked, train), "groups_left_out": too_many}
    result["products_in_train"] = len(set(items) & set(products))
    result["metrics"] = _named(answers, asked, items, settings.resampling)
    result["per_class"] = {name: class_recall(answers["linear"][name], group) for name, group in asked.items()}
    beside: dict[str, Any] = {}
    if settings.baselines:
        simple, left_out = baseline_answers(subject, shown, asked, read_groups(subject.whole.select(rows), known))
        heads = list(answers)
        named = {n: _named(dict.fromkeys(heads, of), asked, items, settings.resampling) for n, of in simple.items()}
        beside = {n: {key: s for key, s in of.items() if key in result["metrics"]} for n, of in named.items()}
        beside["left_out"] = left_out
    if reference is not None:
        theirs = [embed_images(reference, part, **settings.embedding).vectors for part in (examples, shown)]
        other, _ = probe(reference.name, theirs[0], theirs[1], train, asked, products, settings)
        beside["untuned"] = _named(other, asked, items, settings.resampling)
    result |= {"baselines": beside} if beside else {}
    note(result, subject, {"group": list(groups)} | settings.options, target)
    return result


def _probed(
    known: Mapping[str, tuple[str, ...]], wanted: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The groups that a probe can learn, and why others are left out."""
    reasons = {name: f"its {len(values)} values are more than {MOST_VALUES}" for name, values in known.items()
               if len(values) > MOST_VALUES}  # fmt: skip
    if reasons and (wanted or len(reasons) == len(known)):
        name, why = next(iter(reasons.items()))
        raise UserError(f"group {name!r} cannot be probed: {why}; name other groups with --group")
    return {name: values for name, values in known.items() if name not in reasons}, reasons


def probe(
    name: str,
    learnt: Floats,
    tested: Floats,
    train: Mapping[str, Group],
    asked: Mapping[str, Group],
    products: Sequence[str],
    settings: Settings = DEFAULTS,
) -> tuple[dict[str, dict[str, Hits]], dict[str, float]]:
    """Head → group → hits, and the C chosen for each group.

    Args:
        name: of the model, for messages.
        learnt, tested: embeddings (T, D) and (N, D).
        train, asked: their pairs.
        products: (T,) of the train pictures.

    Raises:
        UserError: embeddings that are not finite, or fewer than k neighbours.
    """
    from tqdm.auto import tqdm

    answers: dict[str, dict[str, Hits]] = {head: {} for head in ("linear", *(f"knn@{k}" for k in NEIGHBOURS))}
    chosen = {}
    with errors_of(name):
        known, new = (unit_rows(rows, "image").exact(slice(None)) for rows in (learnt, tested))
    held_out = _held_out(products, settings.seed)
    for group in tqdm(asked.values(), desc="probing", unit="group", disable=not (settings.progress and is_main())):
        pairs = train[group.name]
        scores, chosen[group.name] = linear_scores(known, new, pairs, held_out)
        answers["linear"][group.name] = hits(scores, group, 0.0)
        for k, votes in zip(NEIGHBOURS, neighbour_votes(known, new, pairs), strict=True):
            # One vote tells one class: what the three best of it are is no question.
            answers[f"knn@{k}"][group.name] = {at: found for at, found in hits(votes, group, 0.0).items() if at <= k}
    return answers, chosen


def neighbour_votes(learnt: Floats, tested: Floats, train: Group) -> Iterator[NDArray[np.float64]]:
    """For each of `NEIGHBOURS` votes (N, C), equal ones told apart by the sums of cosines.

    Raises:
        UserError: fewer train pictures know the group than there are neighbours.
    """
    rows = np.unique(train.row)
    if len(rows) < max(NEIGHBOURS):
        raise UserError(
            f"group {train.name!r} is known of {len(rows)} train pictures, fewer than k = {max(NEIGHBOURS)} "
            "neighbours; leave it out with --group, or train on more"
        )
    found = top_k(tested, learnt[rows], max(NEIGHBOURS))
    votes_of = np.zeros((len(rows), len(train.values)))
    votes_of[np.searchsorted(rows, train.row), train.code] = 1
    for k in NEIGHBOURS:
        votes = np.zeros((len(tested), len(train.values)))
        for item, cosine in zip(found.item[:, :k].T, found.cosine[:, :k].T, strict=True):
            # All cosines together stay below half a vote.
            votes += votes_of[item] * (1 + (cosine / (4 * max(NEIGHBOURS)))[:, None])
        yield votes


def _held_out(products: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """(T,) one in `HELD_OUT` products, at least one."""
    names, place = np.unique(np.asarray(products), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order < max(1, len(names) // HELD_OUT))[place]


def _named(
    answers: Mapping[str, Mapping[str, Hits]],
    asked: Mapping[str, Group],
    items: Sequence[str],
    resampling: tuple[int, int],
) -> dict[str, Any]:
    """Every head's scores, called HEAD:ACCURACY."""
    return {
        f"{head}:{name}": score
        for head, of in answers.items()
        for name, score in accuracy_scores(of, asked, items, *resampling).items()
    }
